//! Answers questions, which change nothing: roll calls on the discovery subjects, and pages of the logs of runs.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::course::Step;
use super::{Service, shown};
use crate::clock;
use crate::listener::inbox::{Allowance, Letter};
use crate::listener::run::{OutputPage, RunDir};
use crate::listener::snapshot::{System, SystemSnapshot, configuration_revision};
use crate::protocol::log::MAX_PAGE_BYTES;
use crate::protocol::request::is_acknowledgement;
use crate::protocol::{
    Commit, DiscoveryAnswer, DiscoveryRequest, Feature, HostName, HostReport, LogAnswer, LogPage, LogPlace, LogRequest,
    NoLog, Place, ReplySubject, RequestId, Status, Subject, Target, Tier,
};

/// The rate limit of answers on one discovery subject.
const ANSWERS: (u32, Duration) = (10, Duration::from_millis(100));

/// The number of remembered answers: those of at least half a minute.
const REMEMBERED: usize = 1_000;

/// The number of log pages that are read at once. Other readers have to ask again.
pub(super) const READERS: usize = 4;

/// The least time for a page, so that no reader gets more than 3 MB/s.
const PAGE_TAKES: Duration = Duration::from_millis(10);

/// The most bytes that JSON needs for one byte of a log.
const LONGEST_SPELLING: usize = 8;

/// The answered roll calls, and the rate limits of further answers.
#[derive(Debug, Default)]
pub(super) struct RollCalls {
    answered: HashSet<ReplySubject>,
    oldest_first: VecDeque<ReplySubject>,
    /// One for each subject, so that a flood on one does not hide the host from questions on another.
    allowances: HashMap<Subject, Allowance>,
}

impl RollCalls {
    /// Whether to answer a question from this subject on that reply subject.
    fn take(&mut self, subject: &Subject, answer_to: &ReplySubject) -> bool {
        let (most, each) = ANSWERS;
        // Known by the subject of the answer and not by the question's reply subject: a copy of the question that
        // somebody else sends, with another reply subject, must not use up the answer.
        if self.answered.contains(answer_to) {
            return false;
        }
        let allowance = self.allowances.entry(subject.clone()).or_insert_with(|| Allowance::new(most, each));
        if allowance.take().is_none() {
            return false;
        }
        self.answered.insert(answer_to.clone());
        self.oldest_first.push_back(answer_to.clone());
        if self.oldest_first.len() > REMEMBERED
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.answered.remove(&oldest);
        }
        true
    }
}

/// Returns the subject of this host's answer; `None` if the host may not answer there.
fn answer_to(question: &DiscoveryRequest, tier: Tier, host: &HostName) -> Option<ReplySubject> {
    let reply_to = &question.reply_to;
    match (reply_to.place(tier, host), reply_to.single_token()) {
        (Place::Shared, Some(token)) if question.per_host => Some(ReplySubject::of_host(tier, host, token)),
        (Place::Shared | Place::Own, _) => Some(reply_to.clone()),
        (Place::Outdated | Place::Foreign, _) => None,
    }
}

impl Service {
    pub(super) async fn discover(&mut self, letter: Letter) {
        let question = match DiscoveryRequest::parse(&letter.payload) {
            Ok(question) => question,
            Err(_) if is_acknowledgement(&letter.payload) => return,
            Err(error) => return self.complain(|| format!("a roll call is dropped: {}", shown(&error.to_string()))),
        };
        let (tier, host) = (self.config.tier, &self.config.run.host);
        if question.tier.is_some_and(|asked| asked != tier) {
            return;
        }
        let Some(answer_to) = answer_to(&question, tier, host) else {
            let reply_to = shown(question.reply_to.as_str());
            return self
                .complain(|| format!("a roll call is dropped: an answer to {reply_to} is not this host's to give"));
        };
        if self.publisher.may_answer(&answer_to) && self.roll_calls.take(&letter.subject, &answer_to) {
            let answer = DiscoveryAnswer::Host(Box::new(self.report().await));
            self.publisher.publish(&answer_to, answer.to_bytes()).await;
        }
    }

