//! Builds rollouts for the tests of the displays.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::plan::{CONFIRM_TIMEOUT, Groups, Limits, ResolvedHost, ResolvedPlan, ResolvedWave, Rollback};
use crate::protocol::{
    Action, Commit, ErrorCode, HostName, Phase, RequestId, RequestIds, Response, RolloutId, Status, Tier,
};
use crate::report::{Lines, Reporter, Style, recap};
use crate::rollout::{
    Event, EventKind, HostOutcome, Outcome, PlanSource, Rollout, SkipReason, Summary, WaveIndex, WaveVerdict,
};

pub(in crate::report) const OLD: &str = "a91be77a91be77a91be77a91be77a91be77a91be";
pub(in crate::report) const NEW: &str = "8c1f0e28c1f0e28c1f0e28c1f0e28c1f0e28c1f0";

pub(in crate::report) fn commit(text: &str) -> Commit {
    text.parse().unwrap()
}

pub(in crate::report) fn name(host: &str) -> HostName {
    host.parse().unwrap()
}

pub(in crate::report) fn request(number: u128) -> RequestId {
    Uuid::from_u128(number).into()
}

pub(in crate::report) fn start() -> Timestamp {
    "2026-11-23T10:00:00Z".parse().unwrap()
}

/// Returns a wave of these hosts, all present and on the old commit.
pub(in crate::report) fn wave(name: &str, hosts: &[&str]) -> ResolvedWave {
    let host = |host: &&str| ResolvedHost {
        hostname: host.parse().unwrap(),
        tier: if host.starts_with("test") { Tier::Test } else { Tier::Prod },
        shared_subject: None,
        present: true,
        supports_ids: true,
        supports_rollback: true,
        supports_system: true,
        supports_log: false,
        is_current: false,
        revision: Some(commit(OLD)),
        system: None,
    };
    let limits = Limits {
        max_parallel: 2,
        max_failures: 0,
        min_hosts: 1,
        ignore_unreachable: false,
        accept_timeout: Duration::from_secs(15),
        timeout: Duration::from_mins(45),
        bake_time: Duration::ZERO,
        check: None,
        confirm: false,
        retries: 0,
        retry_delay: Duration::from_secs(30),
        rollback: Rollback::None,
        confirm_timeout: CONFIRM_TIMEOUT,
    };
    ResolvedWave {
        name: name.to_owned(),
        action: Action::Switch,
        hosts: hosts.iter().map(host).collect(),
        groups: Groups::default(),
        limits,
    }
}

pub(in crate::report) fn rollout(name: &str, waves: Vec<ResolvedWave>) -> Rollout {
    Rollout {
        id: RolloutId::from(Uuid::from_u128(0x01f9_2b3c << 96)),
        ids: RequestIds::new(Uuid::from_u128(7)),
        operator: "ops@desk".to_owned(),
        asked: "main".parse().unwrap(),
        revision: commit(NEW).into(),
        subject: Some("flake: bump nixpkgs".to_owned()),
        source: Some(PlanSource { path: format!("/plans/{name}.toml"), digest: "0".to_owned() }),
        plan: ResolvedPlan {
            name: name.to_owned(),
            waves,
            stage: false,
            left_out: BTreeSet::new(),
            remembered: BTreeSet::new(),
            hooks: crate::plan::Hooks::default(),
        },
    }
}

/// Returns a deployment without a plan file.
pub(in crate::report) fn deployment(name: &str, wave: ResolvedWave) -> Rollout {
    Rollout { source: None, ..rollout(name, vec![wave]) }
}

/// Returns the demo rollout: test1 and test2, then ns1 and ns2 one after the other, then jelly and sonos.
pub(in crate::report) fn demo() -> Rollout {
    let mut waves =
        vec![wave("test", &["test1", "test2"]), wave("dns", &["ns1", "ns2"]), wave("media", &["jelly", "sonos"])];
    waves[1].limits.max_parallel = 1;
    rollout("demo", waves)
}

/// Returns the final response of a host that ran the old commit.
pub(in crate::report) fn answer(host: &str, status: Status) -> Response {
    let json = format!(r#"{{"hostname":"{host}","status":"{status}","previous_revision":"{OLD}","revision":"{NEW}"}}"#);
    serde_json::from_str(&json).unwrap()
}

/// Returns the final response of a host whose build failed.
pub(in crate::report) fn build_failure(host: &str) -> Response {
    let mut response = answer(host, Status::Failed);
    response.error = Some(ErrorCode::BuildFailed);
    response.message = "attribute 'unboundd' missing".to_owned();
    response.log_tail =
        vec!["building the system configuration...".to_owned(), "error: attribute 'unboundd' missing".to_owned()];
    response
}

/// A simulated rollout: every event goes to a summary and a display, and the clock ticks in between.
pub(in crate::report) struct Scenario {
    now: Timestamp,
    pub(in crate::report) summary: Summary,
    pub(in crate::report) events: Vec<Event>,
    written: SharedBuffer,
    lines: Lines<SharedBuffer>,
}

/// A writer whose text the test can read while a display owns a clone of it.
#[derive(Debug, Clone, Default)]
pub(in crate::report) struct SharedBuffer(Rc<RefCell<Vec<u8>>>);

impl SharedBuffer {
    pub(in crate::report) fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }
}

