//! Decides whether a request is run. Pure: the request, the time and the history in, the decision out.

use jiff::{SignedDuration, Timestamp};

use super::connection::PublishPermissions;
use super::history::RequestHistory;
use crate::protocol::request::BadRequest;
use crate::protocol::{
    AnswerScope, BusyWith, ErrorCode, HostName, ReplySubject, Request, RequestId, Response, Status, Tier,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// The request is known: answer with its state, on the reply subject that was given this time.
    Answer {
        reply_to: ReplySubject,
        state: Response,
    },
    /// The request is refused: answer with the rejection, and remember it.
    Reject {
        reply_to: ReplySubject,
        state: Response,
    },
    /// The run is going, and the operator confirms that it heard from the host: record that, and answer with the state.
    Confirm {
        reply_to: ReplySubject,
        state: Response,
    },
    Accept(Request),
    /// There is no reply subject that may be used; the reason is for the log.
    Drop(String),
}

/// Determines the reply subject of a request. A request that this host must not or cannot answer is not run either: no
/// operator would hear how it ended, and a reply subject of another host is an attack.
pub(super) fn addressed(
    request: Result<Request, BadRequest>,
    (tier, host): (Tier, &HostName),
    permissions: PublishPermissions,
    history: &RequestHistory,
) -> Result<Request, BadRequest> {
    let request = request.map(|request| request.answered_by(tier, host)).map_err(|bad| bad.answered_by(tier, host));
    let (Ok(Request { reply_to, id, .. }) | Err(BadRequest::Rejected { reply_to, id, .. })) = &request else {
        return request;
    };
    let scope = reply_to.scope(tier, host);
    let key = id.as_ref().map_or(reply_to.as_str(), RequestId::as_str);
    // A rollout may update the listener in the middle of its own run, and then confirm it on the old form of subject.
    let why = if scope == AnswerScope::Foreign || (scope == AnswerScope::Outdated && !history.answers(key, reply_to)) {
        format!("this host may not answer on {reply_to}")
    } else if permissions.allow(scope) {
        return request;
    } else if scope == AnswerScope::Own {
        format!("the server does not let this host answer on {reply_to}")
    } else {
        format!(
            "permissions are strict, and this deployer is older: the server does not let hosts answer on {reply_to}"
        )
    };
    Err(BadRequest::Unanswerable(why))
}

/// Decides about a request. A known key comes first, so that nothing is run or judged twice; then expiry; and last
/// whether the host is busy, which is the only answer that may change later. `elsewhere` returns what keeps the host
/// busy other than a request, and is called only when that matters.
pub(super) fn decide(
    request: Result<Request, BadRequest>,
    now: Timestamp,
    history: &RequestHistory,
    elsewhere: impl FnOnce() -> Option<BusyWith>,
) -> Decision {
    let (reply_to, id) = match &request {
        Ok(Request { reply_to, id, .. }) | Err(BadRequest::Rejected { reply_to, id, .. }) => {
            (reply_to.clone(), id.clone())
        }
        Err(BadRequest::Unanswerable(why)) => return Decision::Drop(why.clone()),
    };
    let key = id.as_ref().map_or(reply_to.as_str(), RequestId::as_str);
    if let Some(state) = history.state(key, now) {
        let confirms = request.is_ok_and(|request| request.confirmed) && state.status == Status::Started;
        return if confirms { Decision::Confirm { reply_to, state } } else { Decision::Answer { reply_to, state } };
    }
    let (error, why, holder) = match request {
        Ok(request) => match objection(&request, now, history, elsewhere) {
            Some(objection) => objection,
            None => return Decision::Accept(request),
        },
        Err(BadRequest::Rejected { error, message, .. }) => (error, message, None),
        Err(BadRequest::Unanswerable(why)) => return Decision::Drop(why),
    };
    let holder = holder.map(Box::new);
    Decision::Reject { reply_to, state: Response { holder, ..history.rejection(id, error, &why, now) } }
}

