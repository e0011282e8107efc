//! The requests that a listener knows: the current run, and the ends of earlier ones. Pure.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;
use uuid::Uuid;

use crate::listener::run::{RunSpec, name_of};
use crate::protocol::{Action, BusyWith, ErrorCode, HostName, LastRun, ReplySubject, RequestId, Response, Status};

/// The number of ended runs that are remembered.
pub(super) const FINALS: usize = 200;

/// The number of ended runs whose output is kept.
pub(super) const OUTPUTS: usize = 20;

/// The number of remembered rejections.
const REJECTIONS: usize = 1_000;

/// The longest reason in a rejection, in bytes: it may repeat parts of the request.
const REASON_BYTES: usize = 1_000;

#[derive(Debug)]
pub(crate) struct RequestHistory {
    hostname: HostName,
    pub(super) current: Option<Current>,
    /// The runs that ended, oldest first.
    pub(super) ended: VecDeque<(RunSpec, Response)>,
    rejections: HashMap<String, Response>,
    /// The keys of the rejections, oldest first.
    rejected: VecDeque<String>,
    /// Runs whose key cannot be read any more, by the UUID that the key leads to.
    pub(super) damaged: HashMap<Uuid, Response>,
}

/// The run that is going or about to begin.
#[derive(Debug, Clone)]
pub(super) struct Current {
    pub(super) spec: RunSpec,
    /// `accepted`, and `started` once it is watched.
    pub(super) status: Status,
}

impl RequestHistory {
    pub(crate) fn new(hostname: HostName) -> Self {
        Self {
            hostname,
            current: None,
            ended: VecDeque::new(),
            rejections: HashMap::new(),
            rejected: VecDeque::new(),
            damaged: HashMap::new(),
        }
    }

    pub(super) fn state(&self, key: &str, now: Timestamp) -> Option<Response> {
        if self.current.as_ref().is_some_and(|current| current.spec.key == key) {
            return self.current_state(now);
        }
        let ended = self.ended.iter().rev().find(|(spec, _)| spec.key == key).map(|(_, response)| response);
        ended.or_else(|| self.rejections.get(key)).cloned().or_else(|| {
            let damaged = self.damaged.get(&name_of(key))?;
            Some(Response { id: key.parse().ok(), ..damaged.clone() })
        })
    }

    pub(super) fn current_state(&self, now: Timestamp) -> Option<Response> {
        let current = self.current.as_ref()?;
        let (spec, status) = (&current.spec, current.status);
        let message = format!("{} of {} {status}", spec.action, spec.revision);
        Some(Response {
            id: spec.id.clone(),
            at: Some(now),
            revision: spec.revision.commit(),
            ..Response::new(self.hostname.clone(), status, message)
        })
    }

    pub(super) fn holder(&self) -> Option<BusyWith> {
        self.current.as_ref().map(|current| current.spec.holder())
    }

    /// Whether the current or the last run has this key and reply subject.
    pub(super) fn answers(&self, key: &str, reply_to: &ReplySubject) -> bool {
        let current = self.current.as_ref().map(|current| &current.spec);
        let specs = current.into_iter().chain(self.last().map(|(spec, _)| spec));
        specs.into_iter().any(|spec| spec.key == key && spec.reply_to == *reply_to)
    }

    pub(super) fn last(&self) -> Option<&(RunSpec, Response)> {
        self.ended.back()
    }

    /// Returns how the last run ended, for the discovery answer, given the systems that run now and boot next.
    pub(super) fn last_run(&self, running: Option<&str>, next_boot: Option<&str>) -> Option<LastRun> {
        let (spec, response) = self.last()?;
        let is_switch = spec.action == Action::Switch && response.rolled_back.is_none();
        let made = response.system.as_deref().filter(|_| is_switch && response.status == Status::Completed);
        Some(LastRun {
            id: spec.key.clone(),
            status: response.status,
            error: response.error.clone(),
            at: response.at?,
            revision: response.revision.clone(),
            current: made.map(|made| running == Some(made) && next_boot == Some(made)),
        })
    }

    /// Returns the last run that may have changed the host.
    fn last_change(&self) -> Option<&(RunSpec, Response)> {
        let changes = |action: Action| action.activates() || action.sets_next_boot();
        let runs = self.ended.iter().filter(|(spec, end)| changes(spec.action) && !changed_nothing(end));
        runs.reduce(|last, run| if is_as_before(&last.1, &run.1) { last } else { run })
    }

