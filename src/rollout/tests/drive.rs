//! Drives a machine by hand: the test chooses the inputs and their times, and reads the transcript.

use std::sync::Arc;
use std::time::Duration;

use super::crash;
use super::fixture::{self, EPOCH, name, response, subject_of};
use super::sim::{Entry, Log, TestMachine};
use super::transcript::transcript;
use crate::plan::ResolvedWave;
use crate::protocol::{ErrorCode, HostReport, Phase, RequestId, Response, Sender, Status, Tier};
use crate::rollout::{Dispatch, Effect, Input, Machine};

/// A machine and the log of all that happened to it.
pub(super) struct Drive {
    machine: TestMachine,
    log: Log,
}

impl Drive {
    /// Begins a plan of these waves.
    pub(super) fn plan(waves: impl Into<Vec<ResolvedWave>>) -> Self {
        let machine = Machine::new(fixture::rollout(waves), EPOCH, fixture::MAX_PREPARED);
        Self::begin(TestMachine { at: Duration::ZERO, machine })
    }

    /// Begins a plan of these waves with staging: each host first fetches the system that was built for it.
    pub(super) fn staged(waves: impl Into<Vec<ResolvedWave>>) -> Self {
        let mut rollout = fixture::rollout(waves);
        let plan = &mut Arc::make_mut(&mut rollout).plan;
        for host in plan.waves.iter_mut().flat_map(|wave| &mut wave.hosts) {
            host.system = Some(fixture::system_of(&host.hostname));
        }
        plan.fetch_first();
        Self::begin(TestMachine { at: Duration::ZERO, machine: Machine::new(rollout, EPOCH, fixture::MAX_PREPARED) })
    }

    /// Kills the operator's process now, and resumes the rollout at this time.
    pub(super) fn is_restarted(&mut self, seconds: f64) -> &mut Self {
        let at = Duration::from_secs_f64(seconds);
        self.machine = crash::taken_up(&self.log, at);
        self.log.push((at, Entry::Restarted));
        self.drain(at);
        self
    }

    /// Kills the operator's process when only the first `facts` were recorded, and resumes the rollout at this time.
    pub(super) fn is_restarted_after(&mut self, facts: usize, seconds: f64) -> &mut Self {
        let last = crash::facts(&self.log).nth(facts - 1).expect("so many facts are on record");
        self.log.truncate(last + 1);
        self.is_restarted(seconds)
    }
}

impl Drive {
    fn begin(machine: TestMachine) -> Self {
        let mut drive = Self { machine, log: Log::new() };
        drive.drain(Duration::ZERO);
        drive
    }

    /// Handles an input at this time, and before it all earlier deadlines.
    pub(super) fn at(&mut self, seconds: f64, input: Input) -> &mut Self {
        let now = Duration::from_secs_f64(seconds);
        self.wait_while(|deadline| deadline < now);
        self.log.push((now, Entry::Told(input.clone())));
        self.machine.handle(now, input);
        self.drain(now);
        self
    }

    /// Lets a host respond to its last request.
    pub(super) fn says(&mut self, seconds: f64, host: &str, status: Status) -> &mut Self {
        let request = self.last_request(host);
        self.answers(seconds, &request, response(&name(host), &request, status))
    }

    /// Lets a host report that it waits to be confirmed.
    pub(super) fn waits_to_be_confirmed(&mut self, seconds: f64, host: &str) -> &mut Self {
        let request = self.last_request(host);
        let said = response(&name(host), &request, Status::Started);
        self.answers(seconds, &request, Response { phase: Some(Phase::Confirm), ..said })
    }

    /// Lets a host report that it rolled back, or tried to.
    pub(super) fn ends_with(
        &mut self,
        seconds: f64,
        host: &str,
        status: Status,
        rolled_back: Option<bool>,
    ) -> &mut Self {
        let request = self.last_request(host);
        let said = response(&name(host), &request, status);
        self.answers(seconds, &request, Response { rolled_back, ..said })
    }

    /// Lets a host report that it runs another request.
    pub(super) fn is_busy(&mut self, seconds: f64, host: &str) -> &mut Self {
        let request = self.last_request(host);
        let busy = response(&name(host), &request, Status::Rejected);
        self.answers(seconds, &request, Response { error: Some(ErrorCode::AlreadyRunning), ..busy })
    }

    /// Delivers a response to this request.
    pub(super) fn answers(&mut self, seconds: f64, request: &RequestId, response: Response) -> &mut Self {
        let from = Sender { tier: Tier::Prod, host: response.hostname.clone() };
        self.answers_as(seconds, from, request, response)
    }

    /// Delivers a response to this request on the subject of this sender.
    pub(super) fn answers_as(
        &mut self,
        seconds: f64,
        from: Sender,
        request: &RequestId,
        response: Response,
    ) -> &mut Self {
        self.at(seconds, Input::Response { from, request: request.clone(), response: Arc::new(response) })
    }

    /// Lets the server report that nobody is subscribed to the host's last request.
    pub(super) fn is_absent(&mut self, seconds: f64, host: &str) -> &mut Self {
        let request = self.last_request(host);
        self.at(seconds, Input::NoResponders { request })
    }

    /// Lets a host answer the roll call.
    pub(super) fn is_present(&mut self, seconds: f64, report: HostReport) -> &mut Self {
        self.at(seconds, Input::Discovered(Box::new(report)))
    }

    /// Waits until this time without any input.
    pub(super) fn silence_until(&mut self, seconds: f64) -> &mut Self {
        let until = Duration::from_secs_f64(seconds);
        self.wait_while(|deadline| deadline <= until);
        self
    }

    /// Runs to the end without further input, and returns the transcript.
    pub(super) fn transcript(&mut self) -> String {
        self.wait_while(|_| true);
        assert!(self.machine.outcome().is_some(), "it waits without end:\n{}", transcript(&self.log));
        transcript(&self.log)
    }

    /// Returns the id of the last request published to this host, or to any.
    pub(super) fn last_request(&self, host: &str) -> RequestId {
        let own = subject_of(&name(host));
        let sent = || self.log.iter().rev().filter_map(|(_, entry)| sent(entry));
        let last = sent().find(|dispatch| dispatch.subject == own).or_else(|| sent().next());
        last.and_then(|dispatch| dispatch.request.id.clone()).expect("a request was sent")
    }

    fn wait_while(&mut self, wanted: impl Fn(Duration) -> bool) {
        while let Some(deadline) = self.machine.deadline().filter(|deadline| wanted(*deadline)) {
            let now = self.log.last().map_or(deadline, |(last, _)| deadline.max(*last));
            self.log.push((now, Entry::Woken));
            self.machine.handle_deadline(now);
            self.drain(now);
        }
    }

    fn drain(&mut self, now: Duration) {
        loop {
            while let Some(effect) = self.machine.poll_effect() {
                self.log.push((now, Entry::Did(effect)));
            }
            if !self.machine.has_more() {
                break;
            }
            self.machine.prepare_more(now);
        }
    }
}

fn sent(entry: &Entry) -> Option<&Dispatch> {
    match entry {
        Entry::Did(Effect::Send(dispatch)) => Some(dispatch),
        _ => None,
    }
}