/// Returns the reason against running a request whose key is unknown.
fn objection(
    request: &Request,
    now: Timestamp,
    history: &RequestHistory,
    elsewhere: impl FnOnce() -> Option<BusyWith>,
) -> Option<(ErrorCode, String, Option<BusyWith>)> {
    if request.confirmed {
        let message = format!("{} is unknown here, so there is nothing to confirm", request.key());
        return Some((ErrorCode::InvalidRequest, message, None));
    }
    if let Some(expired) = request.expires_at.filter(|&at| at < now) {
        let ago = SignedDuration::from_secs(now.duration_since(expired).as_secs());
        let message = format!(
            "the request expired {ago:#} ago (host clock: {now:.0}): it was delayed, or one of the two clocks is wrong"
        );
        return Some((ErrorCode::Expired, message, None));
    }
    if let Some(holder) = history.holder().or_else(elsewhere) {
        let by = holder.operator.as_deref().map(|operator| format!(" of {operator}"));
        let message = format!("busy with {}{} since {:.0}", holder.id, by.unwrap_or_default(), holder.since);
        return Some((ErrorCode::AlreadyRunning, message, Some(holder)));
    }
    let why = history.returnable(request.returns.as_ref()?.as_str()).err()?;
    Some((ErrorCode::InvalidRequest, why, None))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::listener::run::RunSpec;
    use crate::listener::run::tests::spec;
    use crate::listener::service::connection::Grant;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_795_000_000 + second).unwrap()
    }

    fn ask(json: &str, now: i64, history: &RequestHistory) -> Decision {
        decide(Request::parse(json.as_bytes()), at(now), history, || None)
    }

    fn request(id: &str, expires: i64) -> String {
        let expires = at(expires);
        format!(
            r#"{{"action":"switch","revision":"main","reply_to":"deploy.responses.{id}","id":"{id}","expires_at":"{expires}"}}"#
        )
    }

    fn accepted(request: &Request) -> RunSpec {
        RunSpec { reply_to: request.reply_to.clone(), ..spec(request.key()) }
    }

    fn said(decision: &Decision) -> String {
        match decision {
            Decision::Answer { reply_to, state } => format!("to {reply_to}: {}", state.status),
            Decision::Reject { state, .. } => format!("{}: {}", state.error.as_ref().unwrap(), state.message),
            Decision::Accept(request) => format!("accept {}", request.key()),
            Decision::Confirm { reply_to, state } => format!("confirm, to {reply_to}: {}", state.status),
            Decision::Drop(why) => format!("drop: {why}"),
        }
    }

    #[test]
    fn a_transcript() {
        let mut history = RequestHistory::new("ns1".parse().unwrap());
        insta::assert_snapshot!(said(&ask(&request("a", 10), 5, &history)), @"accept a");
        history.accepted(spec("a"));
        insta::assert_snapshot!(said(&ask(&request("a", 10), 6, &history)), @"to deploy.responses.a: accepted");
        history.started();
        insta::assert_snapshot!(said(&ask(&request("a", 10), 60, &history)), @"to deploy.responses.a: started");
        insta::assert_snapshot!(said(&ask(&request("b", 70), 60, &history)), @"already_running: busy with a of ops@desk since 2026-11-23T10:00:00Z");
        insta::assert_snapshot!(said(&ask(&request("b", 50), 60, &history)), @"expired: the request expired 10s ago (host clock: 2026-11-18T11:07:40Z): it was delayed, or one of the two clocks is wrong");
        insta::assert_snapshot!(said(&ask(r#"{"reply_to":"deploy.responses.z","action":"reboot","revision":"main"}"#, 60, &history)), @r#"invalid_action: "reboot" is not an action: the actions are switch, boot, test and dry-activate"#);
        insta::assert_snapshot!(said(&ask(r#"{"reply_to":"deploy.responses.z","action":"reboot","id":"a"}"#, 60, &history)), @"to deploy.responses.z: started");
        insta::assert_snapshot!(said(&ask(r#"{"reply_to":"deploy.prod.all","action":"switch","revision":"main"}"#, 60, &history)), @r#"drop: reply_to is refused: "deploy.prod.all" is not a reply subject: it is not below deploy.responses."#);
    }

    /// Returns the subject of the answer to a request with this reply subject, or why it is dropped.
    fn answered_on(reply_to: &str, fields: &str, permissions: PublishPermissions, history: &RequestHistory) -> String {
        let json =
            format!(r#"{{"action":"switch","revision":"main","reply_to":"deploy.responses.{reply_to}"{fields}}}"#);
        let ns1 = "ns1".parse().unwrap();
        match addressed(Request::parse(json.as_bytes()), (Tier::Prod, &ns1), permissions, history) {
            Ok(Request { reply_to, .. }) => reply_to.to_string(),
            Err(BadRequest::Rejected { reply_to, error, .. }) => format!("{reply_to}: {error}"),
            Err(BadRequest::Unanswerable(why)) => why,
        }
    }

    #[test]
    fn only_what_this_host_may_answer_is_looked_at() {
        let mut history = RequestHistory::new("ns1".parse().unwrap());
        let free = |reply_to: &str, fields: &str, history: &RequestHistory| {
            answered_on(reply_to, fields, PublishPermissions::UNKNOWN, history)
        };
        insta::assert_snapshot!(free("prod.ns1.a.b", "", &history), @"deploy.responses.prod.ns1.a.b");
        insta::assert_snapshot!(free("a", "", &history), @"deploy.responses.a");
        let shared = r#","id":"r-1","per_host":true"#;
        insta::assert_snapshot!(free("a", shared, &history), @"deploy.responses.prod.ns1.a.r-1");
        let bad = r#","id":"r-1","per_host":true,"expires_at":"soon""#;
        insta::assert_snapshot!(free("a", bad, &history), @"deploy.responses.prod.ns1.a.r-1: invalid_request");
        for foreign in ["prod.ns2.a.b", "test.ns1.a.b", "prod.ns1", "prod.ns10.a"] {
            let why = format!("this host may not answer on deploy.responses.{foreign}");
            assert_eq!(free(foreign, "", &history), why);
            assert_eq!(free(foreign, shared, &history), why);
        }

        // An older listener accepted a run; later requests ask about it.
        let outdated = "deploy.responses.4f.r-1".parse().unwrap();
        insta::assert_snapshot!(free("4f.r-1", r#","id":"r-1""#, &history), @"this host may not answer on deploy.responses.4f.r-1");
        history.accepted(RunSpec { reply_to: outdated, ..spec("r-1") });
        insta::assert_snapshot!(free("4f.r-1", r#","id":"r-1""#, &history), @"deploy.responses.4f.r-1");
        insta::assert_snapshot!(free("4f.r-1", r#","id":"r-2""#, &history), @"this host may not answer on deploy.responses.4f.r-1");
        insta::assert_snapshot!(free("4f.r-2", r#","id":"r-1""#, &history), @"this host may not answer on deploy.responses.4f.r-2");
    }

    #[test]
    fn what_could_not_be_answered_is_not_run() {
        let history = RequestHistory::new("ns1".parse().unwrap());
        let strict = PublishPermissions { own: Grant::Given, shared: Grant::Refused, others: Grant::Refused };
        insta::assert_snapshot!(answered_on("prod.ns1.a.b", "", strict, &history), @"deploy.responses.prod.ns1.a.b");
        insta::assert_snapshot!(answered_on("a", "", strict, &history), @"permissions are strict, and this deployer is older: the server does not let hosts answer on deploy.responses.a");
        insta::assert_snapshot!(answered_on("a", r#","expires_at":"soon""#, strict, &history), @"permissions are strict, and this deployer is older: the server does not let hosts answer on deploy.responses.a");
        let other = PublishPermissions { own: Grant::Refused, ..PublishPermissions::UNKNOWN };
        insta::assert_snapshot!(answered_on("prod.ns1.a.b", "", other, &history), @"the server does not let this host answer on deploy.responses.prod.ns1.a.b");
    }

    fn with(request: &str, fields: &str) -> String {
        request.replacen('{', &format!("{{{fields},"), 1)
    }

    #[test]
    fn a_confirmation_confirms_and_never_runs_anything() {
        let mut history = RequestHistory::new("ns1".parse().unwrap());
        let confirmation = |id: &str| with(&request(id, 10), r#""confirmed":true"#);
        insta::assert_snapshot!(said(&ask(&confirmation("a"), 5, &history)), @"invalid_request: a is unknown here, so there is nothing to confirm");
        history.accepted(spec("a"));
        insta::assert_snapshot!(said(&ask(&confirmation("a"), 5, &history)), @"to deploy.responses.a: accepted");
        history.started();
        // Even if late: the host decides how long it waits.
        insta::assert_snapshot!(said(&ask(&confirmation("a"), 500, &history)), @"confirm, to deploy.responses.a: started");
        insta::assert_snapshot!(said(&ask(&confirmation("b"), 5, &history)), @"invalid_request: b is unknown here, so there is nothing to confirm");
        history.ended(spec("a"), Response::new("ns1".parse().unwrap(), Status::Completed, ""));
        insta::assert_snapshot!(said(&ask(&confirmation("a"), 5, &history)), @"to deploy.responses.a: completed");
    }

    #[test]
    fn a_host_returns_from_its_last_run_only() {
        let mut history = RequestHistory::new("ns1".parse().unwrap());
        let end = |status| Response::new("ns1".parse().unwrap(), status, "");
        let failed = |error| Response { error: Some(error), ..end(Status::Failed) };
        let back = |from: &str| with(&request("back", 10), &format!(r#""returns":"{from}""#));
        insta::assert_snapshot!(said(&ask(&back("a"), 5, &history)), @"invalid_request: cannot roll back: this host does not know a");
        history.accepted(spec("a"));
        insta::assert_snapshot!(said(&ask(&back("a"), 5, &history)), @"already_running: busy with a of ops@desk since 2026-11-23T10:00:00Z");
        history.ended(spec("a"), end(Status::Completed));
        insta::assert_snapshot!(said(&ask(&back("a"), 5, &history)), @"accept back");
        // Runs that changed nothing are not in the way.
        history.ended(RunSpec { action: crate::protocol::Action::DryActivate, ..spec("dry") }, end(Status::Completed));
        history.ended(spec("unbuilt"), failed(ErrorCode::BuildFailed));
        let returned = Response { rolled_back: Some(true), ..failed(ErrorCode::NotConfirmed) };
        history.ended(spec("returned"), returned);
        insta::assert_snapshot!(said(&ask(&back("a"), 5, &history)), @"accept back");
        insta::assert_snapshot!(said(&ask(&back("dry"), 5, &history)), @"invalid_request: cannot roll back: dry is not the last run of this host: that was a");
        history.ended(spec("b"), failed(ErrorCode::ActivationFailed));
        insta::assert_snapshot!(said(&ask(&back("a"), 5, &history)), @"invalid_request: cannot roll back: a is not the last run of this host: that was b");
        insta::assert_snapshot!(said(&ask(&back("b"), 5, &history)), @"invalid_request: cannot roll back: b did not complete");
    }

    #[test]
    fn a_host_that_somebody_else_is_at_takes_nothing_but_knows_what_it_did() {
        let by_hand = || Some(BusyWith { id: "nixos-rebuild".to_owned(), operator: None, since: at(3) });
        let mut history = RequestHistory::new("ns1".parse().unwrap());
        history.ended(spec("a"), Response::new("ns1".parse().unwrap(), Status::Completed, ""));
        let ask = |id| decide(Request::parse(request(id, 10).as_bytes()), at(5), &history, by_hand);
        insta::assert_snapshot!(said(&ask("b")), @"already_running: busy with nixos-rebuild since 2026-11-18T11:06:43Z");
        insta::assert_snapshot!(said(&ask("a")), @"to deploy.responses.a: completed");
        let known = Request::parse(request("a", 10).as_bytes());
        decide(known, at(5), &history, || panic!("what the host is at does not matter for a known request"));
    }

    #[test]
    fn a_sender_without_ids_is_known_by_its_reply_subject() {
        let bare = r#"{"action":"switch","revision":"main","reply_to":"deploy.responses.x"}"#;
        let mut history = RequestHistory::new("ns1".parse().unwrap());
        let Decision::Accept(request) = ask(bare, 0, &history) else { panic!("not accepted") };
        history.accepted(accepted(&request));
        assert!(matches!(ask(bare, 1, &history), Decision::Answer { .. }));
    }

    #[test]
    fn a_rejected_request_stays_rejected_when_the_host_is_free_again() {
        let mut history = RequestHistory::new("ns1".parse().unwrap());
        history.accepted(spec("a"));
        let Decision::Reject { state, .. } = ask(&request("b", 70), 60, &history) else { panic!("not rejected") };
        history.rejected("b".to_owned(), state);
        history.ended(spec("a"), Response::new("ns1".parse().unwrap(), Status::Completed, ""));
        insta::assert_snapshot!(said(&ask(&request("b", 70), 61, &history)), @"to deploy.responses.b: rejected");
        insta::assert_snapshot!(said(&ask(&request("c", 70), 61, &history)), @"accept c");
    }

    proptest! {
        /// Requests of few keys, some too old, at a host whose runs sometimes end.
        #[test]
        fn no_key_runs_twice_nor_two_at_once_nor_too_late(
            steps in prop::collection::vec((0..6u8, -5..20i64, prop::bool::weighted(0.3)), 0..60),
        ) {
            let mut history = RequestHistory::new("ns1".parse().unwrap());
            let mut ran = Vec::new();
            for (now, (key, lifetime, ends)) in (0..).zip(steps) {
                let running = history.holder().map(|holder| holder.id);
                if let Some(key) = running.filter(|_| ends) {
                    history.ended(spec(&key), Response::new("ns1".parse().unwrap(), Status::Completed, ""));
                }
                let id = format!("k{key}");
                match ask(&request(&id, now + lifetime), now, &history) {
                    Decision::Accept(request) => {
                        prop_assert!(history.holder().is_none(), "two at once");
                        prop_assert!(!ran.contains(&id), "twice");
                        prop_assert!(lifetime >= 0, "too late");
                        ran.push(id);
                        history.accepted(accepted(&request));
                    }
                    Decision::Reject { state, .. } => {
                        prop_assert!(!ran.contains(&id), "known");
                        history.rejected(id, state);
                    }
                    Decision::Confirm { .. } => prop_assert!(false, "nothing was confirmed"),
                    Decision::Answer { state, .. } => prop_assert!(ran.contains(&id) || state.status == Status::Rejected),
                    Decision::Drop(why) => prop_assert!(false, "{why}"),
                }
            }
        }
    }
}
