//! Answers roll calls, with what the host runs and the problems that it has.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::env;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;

use super::inbox::{QueuedMessage, RateLimit};
use super::{Service, for_log};
use crate::clock;
use crate::listener::nixos::{SystemSnapshot, configuration_revision};
use crate::listener::output::clean;
use crate::listener::run::commit_of;
use crate::lookup::{self, LookupError};
use crate::protocol::discovery::MAX_PROBLEMS;
use crate::protocol::request::is_acknowledgement;
use crate::protocol::{
    AnswerScope, DiscoveryAnswer, DiscoveryRequest, Feature, FlakeUrl, HostName, HostReport, Problem, ReplySubject,
    Revision, Subject, Tier,
};
use crate::text::safe;

/// The rate limit of answers on one discovery subject.
const ANSWERS: (u32, Duration) = (10, Duration::from_millis(100));

/// The number of remembered answers: those of at least half a minute.
const REMEMBERED: usize = 1_000;

const PROGRAMS: [(ProblemKind, &str); 3] =
    [(ProblemKind::NoNixosRebuild, "nixos-rebuild"), (ProblemKind::NoNix, "nix"), (ProblemKind::NoGit, "git")];

/// The interval at which an unreachable flake is tried again.
pub(super) const ASK_AGAIN: Duration = Duration::from_mins(10);

/// The plausible range of a request's expiry. Requests live for minutes; other values come from another clock.
const CLOCKS_DIFFER: [SignedDuration; 2] = [SignedDuration::from_mins(2), SignedDuration::from_hours(24)];

/// The answered roll calls, and the rate limits of further answers.
#[derive(Debug, Default)]
pub(super) struct RollCalls {
    /// The subjects of the last answers, oldest first.
    answered: VecDeque<ReplySubject>,
    /// One for each subject, so that a flood on one does not hide the host from questions on another.
    limits: HashMap<Subject, RateLimit>,
}

impl RollCalls {
    /// Whether to answer a question from this subject on that reply subject.
    fn take(&mut self, subject: &Subject, answer_to: &ReplySubject) -> bool {
        let limit = self.limits.entry(subject.clone()).or_insert_with(|| RateLimit::new(ANSWERS));
        // Known by the subject of the answer and not by the question's reply subject: a copy of the question that
        // somebody else sends, with another reply subject, must not use up the answer.
        if !limit.take() || self.answered.contains(answer_to) {
            return false;
        }
        self.answered.push_back(answer_to.clone());
        if self.answered.len() > REMEMBERED {
            self.answered.pop_front();
        }
        true
    }
}

/// Returns the subject of this host's answer; `None` if the host may not answer there.
fn answer_to(question: &DiscoveryRequest, tier: Tier, host: &HostName) -> Option<ReplySubject> {
    let reply_to = &question.reply_to;
    match (reply_to.scope(tier, host), reply_to.single_token()) {
        (AnswerScope::Shared, Some(token)) if question.per_host => Some(ReplySubject::of_host(tier, host, token)),
        (AnswerScope::Shared | AnswerScope::Own, _) => Some(reply_to.clone()),
        (AnswerScope::Outdated | AnswerScope::Foreign, _) => None,
    }
}

impl Service {
    pub(super) async fn on_roll_call(&mut self, message: QueuedMessage) {
        let question = match DiscoveryRequest::parse(&message.payload) {
            Ok(question) => question,
            Err(_) if is_acknowledgement(&message.payload) => return,
            Err(error) => {
                return self.warn_limited(|| format!("dropped a discovery request: {}", for_log(&error.to_string())));
            }
        };
        let (tier, host) = (self.config.tier, &self.config.run.host);
        if question.tier.is_some_and(|asked| asked != tier) {
            return;
        }
        let Some(answer_to) = answer_to(&question, tier, host) else {
            let reply_to = for_log(question.reply_to.as_str());
            return self
                .warn_limited(|| format!("dropped a discovery request: this host may not answer on {reply_to}"));
        };
        if self.publisher.may_answer(&answer_to) && self.roll_calls.take(&message.subject, &answer_to) {
            let answer = DiscoveryAnswer::Host(Box::new(self.report().await));
            self.publisher.publish(&answer_to, answer.to_bytes()).await;
        }
    }

