//! What a listener knows of the requests it was sent: the one that runs, and how others ended. Pure.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;
use uuid::Uuid;

use super::run::Spec;
use super::state_dir::{FINALS, name_of};
use crate::protocol::{Action, BusyWith, Commit, ErrorCode, HostName, LastRun, ReplySubject, Response, Status};

/// How many rejections are remembered, and in how many bytes. Others cause any number of them, of any length.
const REJECTIONS: Bound = Bound { responses: 1_000, bytes: 512 * 1024 };

#[derive(Debug)]
pub(super) struct RequestHistory {
    hostname: HostName,
    pub(super) current: Option<Current>,
    pub(super) last: Option<(Spec, Response)>,
    /// The last run that may have changed the host: key, action and end.
    standing: Option<(String, Action, Response)>,
    pub(super) last_deployed: Option<Deployed>,
    finals: Recent,
    rejections: Recent,
    /// Runs whose key cannot be read any more, by what every key leads to.
    damaged: HashMap<Uuid, Response>,
}

/// What was brought to run, and the system that this made.
#[derive(Debug, Clone)]
pub(super) struct Deployed {
    commit: Commit,
    system: Option<String>,
}

/// The run that goes on, or will in a moment.
#[derive(Debug, Clone)]
pub(super) struct Current {
    pub(super) spec: Spec,
    /// `accepted` or `started`.
    pub(super) status: Status,
}

#[derive(Debug)]
struct Recent {
    bound: Bound,
    by_key: HashMap<String, Response>,
    /// The keys, each with how much it and its response take.
    oldest_first: VecDeque<(String, usize)>,
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Bound {
    responses: usize,
    bytes: usize,
}

impl RequestHistory {
    pub(super) fn new(hostname: HostName) -> Self {
        Self {
            hostname,
            current: None,
            last: None,
            standing: None,
            last_deployed: None,
            finals: Recent::new(Bound { responses: FINALS, bytes: usize::MAX }),
            rejections: Recent::new(REJECTIONS),
            damaged: HashMap::new(),
        }
    }

    pub(super) fn state(&self, key: &str, now: Timestamp) -> Option<Response> {
        match &self.current {
            Some(current) if current.spec.key == key => Some(self.progress(current, now)),
            _ => {
                let known = self.finals.get(key).or_else(|| self.rejections.get(key)).cloned();
                known.or_else(|| self.damaged_state(key))
            }
        }
    }

    fn damaged_state(&self, key: &str) -> Option<Response> {
        let response = self.damaged.get(&name_of(key))?;
        Some(Response { id: key.parse().ok(), ..response.clone() })
    }

    pub(super) fn current_state(&self, now: Timestamp) -> Option<Response> {
        self.current.as_ref().map(|current| self.progress(current, now))
    }

    fn progress(&self, Current { spec, status }: &Current, now: Timestamp) -> Response {
        let message = match status {
            Status::Accepted => format!("{} of {} accepted", spec.action, spec.revision),
            _ => format!("{} of {} started", spec.action, spec.revision),
        };
        Response {
            id: spec.id.clone(),
            at: Some(now),
            revision: spec.revision.commit(),
            ..Response::new(self.hostname.clone(), *status, message)
        }
    }

    pub(super) fn holder(&self) -> Option<BusyWith> {
        self.current.as_ref().map(|current| current.spec.holder())
    }

    /// Whether the run that goes on, or the last one, was asked for with this key and is answered there.
    pub(super) fn answers(&self, key: &str, reply_to: &ReplySubject) -> bool {
        let specs = self.current.iter().map(|current| &current.spec).chain(self.last.iter().map(|(spec, _)| spec));
        specs.into_iter().any(|spec| spec.key == key && spec.reply_to == *reply_to)
    }

    /// Whether the run of this key goes on; `None` when there is no such run.
    pub(super) fn goes_on(&self, key: &str) -> Option<bool> {
        let goes_on = self.current.as_ref().is_some_and(|current| current.spec.key == key);
        (goes_on || self.finals.get(key).is_some()).then_some(goes_on)
    }

