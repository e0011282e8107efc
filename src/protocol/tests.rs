//! Tests of every message: golden JSON, the original bare forms, and hostile texts.

mod hostile;

use jiff::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

use super::request::BadRequest;
use super::response::MAX_LOG_TAIL_BYTES;
use super::*;

pub(in crate::protocol) const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";

const SYSTEM: &str = "/nix/store/0c1yv9bqqmbw3c3n5g7lq6b4rd5hfk2z-nixos-system-ns1";

pub(in crate::protocol) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(in crate::protocol) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn full_request() -> Request {
    Request {
        id: Some("r-1".parse().unwrap()),
        expires_at: Some(at("2026-11-23T10:00:00Z")),
        operator: Some("ops@desk".to_owned()),
        rollout: Some("sunday".to_owned()),
        wave: Some("dns".to_owned()),
        confirm_timeout_s: Some(60),
        confirmed: true,
        returns: Some("r-0".parse().unwrap()),
        per_host: true,
        system: Some(SYSTEM.parse().unwrap()),
        ..Request::new(Action::DryActivate, "main".parse().unwrap(), "deploy.responses.4f.1".parse().unwrap())
    }
}

fn full_response() -> Response {
    Response {
        error: Some(ErrorCode::ActivationFailed),
        id: Some("r-1".parse().unwrap()),
        instance: Some(Uuid::nil()),
        at: Some(at("2026-11-23T10:00:00Z")),
        phase: Some(Phase::Activate),
        revision: Some(COMMIT.parse().unwrap()),
        previous_revision: Some(COMMIT.parse().unwrap()),
        generation: Some(42),
        system: Some("/nix/store/x-nixos".to_owned()),
        reboot_required: Some(false),
        rolled_back: Some(true),
        failed_units: vec!["unbound.service".to_owned()],
        log_tail: vec!["starting unbound".to_owned(), "failed".to_owned()],
        holder: Some(Box::new(BusyWith {
            id: "r-0".to_owned(),
            operator: Some("ops@desk".to_owned()),
            since: at("2026-11-23T09:00:00Z"),
        })),
        ..Response::new("ns1".parse().unwrap(), Status::Failed, "unbound.service failed")
    }
}

