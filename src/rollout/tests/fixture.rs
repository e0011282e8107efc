//! Builds small plans, rollouts and messages.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::plan::{CONFIRM_TIMEOUT, Check, Groups, Limits, ResolvedHost, ResolvedPlan, ResolvedWave, Rollback};
use crate::protocol::{
    Action, Commit, Feature, HostName, HostReport, RequestId, RequestIds, Response, RolloutId, Status, Subject,
    SystemPath, Target, Tier,
};
use crate::rollout::Rollout;

/// The wall-clock time at which every test rollout begins.
pub(super) const EPOCH: Timestamp = Timestamp::UNIX_EPOCH;

/// How many effects a test machine prepares: so few that small rollouts reach the limit.
pub(super) const MAX_PREPARED: usize = 3;

/// The commit of every test rollout.
pub(super) const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";

/// The branch that the operator asked for.
pub(super) const BRANCH: &str = "main";

/// Returns the commit that this host reports. No other host must be made to run it.
pub(super) fn commit_of(host: usize) -> Commit {
    format!("{host:040x}").parse().unwrap()
}

pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

pub(super) fn subject_of(host: &HostName) -> Subject {
    Target::Host(Tier::Prod, host.clone()).subject()
}

pub(super) fn limits() -> Limits {
    Limits {
        max_parallel: 8,
        max_failures: 0,
        min_hosts: 1,
        ignore_unreachable: false,
        accept_timeout: secs(15),
        timeout: secs(60),
        bake_time: Duration::ZERO,
        check: None,
        confirm: false,
        retries: 0,
        retry_delay: secs(30),
        rollback: Rollback::None,
        confirm_timeout: CONFIRM_TIMEOUT,
    }
}

pub(super) fn check() -> Check {
    Check { command: vec!["./smoke.sh".to_owned()], timeout: secs(10) }
}

pub(super) fn host(hostname: &str) -> ResolvedHost {
    ResolvedHost {
        hostname: name(hostname),
        tier: Tier::Prod,
        shared_subject: None,
        present: true,
        supports_ids: true,
        supports_rollback: true,
        supports_system: true,
        supports_log: false,
        is_current: false,
        revision: None,
        system: None,
    }
}

/// Returns the system that was built for a host.
pub(super) fn system_of(host: &HostName) -> SystemPath {
    format!("/nix/store/{}-nixos-system-{host}", "0".repeat(32)).parse().unwrap()
}

/// Returns a wave of these hosts, separated by spaces, with default limits.
pub(super) fn wave(hosts: &str) -> ResolvedWave {
    wave_with(hosts, |_| {})
}

/// Returns a wave of these hosts with changed limits.
pub(super) fn wave_with(hosts: &str, change: impl FnOnce(&mut Limits)) -> ResolvedWave {
    let mut limits = limits();
    change(&mut limits);
    let hosts: Vec<ResolvedHost> = hosts.split_whitespace().map(host).collect();
    ResolvedWave { name: "wave".to_owned(), action: Action::Switch, hosts, groups: Groups::default(), limits }
}

pub(super) fn rollout(waves: impl Into<Vec<ResolvedWave>>) -> Arc<Rollout> {
    Arc::new(Rollout {
        id: RolloutId::from(Uuid::from_u128(1)),
        ids: RequestIds::new(Uuid::from_u128(2)),
        operator: "ops@desk".to_owned(),
        asked: BRANCH.parse().unwrap(),
        revision: COMMIT.parse().unwrap(),
        subject: None,
        source: None,
        plan: ResolvedPlan {
            name: "sunday".to_owned(),
            waves: waves.into(),
            stage: false,
            left_out: BTreeSet::new(),
            remembered: BTreeSet::new(),
            hooks: crate::plan::Hooks::default(),
        },
    })
}

/// Returns a response to a request from a listener that supports ids.
pub(super) fn response(host: &HostName, request: &RequestId, status: Status) -> Response {
    Response { id: Some(request.clone()), ..Response::new(host.clone(), status, "") }
}

/// Returns an answer to the roll call.
pub(super) fn report(host: &HostName, subjects: Vec<Subject>) -> HostReport {
    HostReport {
        hostname: host.clone(),
        tier: Tier::Prod,
        role: None,
        deploy_subjects: subjects,
        version: None,
        features: vec![Feature::Id],
        flake: None,
        instance: None,
        machine: None,
        revision: None,
        generation: None,
        system: None,
        booted_system_differs: None,
        reboot_required: None,
        next_boot_differs: None,
        deployed_differs: None,
        uptime_s: None,
        now: None,
        busy: None,
        last: None,
        problems: Vec::new(),
    }
}