    /// How the last run ended, for others, given the systems that run and boot next.
    pub(super) fn last_run(&self, running: Option<&str>, next_boot: Option<&str>) -> Option<LastRun> {
        let (spec, response) = self.last.as_ref()?;
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

    /// The commit that was last brought to run, if the system that runs now is still the one that this made.
    pub(super) fn deployed(&self, running: Option<&str>) -> Option<&Commit> {
        self.last_deployed.as_ref()?.commit_of(running)
    }

    pub(super) fn accepted(&mut self, spec: Spec) {
        self.current = Some(Current { spec, status: Status::Accepted });
    }

    pub(super) fn started(&mut self) {
        if let Some(current) = &mut self.current {
            current.status = Status::Started;
        }
    }

    /// A run ended, be it the one that went on or one from before this listener was started.
    pub(super) fn ended(&mut self, spec: Spec, response: Response) {
        if self.current.as_ref().is_some_and(|current| current.spec.key == spec.key) {
            self.current = None;
        }
        if matches!(spec.action, Action::Switch | Action::Test) {
            self.note_deployed(&response);
        }
        let no_change = changed_nothing(&response) || self.is_as_before(&response);
        if !matches!(spec.action, Action::DryActivate | Action::Fetch) && !no_change {
            self.standing = Some((spec.key.clone(), spec.action, response.clone()));
        }
        self.finals.insert(spec.key.clone(), response.clone());
        self.last = Some((spec, response));
    }

    /// Whether a failed run left the system and the generation of the host as the last deployment had made them. A timed out build,
    /// for example, must not prevent a rollback of that deployment.
    fn is_as_before(&self, response: &Response) -> bool {
        let Some((_, _, last)) = &self.standing else { return false };
        let is_known = response.system.is_some() && response.rolled_back.is_none();
        let is_same = (&last.system, last.generation) == (&response.system, response.generation);
        response.status == Status::Failed && is_known && is_same
    }

    /// What ran last on this host and may have changed it, if that was the run with this key and it completed: only
    /// from there the host can return. Else the reason why it cannot.
    pub(super) fn returnable(&self, key: &str) -> Result<(Action, &Response), String> {
        match &self.standing {
            Some((last, action, response)) if last == key && response.status == Status::Completed => {
                Ok((*action, response))
            }
            Some((last, _, _)) if last == key => Err(format!("{key} did not complete")),
            Some((last, _, _)) => Err(format!("{key} is not what this host ran last: that was {last}")),
            None => Err(format!("this host does not know {key}")),
        }
    }

    /// After a failure that may have changed something nobody knows what runs.
    fn note_deployed(&mut self, response: &Response) {
        self.last_deployed = match (response.status, &response.error) {
            (Status::Completed, _) => {
                let system = response.system.clone();
                response.revision.clone().map(|commit| Deployed { commit, system })
            }
            _ if changed_nothing(response) => self.last_deployed.take(),
            _ => None,
        };
    }

    /// The record of the run whose key leads to this name is damaged; its end may be known. It is not run again.
    pub(super) fn damaged(&mut self, name: Uuid, end: Option<Response>) {
        let lost = || Response {
            error: Some(ErrorCode::Interrupted),
            ..Response::new(
                self.hostname.clone(),
                Status::Failed,
                "it was begun, and its record on this host is damaged: what became of it is not known",
            )
        };
        let end = end.unwrap_or_else(lost);
        self.damaged.insert(name, end);
    }

    pub(super) fn rejected(&mut self, key: String, response: Response) {
        self.rejections.insert(key, response);
    }
}

/// Whether a run left the host as it was: it failed before it changed anything, or the host returned.
fn changed_nothing(response: &Response) -> bool {
    use ErrorCode::{AlreadyRunning, BuildFailed, InvalidRevision, NotAvailable, Untrusted, WrongHost};
    let came_before_activation = matches!(
        response.error,
        Some(BuildFailed | InvalidRevision | AlreadyRunning | WrongHost | NotAvailable | Untrusted)
    );
    response.status == Status::Failed && (came_before_activation || response.rolled_back == Some(true))
}

impl Deployed {
    /// Whether another system runs than this one; unknown where it is not known which one this is.
    pub(super) fn differs_from(&self, running: &str) -> Option<bool> {
        self.system.as_deref().map(|deployed| deployed != running)
    }

    /// The commit, if this is the system that runs.
    pub(super) fn commit_of(&self, running: Option<&str>) -> Option<&Commit> {
        (self.system.as_deref() == running).then_some(&self.commit)
    }
}

impl Recent {
    fn new(bound: Bound) -> Self {
        Self { bound, by_key: HashMap::new(), oldest_first: VecDeque::new(), bytes: 0 }
    }

    fn get(&self, key: &str) -> Option<&Response> {
        self.by_key.get(key)
    }

    fn insert(&mut self, key: String, response: Response) {
        let bytes = 2 * key.len() + response.to_bytes(usize::MAX).len();
        if self.by_key.insert(key.clone(), response).is_none() {
            self.oldest_first.push_back((key, bytes));
            self.bytes += bytes;
        }
        while (self.oldest_first.len() > self.bound.responses || self.bytes > self.bound.bytes)
            && let Some((oldest, bytes)) = self.oldest_first.pop_front()
        {
            self.by_key.remove(&oldest);
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        assert_eq!(history.rejections.by_key.len(), REJECTIONS.responses);

        for number in 0..5_000 {
            let response = Response { message: "x".repeat(1_000), ..ended(Status::Rejected) };
            history.rejected(format!("{number}-{}", "k".repeat(1_000)), response);
        }
        let recent = &history.rejections;
        let held: usize = recent.by_key.iter().map(|(key, response)| key.len() + response.message.len()).sum();
        assert!(held <= REJECTIONS.bytes && recent.bytes <= REJECTIONS.bytes, "{held} bytes");
        assert!(recent.by_key.len() > 100 && recent.by_key.len() == recent.oldest_first.len());
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
            let spec = Spec { revision: revision.parse().unwrap(), ..spec(revision) };
            let system = Some("/nix/store/a".to_owned());
            let revision = revision.parse().ok();
            history.ended(spec, Response { error, revision, system, ..ended(status) });
        };
        switch(&mut history, COMMIT, Status::Completed, None);
        assert_eq!(history.deployed(Some("/nix/store/a")).unwrap().as_str(), COMMIT);
        assert_eq!(history.deployed(Some("/nix/store/by-hand")), None);
        let differs = |running| history.last_deployed.as_ref().unwrap().differs_from(running);
        assert_eq!((differs("/nix/store/a"), differs("/nix/store/by-hand")), (Some(false), Some(true)));
        switch(&mut history, "broken", Status::Failed, Some(ErrorCode::BuildFailed));
        assert!(history.deployed(Some("/nix/store/a")).is_some());
        switch(&mut history, "half", Status::Failed, Some(ErrorCode::Timeout));
        assert!(history.deployed(Some("/nix/store/a")).is_none());
        switch(&mut history, "branch", Status::Completed, None);
        assert!(history.last_deployed.is_none());
    }
}