    /// Returns how the last deployment ended. After a failure that may have changed something, there is none.
    pub(crate) fn last_deployed(&self) -> Option<&Response> {
        let mut runs = self.ended.iter().rev();
        let (_, end) = runs.find(|(spec, end)| spec.action.activates() && !changed_nothing(end))?;
        Some(end).filter(|end| end.status == Status::Completed && end.revision.is_some())
    }

    pub(super) fn current_is(&self, status: Status) -> bool {
        self.current.as_ref().is_some_and(|current| current.status == status)
    }

    pub(super) fn accepted(&mut self, spec: RunSpec) {
        self.current = Some(Current { spec, status: Status::Accepted });
    }

    pub(super) const fn started(&mut self) {
        if let Some(current) = &mut self.current {
            current.status = Status::Started;
        }
    }

    /// Records the end of the current run, or of one from before this listener started. Returns a run that is forgotten
    /// for it.
    pub(crate) fn ended(&mut self, spec: RunSpec, response: Response) -> Option<RunSpec> {
        self.current.take_if(|current| current.spec.key == spec.key);
        self.ended.push_back((spec, response));
        if self.ended.len() > FINALS { self.ended.pop_front().map(|(spec, _)| spec) } else { None }
    }

    /// Returns the last run whose output is not kept.
    pub(super) fn without_output(&self) -> Option<&RunSpec> {
        self.ended.iter().rev().nth(OUTPUTS).map(|(spec, _)| spec)
    }

    /// Returns the end of the last run that may have changed the host, if it has this key and completed: a host can
    /// only return from that run. Otherwise returns the reason why it cannot.
    pub(super) fn returnable(&self, key: &str) -> Result<(Action, &Response), String> {
        match self.last_change() {
            Some((spec, _)) if spec.key != key => {
                Err(format!("cannot roll back: {key} is not the last run of this host: that was {}", spec.key))
            }
            Some((spec, response)) if response.status == Status::Completed => Ok((spec.action, response)),
            Some(_) => Err(format!("cannot roll back: {key} did not complete")),
            None => Err(format!("cannot roll back: this host does not know {key}")),
        }
    }

    /// Records a run whose request is damaged, with its end if that can be read. It is not run again.
    pub(super) fn damaged(&mut self, name: Uuid, end: Option<Response>) {
        let lost = || Response {
            error: Some(ErrorCode::Interrupted),
            ..Response::new(
                self.hostname.clone(),
                Status::Failed,
                "it began, but its record on this host is damaged: its result is unknown",
            )
        };
        let end = end.unwrap_or_else(lost);
        self.damaged.insert(name, end);
    }

    /// Returns the rejection of a request for this reason.
    pub(super) fn rejection(&self, id: Option<RequestId>, error: ErrorCode, why: &str, now: Timestamp) -> Response {
        let why = why.get(..why.floor_char_boundary(REASON_BYTES)).unwrap_or_default();
        Response {
            error: Some(error),
            id,
            at: Some(now),
            ..Response::new(self.hostname.clone(), Status::Rejected, why)
        }
    }

    pub(super) fn rejected(&mut self, key: String, response: Response) {
        if self.rejections.insert(key.clone(), response).is_none() {
            self.rejected.push_back(key);
        }
        if self.rejected.len() > REJECTIONS
            && let Some(oldest) = self.rejected.pop_front()
        {
            self.rejections.remove(&oldest);
        }
    }
}

/// Whether a run left the host unchanged: it failed before the activation, or the host returned.
fn changed_nothing(response: &Response) -> bool {
    let came_before_activation = response.error.as_ref().is_some_and(ErrorCode::is_before_activation);
    response.status == Status::Failed && (came_before_activation || response.rolled_back == Some(true))
}

