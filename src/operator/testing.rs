//! Helpers for the tests of this module, and of those that use it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::plan::{CONFIRM_TIMEOUT, Groups, Limits, ResolvedHost, ResolvedPlan, ResolvedWave, Rollback};
use crate::protocol::{Action, RequestIds, RolloutId, Tier};
use crate::rollout::Rollout;

pub(super) const HOUR: Duration = Duration::from_hours(1);

/// A rollout with these waves: one host at a time, no failure tolerated.
pub(crate) fn rollout(waves: &[&[&str]]) -> Arc<Rollout> {
    let waves = waves.iter().enumerate().map(|(index, hosts)| ResolvedWave {
        name: format!("wave{}", index + 1),
        action: Action::Switch,
        hosts: hosts.iter().map(|host| resolved(host)).collect(),
        groups: Groups::default(),
        limits: limits(),
    });
    Arc::new(Rollout {
        id: RolloutId::from(Uuid::from_u128(1)),
        ids: RequestIds::new(Uuid::from_u128(2)),
        operator: "ops@desk".to_owned(),
        asked: "main".parse().unwrap(),
        revision: "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b".parse().unwrap(),
        subject: None,
        source: None,
        plan: ResolvedPlan {
            name: "sunday".to_owned(),
            waves: waves.collect(),
            stage: false,
            left_out: BTreeSet::new(),
            remembered: BTreeSet::new(),
            hooks: crate::plan::Hooks::default(),
        },
    })
}

fn resolved(host: &str) -> ResolvedHost {
    let hostname = host.parse().unwrap();
    ResolvedHost {
        hostname,
        tier: Tier::Test,
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

fn limits() -> Limits {
    Limits {
        max_parallel: 1,
        max_failures: 0,
        min_hosts: 1,
        ignore_unreachable: false,
        accept_timeout: Duration::from_secs(15),
        timeout: Duration::from_mins(30),
        bake_time: Duration::ZERO,
        check: None,
        confirm: false,
        retries: 0,
        retry_delay: Duration::from_secs(30),
        rollback: Rollback::None,
        confirm_timeout: CONFIRM_TIMEOUT,
    }
}