impl Write for SharedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Scenario {
    pub(in crate::report) fn begin(rollout: Rollout) -> Self {
        Self::in_style(rollout, Style::Plain)
    }

    pub(in crate::report) fn in_style(rollout: Rollout, style: Style) -> Self {
        let written = SharedBuffer::default();
        let lines = Lines::new(written.clone(), style);
        let mut story = Self { now: start(), summary: Summary::default(), events: Vec::new(), written, lines };
        story.event(EventKind::Begun(Arc::new(rollout)));
        story
    }

    pub(in crate::report) fn event(&mut self, kind: EventKind) -> &mut Self {
        let event = Event { at: self.now, kind };
        self.summary.apply(&event);
        self.lines.event(&event, &[], &self.summary).unwrap();
        self.lines.flush().unwrap();
        self.events.push(event);
        self
    }

    pub(in crate::report) const fn now(&self) -> Timestamp {
        self.now
    }

    pub(in crate::report) fn wait(&mut self, seconds: u64) -> &mut Self {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.lines.tick(self.now, &self.summary).unwrap();
            self.lines.flush().unwrap();
        }
        self
    }

    pub(in crate::report) fn wave_starts(&mut self, wave: usize) -> &mut Self {
        self.event(EventKind::WaveStarted { wave: WaveIndex(wave) })
    }

    pub(in crate::report) fn wave_ends(&mut self, wave: usize, verdict: WaveVerdict) -> &mut Self {
        self.event(EventKind::WaveEnded { wave: WaveIndex(wave), verdict })
    }

    pub(in crate::report) fn sent(&mut self, host: &str) -> &mut Self {
        self.event(EventKind::Dispatched { host: name(host), request: request(1), attempt: 1 })
    }

    pub(in crate::report) fn at(&mut self, host: &str, phase: Phase) -> &mut Self {
        self.event(EventKind::Started { host: name(host), phase: Some(phase) })
    }

    pub(in crate::report) fn answered(&mut self, response: Response) -> &mut Self {
        let outcome = HostOutcome::of(response.status).unwrap();
        self.event(EventKind::Final { host: response.hostname.clone(), outcome, response: Some(Arc::new(response)) })
    }

    pub(in crate::report) fn given_up(&mut self, host: &str, outcome: HostOutcome) -> &mut Self {
        self.event(EventKind::Final { host: name(host), outcome, response: None })
    }

    pub(in crate::report) fn sent_back(&mut self, host: &str) -> &mut Self {
        self.event(EventKind::RollingBack { host: name(host), request: request(2) })
    }

    /// Ends the rollback of a host with this response.
    pub(in crate::report) fn back(&mut self, response: Response) -> &mut Self {
        let outcome = HostOutcome::of(response.status).unwrap();
        self.event(EventKind::RollbackEnded {
            host: response.hostname.clone(),
            outcome,
            response: Some(Arc::new(response)),
        })
    }

    pub(in crate::report) fn not_back(&mut self, host: &str, outcome: HostOutcome) -> &mut Self {
        self.event(EventKind::RollbackEnded { host: name(host), outcome, response: None })
    }

    pub(in crate::report) fn skipped(&mut self, hosts: &[&str], cause: SkipReason) -> &mut Self {
        for host in hosts {
            self.given_up(host, HostOutcome::Skipped(cause));
        }
        self
    }

    /// Lets a host complete its deployment within twelve seconds.
    pub(in crate::report) fn deploys(&mut self, host: &str) -> &mut Self {
        self.sent(host).event(EventKind::Accepted { host: name(host) });
        self.wait(1).at(host, Phase::Build).wait(10).at(host, Phase::Activate).wait(1);
        self.answered(answer(host, Status::Completed))
    }

    pub(in crate::report) fn ends(&mut self, outcome: Outcome) -> &mut Self {
        self.event(EventKind::Ended { outcome })
    }

    pub(in crate::report) fn recap(&self) -> String {
        self.recap_within(usize::MAX)
    }

    /// Formats the recap for a terminal of this width.
    pub(in crate::report) fn recap_within(&self, width: usize) -> String {
        recap(&self.summary, Style::Plain, width)
    }

    pub(in crate::report) fn lines(&self) -> String {
        self.written.text()
    }

    /// Returns all that the operator sees: the lines and the recap.
    pub(in crate::report) fn told(&self) -> String {
        format!("{}\n{}", self.lines(), self.recap())
    }
}