/// Whether a failed run left the system and the generation of the host as the last change had made them. A timed out
/// build, for example, must not prevent a rollback of that change.
fn is_as_before(last: &Response, response: &Response) -> bool {
    let is_known = response.system.is_some() && response.rolled_back.is_none();
    let is_same = (&last.system, last.generation) == (&response.system, response.generation);
    response.status == Status::Failed && is_known && is_same
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::run::commit_of;
    use crate::listener::run::tests::spec;

    fn ended(status: Status) -> Response {
        Response { at: Some(Timestamp::UNIX_EPOCH), ..Response::new("ns1".parse().unwrap(), status, "") }
    }

    #[test]
    fn a_request_is_known_from_its_acceptance_to_long_after_its_end() {
        let mut history = RequestHistory::new("ns1".parse().unwrap());
        let status = |history: &RequestHistory| history.state("r-1", Timestamp::UNIX_EPOCH).map(|state| state.status);
        assert_eq!(status(&history), None);
        history.accepted(spec("r-1"));
        assert_eq!(status(&history), Some(Status::Accepted));
        history.started();
        assert_eq!(status(&history), Some(Status::Started));
        assert_eq!(history.holder().unwrap().id, "r-1");
        history.ended(spec("r-1"), ended(Status::Failed));
        assert_eq!(status(&history), Some(Status::Failed));
        assert!(history.holder().is_none());
        assert_eq!(history.last_run(None, None).unwrap().id, "r-1");
    }

    #[test]
    fn a_run_whose_record_is_damaged_is_known_by_its_key() {
        let mut history = RequestHistory::new("ns1".parse().unwrap());
        history.damaged(name_of("r-1"), None);
        history.damaged(name_of("r-2"), Some(ended(Status::Completed)));
        let state = |key: &str| history.state(key, Timestamp::UNIX_EPOCH);
        let lost = state("r-1").unwrap();
        assert_eq!((lost.status, lost.error), (Status::Failed, Some(ErrorCode::Interrupted)));
        assert_eq!(lost.id.unwrap().as_str(), "r-1");
        assert_eq!(state("r-2").unwrap().status, Status::Completed);
        assert_eq!(state("r-3"), None);
        assert!(history.last_run(None, None).is_none());
    }

    #[test]
    fn rejections_are_bounded_and_do_not_push_out_what_ran() {
        let mut history = RequestHistory::new("ns1".parse().unwrap());
        history.ended(spec("ran"), ended(Status::Completed));
        for number in 0..5_000 {
            history.rejected(format!("r-{number}"), ended(Status::Rejected));
        }
        let known = |key: &str| history.state(key, Timestamp::UNIX_EPOCH).is_some();
        assert!(known("ran") && known("r-4999") && known("r-4000"));
        assert!(!known("r-3999"));
        assert_eq!(history.rejections.len(), REJECTIONS);
        let long = history.rejection(None, ErrorCode::Expired, &"ä".repeat(1_000), Timestamp::UNIX_EPOCH);
        assert_eq!((long.status, long.message), (Status::Rejected, "ä".repeat(500)));
    }

    #[test]
    fn a_run_that_left_the_host_as_it_was_is_none_to_return_from() {
        let mut history = RequestHistory::new("ns1".parse().unwrap());
        let end = |history: &mut RequestHistory, key: &str, generation: Option<u64>, response: Response| {
            let system = generation.map(|_| "/nix/store/a".to_owned());
            history.ended(spec(key), Response { generation, system, ..response });
        };
        let failed = |error| Response { error: Some(error), ..ended(Status::Failed) };
        end(&mut history, "r-1", Some(41), ended(Status::Completed));
        for error in [ErrorCode::Timeout, ErrorCode::Interrupted, ErrorCode::BuildFailed] {
            end(&mut history, "r-2", Some(41), failed(error));
            assert!(history.returnable("r-1").is_ok());
        }
        for (generation, rolled_back) in [(Some(42), None), (None, None), (Some(41), Some(false))] {
            let mut history = RequestHistory::new("ns1".parse().unwrap());
            end(&mut history, "r-1", Some(41), ended(Status::Completed));
            end(&mut history, "r-2", generation, Response { rolled_back, ..failed(ErrorCode::Timeout) });
            assert!(history.returnable("r-1").unwrap_err().contains("that was r-2"));
        }
    }

    #[test]
    fn what_runs_is_known_as_long_as_nothing_else_can_have_changed_it() {
        const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";
        let mut history = RequestHistory::new("ns1".parse().unwrap());
        let switch = |history: &mut RequestHistory, revision: &str, status, error| {
            let spec = RunSpec { revision: revision.parse().unwrap(), ..spec(revision) };
            let system = Some("/nix/store/a".to_owned());
            let revision = revision.parse().ok();
            history.ended(spec, Response { error, revision, system, ..ended(status) });
        };
        switch(&mut history, COMMIT, Status::Completed, None);
        let deployed = history.last_deployed();
        assert_eq!(commit_of(deployed, Some("/nix/store/a")).unwrap().as_str(), COMMIT);
        assert_eq!(commit_of(deployed, Some("/nix/store/by-hand")), None);
        switch(&mut history, "broken", Status::Failed, Some(ErrorCode::BuildFailed));
        assert!(history.last_deployed().is_some());
        switch(&mut history, "half", Status::Failed, Some(ErrorCode::Timeout));
        assert!(history.last_deployed().is_none());
        switch(&mut history, "branch", Status::Completed, None);
        assert!(history.last_deployed().is_none());
    }
}