    async fn report(&mut self) -> HostReport {
        let now = SystemSnapshot::from_links(&self.host);
        let revision = match (&now.current, &self.known_revision) {
            (None, _) => None,
            (Some(system), Some((asked, revision))) if asked == system => revision.clone(),
            // Each system is asked once.
            (Some(system), _) => {
                let revision = configuration_revision(&self.host, system).await;
                self.known_revision.insert((system.clone(), revision)).1.clone()
            }
        };
        let Self { config, host, history, .. } = &*self;
        let of_trust = Feature::WITH_TRUSTED_KEYS.into_iter().filter(|_| !config.run.system_keys.is_empty());
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
            revision: revision.or_else(|| commit_of(deployed, system).cloned()),
            generation: now.generation(),
            reboot_required: now.reboot_required(),
            next_boot_differs: next_boot.zip(system).map(|(next_boot, running)| next_boot != running),
            deployed_differs: deployed.and_then(|deployed| Some(deployed.system.as_deref()? != system?)),
            system: system.map(str::to_owned),
            booted_system_differs: now.booted_system_differs(),
            uptime_s: host.uptime_s(),
            now: Some(clock::now()),
            busy: history.holder().or_else(|| self.busy_elsewhere()).map(Box::new),
            problems: self.problems.list(),
        }
    }
}

/// The kinds of problems, in the order in which an answer lists them if they do not all fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ProblemKind {
    MayNotAnswer,
    CannotHear,
    NoNixosRebuild,
    NoNix,
    NoGit,
    FlakeUnreachable,
    Clock,
    PermissionsTooWide,
}