#[test]
fn golden_request() {
    insta::assert_snapshot!(text(&full_request().to_bytes()), @r#"{"action":"dry-activate","revision":"main","reply_to":"deploy.responses.4f.1","id":"r-1","expires_at":"2026-11-23T10:00:00Z","operator":"ops@desk","rollout":"sunday","wave":"dns","confirm_timeout_s":60,"confirmed":true,"returns":"r-0","per_host":true,"system":"/nix/store/0c1yv9bqqmbw3c3n5g7lq6b4rd5hfk2z-nixos-system-ns1"}"#);
    assert_eq!(Request::parse(&full_request().to_bytes()), Ok(full_request()));
}

#[test]
fn a_request_to_fetch_a_system_survives_the_wire() {
    let request = Request { action: Action::Fetch, ..full_request() };
    assert_eq!(Request::parse(&request.to_bytes()), Ok(request));
    let refused = "fetch".parse::<Action>().unwrap_err().to_string();
    assert!(refused.contains("is not an action"), "no plan and no flag asks for it: {refused}");
}

#[test]
fn golden_bare_request_of_the_predecessor() {
    let bare = br#"{"action":"switch","revision":"main","reply_to":"deploy.responses.abc123"}"#;
    let request = Request::parse(bare).unwrap();
    assert_eq!(request.key(), "deploy.responses.abc123");
    assert_eq!(request.to_bytes(), bare);
}

#[test]
fn golden_response() {
    insta::assert_snapshot!(text(&full_response().to_bytes(1 << 20)), @r#"{"hostname":"ns1","status":"failed","error":"activation_failed","message":"unbound.service failed","id":"r-1","instance":"00000000-0000-0000-0000-000000000000","at":"2026-11-23T10:00:00Z","phase":"activate","revision":"8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b","previous_revision":"8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b","generation":42,"system":"/nix/store/x-nixos","reboot_required":false,"rolled_back":true,"failed_units":["unbound.service"],"log_tail":["starting unbound","failed"],"holder":{"id":"r-0","operator":"ops@desk","since":"2026-11-23T09:00:00Z"}}"#);
    assert_eq!(Response::parse(&full_response().to_bytes(1 << 20)).unwrap(), full_response());
}

#[test]
fn golden_bare_response_of_the_predecessor() {
    let bare = br#"{"hostname":"myhost","status":"completed","error":null,"message":"Successfully switched to generation 42"}"#;
    let response = Response::parse(bare).unwrap();
    assert_eq!(response.status, Status::Completed);
    assert_eq!(response.to_bytes(1 << 20), bare);
}

#[test]
fn responses_are_read_tolerantly() {
    let read = |json: &str| Response::parse(json.as_bytes());
    let response = read(r#"{"hostname":"a","status":"failed","error":"quota","message":null,"colour":"red"}"#).unwrap();
    assert_eq!(response.error, Some(ErrorCode::Other("quota".to_owned())));
    assert_eq!(read(r#"{"hostname":"a","status":"started","error":""}"#).unwrap().error, None);
    let empty =
        read(r#"{"hostname":"a","status":"failed","failed_units":null,"log_tail":null,"generation":4,"id":""}"#)
            .unwrap();
    assert_eq!((empty.failed_units, empty.log_tail, empty.generation, empty.id), (vec![], vec![], Some(4), None));
    for later in [r#""phase":"sign""#, r#""generation":"42""#, r#""holder":{}"#, r#""at":0,"revision":"8c1f""#] {
        let response =
            read(&format!(r#"{{"hostname":"a","status":"failed","error":"quota","id":"r-1",{later}}}"#)).unwrap();
        assert_eq!((response.status, response.id.unwrap().as_str()), (Status::Failed, "r-1"), "{later}");
        assert_eq!((response.error.unwrap().as_str(), response.generation), ("quota", None), "{later}");
    }
    let waits = r#"{"hostname":"a","status":"started","phase":"confirm","failed_units":7}"#;
    assert_eq!(read(waits).unwrap().phase, Some(Phase::Confirm), "unconfirmed, it would roll back");
    for lost in [r#""id":"a b""#, r#""instance":"first""#, r#""rolled_back":"no""#, r#""error":7"#] {
        assert!(read(&format!(r#"{{"hostname":"a","status":"completed",{lost}}}"#)).is_err(), "{lost}");
    }
    assert!(read(r#"{"hostname":"a","status":"pondering"}"#).is_err(), "the set of statuses never grows");
    assert!(read(r#"{"hostname":"a.b","status":"started"}"#).is_err());
}

fn refusal(json: &str) -> String {
    match Request::parse(json.as_bytes()).unwrap_err() {
        BadRequest::Unanswerable(why) => format!("dropped: {why}"),
        BadRequest::Rejected { error, message, .. } => format!("{error}: {message}"),
    }
}

#[test]
fn bad_requests_are_rejected_or_dropped() {
    insta::assert_snapshot!(refusal("{"), @"dropped: the request is not a JSON object: EOF while parsing an object at line 1 column 1");
    insta::assert_snapshot!(refusal(r#"{"action":"switch","revision":"main"}"#), @"dropped: the request has no reply_to");
    insta::assert_snapshot!(refusal(r#"{"reply_to":"deploy.prod.all"}"#), @r#"dropped: reply_to is refused: "deploy.prod.all" is not a reply subject: it is not below deploy.responses."#);
    insta::assert_snapshot!(refusal(r#"{"reply_to":"deploy.responses.>"}"#), @r#"dropped: reply_to is refused: "deploy.responses.>" is not a concrete subject: it contains '>': give one without wildcards or white space"#);
    insta::assert_snapshot!(refusal(r#"{"reply_to":"deploy.responses.a","revision":"main","action":"reboot"}"#), @r#"invalid_action: "reboot" is not an action: the actions are switch, boot, test and dry-activate"#);
    insta::assert_snapshot!(refusal(r#"{"reply_to":"deploy.responses.a","revision":"-x","action":"switch"}"#), @r#"invalid_revision: "-x" is not a revision: it does not begin with a letter or digit"#);
    insta::assert_snapshot!(refusal(r#"{"reply_to":"deploy.responses.a","action":"switch"}"#), @r#"invalid_revision: "" is not a revision: it does not begin with a letter or digit"#);
    insta::assert_snapshot!(refusal(r#"{"reply_to":"deploy.responses.a","revision":"main","action":"switch","id":"a b"}"#), @r#"invalid_request: "a b" is not an id: one has 1 to 128 visible ASCII characters"#);
    insta::assert_snapshot!(refusal(r#"{"reply_to":"deploy.responses.a","revision":"main","action":"switch","expires_at":"soon"}"#), @"invalid_request: expires_at is not a time like 2026-11-23T10:00:00Z");
    insta::assert_snapshot!(refusal(r#"{"reply_to":"deploy.responses.a","revision":"main","action":"switch","system":"/etc"}"#), @r#"invalid_request: system: "/etc" is not the store path of a system: one begins with /nix/store/, 32 characters of a hash and a hyphen"#);
    insta::assert_snapshot!(refusal(r#"{"reply_to":"deploy.responses.a","revision":"main","action":"switch","system":7}"#), @r#"invalid_request: system: "" is not the store path of a system: one begins with /nix/store/, 32 characters of a hash and a hyphen"#);
    insta::assert_snapshot!(refusal(r#"{"reply_to":"deploy.responses.a","revision":"main","action":"fetch"}"#), @"invalid_request: there is no system to fetch");
    assert!(
        refusal(&format!(r#"{{"reply_to":"deploy.responses.a","x":"{}"}}"#, "x".repeat(70_000)))
            .starts_with("dropped: a request of")
    );
}

#[test]
fn a_field_that_cannot_be_read_is_no_reason_to_do_something_else() {
    let request = |fields: &str| {
        format!(r#"{{"action":"switch","revision":"main","reply_to":"deploy.responses.1","id":"r-1",{fields}}}"#)
    };
    for wrong in ["id", "expires_at", "returns", "confirmed", "per_host", "confirm_timeout_s", "system"] {
        for value in ["7.5", "[]", "{}", "[\"r-0\"]", "-1"] {
            let said = refusal(&request(&format!(r#""{wrong}":{value}"#)));
            assert!(said.starts_with("invalid_request: "), "{wrong} {value}: {said}");
        }
        assert!(Request::parse(request(&format!(r#""{wrong}":null"#)).as_bytes()).is_ok(), "{wrong}");
    }
    for wrong in
        [r#""confirmed":1"#, r#""confirmed":"true""#, r#""per_host":"true""#, r#""id":true"#, r#""returns":"""#]
    {
        assert!(refusal(&request(wrong)).starts_with("invalid_request: "), "{wrong}");
    }
    // Other programs write an absent text as "", and names are only for people to read.
    let tolerated = r#""id":"","expires_at":"","operator":7,"rollout":[],"wave":false,"colour":{}"#;
    let read = Request::parse(request(tolerated).as_bytes()).unwrap();
    assert_eq!((read.id, read.expires_at, read.operator), (None, None, None));
}

#[test]
fn a_response_fits_what_the_server_takes() {
    let mut response = full_response();
    response.log_tail = (0..5_000).map(|n| format!("line {n} {}", "x".repeat(300))).collect();
    let sent = Response::parse(&response.to_bytes(1 << 20)).unwrap();
    assert!(sent.log_tail.iter().map(|line| line.len() + 1).sum::<usize>() <= MAX_LOG_TAIL_BYTES);
    assert!(sent.log_tail.last().unwrap().starts_with("line 4999 "), "the end of a log is what matters");

    response.message = "é".repeat(1_000_000);
    for bound in [1024, 64 * 1024] {
        let bytes = response.to_bytes(bound);
        assert!(bytes.len() <= bound);
        assert_eq!(Response::parse(&bytes).unwrap().error, response.error);
    }
}

proptest! {
    #[test]
    fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), json in r#"\{("(id|action|revision|reply_to|hostname|status|tier)":("[a-z.]{0,8}"|null|1|\[\]),?){0,4}\}"#) {
        for message in [bytes.as_slice(), json.as_bytes()] {
            let _ = Request::parse(message);
            let _ = Response::parse(message);
            let _ = DiscoveryAnswer::parse(message);
        }
    }

    #[test]
    fn a_request_survives_the_wire(action in 0..4usize, revision in "[a-z0-9][a-z0-9/]{0,8}[a-z0-9]", id in "[!-~]{1,128}", operator in prop::option::of("[!-~]([ -~]{0,18}[!-~])?")) {
        prop_assume!(!revision.contains("//"));
        let request = Request { action: Action::ALL[action], revision: revision.parse().unwrap(), id: Some(id.parse().unwrap()), operator, ..full_request() };
        prop_assert_eq!(Request::parse(&request.to_bytes()).unwrap(), request);
    }
}

#[test]
fn a_time_to_confirm_is_a_number_of_seconds() {
    let request = |field: &str| {
        let text = format!(r#"{{"action":"switch","revision":"main","reply_to":"deploy.responses.1",{field}}}"#);
        Request::parse(text.as_bytes())
    };
    assert_eq!(request(r#""confirm_timeout_s":30"#).unwrap().confirm_timeout_s, Some(30));
    assert_eq!(request(r#""confirm_timeout_s":null,"confirmed":false"#).unwrap().confirm_timeout_s, None);
    for wrong in ["0", "-1", "\"60\"", "1.5"] {
        let Err(BadRequest::Rejected { error, message, .. }) = request(&format!(r#""confirm_timeout_s":{wrong}"#))
        else {
            panic!("{wrong} is taken");
        };
        assert_eq!(error, ErrorCode::InvalidRequest);
        assert_eq!(message, "confirm_timeout_s is not a number of seconds above 0");
    }
    assert!(matches!(request(r#""returns":"a b""#), Err(BadRequest::Rejected { .. })));
}