    /// Composes the discovery answer.
    async fn report(&mut self) -> HostReport {
        let now = SystemSnapshot::seen(&self.host);
        let said = match &now.current {
            Some(system) => self.revision_of(system).await,
            None => None,
        };
        let Self { config, host, history, .. } = self;
        let of_trust = Feature::OF_TRUST.into_iter().filter(|_| !config.run.system_keys.is_empty());
        let (system, next_boot) = (now.current_path(), now.profile_path());
        let deployed = history.last_deployed();
        HostReport {
            hostname: config.run.host.clone(),
            tier: config.tier,
            role: config.role.clone(),
            deploy_subjects: config.deploy_subjects.clone(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            features: Feature::ALWAYS.into_iter().chain(of_trust).collect(),
            flake: Some(config.run.flake.public()),
            instance: Some(self.publisher.instance),
            machine: host.machine(),
            last: history.last_run(system, next_boot).map(Box::new),
            revision: said.or_else(|| deployed.as_ref()?.commit_of(system).cloned()),
            generation: now.generation(),
            reboot_required: now.reboot_required(),
            next_boot_differs: next_boot.zip(system).map(|(next_boot, running)| next_boot != running),
            deployed_differs: deployed.as_ref().and_then(|deployed| Some(deployed.system.as_deref()? != system?)),
            system: system.map(str::to_owned),
            booted_system_differs: now.booted_system_differs(),
            uptime_s: host.uptime_s(),
            now: Some(clock::now()),
            busy: history.holder().or_else(|| host.activation()).map(Box::new),
            problems: self.problems.told(),
        }
    }

    /// Returns the commit that a system says it was built from. Each system is asked once.
    async fn revision_of(&mut self, system: &System) -> Option<Commit> {
        if self.said.as_ref().is_none_or(|(asked, _)| asked != system) {
            self.said = Some((system.clone(), configuration_revision(&self.host, system).await));
        }
        self.said.as_ref().and_then(|(_, said)| said.clone())
    }

    /// Answers a question for a log, from one of the deploy subjects.
    pub(super) fn give_log(&mut self, subject: &Subject, question: LogRequest) {
        let LogRequest { log: LogPlace { id, offset }, reply_to } = question;
        let own = Target::Host(self.config.tier, self.config.run.host.clone()).subject();
        if *subject != own || self.publisher.place(&reply_to) != Place::Own || !self.publisher.may_answer(&reply_to) {
            let reply_to = shown(reply_to.as_str());
            return self.complain(|| {
                format!("a question for a log on {subject} is dropped: it wants its answer on {reply_to}")
            });
        }
        let Ok(reader) = self.log_readers.clone().try_acquire_owned() else { return };
        // Read before the output: the output of a run that has ended is complete.
        let status = self.history.status(id.as_str());
        let dir = self.state_dir.run_dir(id.as_str());
        let most = MAX_PAGE_BYTES.min(self.publisher.client.max_payload() / LONGEST_SPELLING);
        let publisher = self.publisher.clone();
        self.steps.spawn(async move {
            sleep(PAGE_TAKES).await;
            let page = spawn_blocking(move || match status {
                Some(status) => page(id, &dir, offset, most, status),
                None => no_log(id, NoLog::UnknownRun),
            });
            if let Ok(page) = page.await {
                publisher.publish(&reply_to, LogAnswer { log: page }.to_bytes()).await;
            }
            drop(reader);
            Step::Done
        });
    }
}

/// Returns a page of the log of a run with this status.
fn page(id: RequestId, dir: &RunDir, offset: u64, most: usize, status: Status) -> LogPage {
    let goes_on = !status.is_final();
    match OutputPage::read(dir, offset, most) {
        Ok(Some(mut page)) => {
            let end = page.is_last && !goes_on;
            if !end {
                page.leave_half_character();
            }
            let next = page.offset + page.bytes.len() as u64;
            let data = String::from_utf8_lossy(&page.bytes).into_owned();
            LogPage { id, offset: page.offset, data, next, end, error: None }
        }
        // The run has written nothing yet.
        Ok(None) if goes_on => LogPage { id, offset: 0, data: String::new(), next: 0, end: false, error: None },
        Ok(None) => no_log(id, NoLog::NotKept),
        Err(error) => {
            tracing::warn!("the output of the run in {} cannot be read: {error}", dir.path().display());
            no_log(id, NoLog::NotKept)
        }
    }
}

const fn no_log(id: RequestId, error: NoLog) -> LogPage {
    LogPage { id, offset: 0, data: String::new(), next: 0, end: true, error: Some(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(reply_to: &str, per_host: bool) -> DiscoveryRequest {
        DiscoveryRequest { reply_to: format!("deploy.responses.{reply_to}").parse().unwrap(), tier: None, per_host }
    }

    fn answered_on(reply_to: &str, per_host: bool) -> Option<String> {
        let answer_to = answer_to(&question(reply_to, per_host), Tier::Prod, &"ns1".parse().unwrap())?;
        Some(answer_to.to_string())
    }

    #[test]
    fn a_host_answers_in_its_own_place_or_in_the_old_form() {
        assert_eq!(answered_on("4f", true).as_deref(), Some("deploy.responses.prod.ns1.4f"));
        assert_eq!(answered_on("4f", false).as_deref(), Some("deploy.responses.4f"));
        assert_eq!(answered_on("prod.ns1.4f", false).as_deref(), Some("deploy.responses.prod.ns1.4f"));
        for foreign in ["prod.ns2.4f", "test.ns1.4f", "4f.5a", "prod.ns1"] {
            assert_eq!((answered_on(foreign, true), answered_on(foreign, false)), (None, None), "{foreign}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_is_answered_once_and_a_flood_of_them_now_and_then() {
        let mut calls = RollCalls::default();
        let (all, prod): (Subject, Subject) =
            ("deploy.discover".parse().unwrap(), "deploy.discover.prod".parse().unwrap());
        let reply = |number: u32| question(&number.to_string(), false).reply_to;
        assert!(calls.take(&all, &reply(0)) && !calls.take(&prod, &reply(0)) && !calls.take(&all, &reply(0)));
        let flooded = (1..100_000).filter(|&number| calls.take(&all, &reply(number))).count();
        assert_eq!(flooded, 9);
        // The flood on one subject does not block answers on the other.
        assert!(calls.take(&prod, &reply(99_999)));
        for number in 100_000..110_000 {
            tokio::time::advance(Duration::from_millis(100)).await;
            assert!(calls.take(&all, &reply(number)));
        }
        assert_eq!((calls.answered.len(), calls.oldest_first.len()), (REMEMBERED, REMEMBERED));
    }
}