impl ProblemKind {
    const fn code(self) -> &'static str {
        match self {
            Self::MayNotAnswer => "may_not_answer",
            Self::CannotHear => "cannot_hear",
            Self::NoNixosRebuild => "no_nixos_rebuild",
            Self::NoNix => "no_nix",
            Self::NoGit => "no_git",
            Self::FlakeUnreachable => "flake_unreachable",
            Self::Clock => "clock",
            Self::PermissionsTooWide => "permissions_too_wide",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Problems {
    /// The messages, by kind and, where a kind can occur more than once, subject.
    known: BTreeMap<(ProblemKind, String), String>,
}

impl Problems {
    /// Adds a problem, or changes its message. `what` tells several of one kind apart.
    pub(super) fn add(&mut self, kind: ProblemKind, what: &str, message: &str) {
        let message = safe(message);
        let known = self.known.entry((kind, what.to_owned())).or_default();
        if *known != message {
            tracing::warn!(problem = kind.code(), "{message}");
            *known = message;
        }
    }

    pub(super) fn remove(&mut self, kind: ProblemKind) {
        self.known.retain(|(known, _), _| *known != kind);
    }

    fn list(&self) -> Vec<Problem> {
        let first = self.known.iter().take(MAX_PROBLEMS);
        first.map(|((kind, _), message)| Problem::new(kind.code(), message.as_str())).collect()
    }

    pub(super) fn look_for_programs(&mut self, flake: &FlakeUrl) {
        let path = env::var_os("PATH").unwrap_or_default();
        for (kind, program) in PROGRAMS {
            let is_needed = kind != ProblemKind::NoGit || flake.git_remote().is_some();
            let mut files = env::split_paths(&path).filter_map(|folder| folder.join(program).metadata().ok());
            if is_needed && !files.any(|file| file.permissions().mode() & 0o111 != 0) {
                let message = format!("{program} is not on the PATH of the listener: add it to the path of its unit");
                self.add(kind, "", &message);
            }
        }
    }

    /// Compares the host's clock with the operator's, by the expiry of a request.
    pub(super) fn compare_clocks(&mut self, expires_at: Timestamp, now: Timestamp) {
        let [past, future] = CLOCKS_DIFFER;
        let ahead = expires_at.duration_since(now);
        if (-past..=future).contains(&ahead) {
            return self.remove(ProblemKind::Clock);
        }
        let by = SignedDuration::from_secs(ahead.as_secs().abs());
        let (way, or) = if ahead.is_negative() { ("ahead of", ", or its request was delayed") } else { ("behind", "") };
        let message =
            format!("the host's clock ({now:.0}) is some {by:#} {way} that of a deployer: one of the two is wrong{or}");
        self.add(ProblemKind::Clock, "", &message);
    }
}

/// Returns what this machine lacks for deployments of this flake.
pub async fn missing(flake: &FlakeUrl) -> Vec<String> {
    let mut problems = Problems::default();
    problems.look_for_programs(flake);
    let programs = problems.list().into_iter().map(|problem| problem.message);
    programs.chain(flake_problem(flake.clone(), Duration::ZERO).await).collect()
}

/// Tries to reach the flake's repository; returns why that fails. Only git is asked: Nix would fetch the whole flake.
pub async fn flake_problem(flake: FlakeUrl, after: Duration) -> Option<String> {
    sleep(after).await;
    flake.git_remote()?;
    // Any name will do: `no such branch` is an answer, too.
    let revision: Revision = "main".parse().ok()?;
    let why = match lookup::commit_of(&revision, &flake).await {
        Ok(_) | Err(LookupError::NoSuchRef { .. }) => return None,
        Err(LookupError::Failed { reason, .. }) => reason,
        Err(error) => error.to_string(),
    };
    Some(clean(&format!("the flake cannot be read: {why} (git, {})", flake.public())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::discovery::MAX_PROBLEM_BYTES;

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
        assert_eq!(flooded, 8);
        // The flood on one subject does not block answers on the other.
        assert!(calls.take(&prod, &reply(99_999)));
        for number in 100_000..110_000 {
            tokio::time::advance(Duration::from_millis(100)).await;
            assert!(calls.take(&all, &reply(number)));
        }
        assert_eq!(calls.answered.len(), REMEMBERED);
    }

    #[test]
    fn problems_are_told_while_they_last_in_few_and_clean_words() {
        let mut problems = Problems::default();
        problems.add(ProblemKind::Clock, "", "the clock is \x1b[31mwrong\x1b[0m");
        for number in 0..20 {
            problems.add(ProblemKind::CannotHear, &number.to_string(), &"x".repeat(1_000));
        }
        let told = problems.list();
        assert_eq!(told.len(), MAX_PROBLEMS);
        assert!(told.iter().all(|problem| problem.code == "cannot_hear" && problem.message.len() <= MAX_PROBLEM_BYTES));
        problems.remove(ProblemKind::CannotHear);
        assert_eq!(problems.list(), [Problem::new("clock", "the clock is wrong")]);
    }

    #[test]
    fn a_clock_that_is_far_off_is_told_until_a_request_shows_that_it_is_right() {
        let now: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        let mut problems = Problems::default();
        let mut told = |seconds: i64| {
            problems.compare_clocks(now + SignedDuration::from_secs(seconds), now);
            problems.list().first().map(|problem| problem.message.clone())
        };
        assert_eq!((told(30), told(-30), told(3_600)), (None, None, None));
        insta::assert_snapshot!(told(-3_600).unwrap(), @"the host's clock (2026-11-23T10:00:00Z) is some 1h ahead of that of a deployer: one of the two is wrong, or its request was delayed");
        insta::assert_snapshot!(told(1_000_000).unwrap(), @"the host's clock (2026-11-23T10:00:00Z) is some 277h 46m 40s behind that of a deployer: one of the two is wrong");
        assert!(told(-1_000_000).is_some());
        assert_eq!(told(30), None);
    }

    #[tokio::test]
    async fn a_flake_that_cannot_be_asked_is_told_without_its_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let missing = format!("git+file://{}/missing", folder.path().display());
        let why = flake_problem(missing.parse().unwrap(), Duration::ZERO).await.unwrap();
        assert!(why.starts_with("the flake cannot be read: fatal: "), "{why}");
        let secret =
            flake_problem("git+https://user:hunter2@localhost:1/x".parse().unwrap(), Duration::ZERO).await.unwrap();
        assert!(secret.contains("localhost") && !secret.contains("hunter2"), "{secret}");
        assert_eq!(flake_problem("github:owner/name".parse().unwrap(), Duration::ZERO).await, None);
    }

    #[test]
    fn git_is_needed_for_flakes_that_git_fetches() {
        let mut problems = Problems::default();
        problems.look_for_programs(&"github:owner/name".parse().unwrap());
        assert!(problems.list().iter().all(|problem| problem.code != "no_git"));
    }
}
