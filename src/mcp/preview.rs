//! What a plan comes down to, as an assistant is told before it is carried out.

use rmcp::schemars::{self, JsonSchema};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::answer::Answer;
use super::error::ToolError;
use super::page::Page;
use super::schema;
use crate::operator::Prepared;
use crate::plan::{FrozenHost, FrozenPlan, FrozenWave};
use crate::protocol::Tier;
use crate::report;
use crate::text::safe;

/// How many waves are told of one by one.
const MAX_WAVES: usize = 20;

/// How many bytes the text beside the data may have.
const MAX_TEXT_BYTES: usize = 3_500;

/// For how many columns the text is laid out.
const COLUMNS: usize = 100;

/// What a plan comes down to now.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Preview {
    /// The name of the rollout.
    plan: String,
    /// What `apply_plan` has to be called with. It changes when plan, hosts or commit do.
    plan_hash: String,
    /// The branch, tag or commit that the plan names.
    asked: String,
    /// The commit that it stands for now.
    commit: String,
    /// The tiers of its hosts.
    tiers: Vec<String>,
    /// The waves in order; at most 20.
    waves: Vec<Wave>,
    /// What to know before it begins.
    warnings: Vec<String>,
    /// The hosts in the order in which they are deployed.
    hosts: Vec<Host>,
    /// How many hosts there are.
    total: usize,
    /// Whether there are more hosts on the next page.
    truncated: bool,
    /// The cursor of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct Wave {
    /// Its name.
    name: String,
    /// What nixos-rebuild does.
    action: String,
    /// How many hosts it has.
    hosts: usize,
    /// How many are deployed at the same time.
    max_parallel: usize,
    /// How many may fail.
    max_failures: usize,
    /// How long it is left running, in seconds.
    bake_s: u64,
    /// Whether a person is asked before it.
    confirm: bool,
    /// The command that is run after it on the operator's machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    check: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct Host {
    /// Its name.
    hostname: String,
    /// Its tier.
    #[schemars(schema_with = "schema::tier")]
    tier: Tier,
    /// Its wave.
    wave: String,
    /// Whether it answers.
    answers: bool,
    /// The commit that it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    revision: Option<String>,
}

impl Preview {
    pub(super) fn of(prepared: &Prepared, hash: String, cursor: Option<&str>) -> Result<Answer<Self>, ToolError> {
        let Prepared { rollout, warnings, .. } = prepared;
        let plan = &rollout.plan;
        let hosts = plan.waves.iter().flat_map(|wave| wave.hosts.iter().map(move |host| (host, wave)));
        let page = Page::of(&hosts.collect::<Vec<_>>(), cursor, |(host, wave)| Host::of(host, wave))?;
        let mut tiers: Vec<String> = plan.hosts().map(|host| host.tier.to_string()).collect();
        tiers.sort();
        tiers.dedup();
        let text = report::preview(rollout, warnings, COLUMNS);
        let text = text.get(..text.floor_char_boundary(MAX_TEXT_BYTES)).unwrap_or_default();
        let text = format!("{text}\n\nplan_hash: {hash}");
        let data = Self {
            plan: safe(rollout.name()),
            plan_hash: hash,
            asked: rollout.asked.to_string(),
            commit: rollout.revision.to_string(),
            tiers,
            waves: waves(plan),
            warnings: warnings.iter().take(10).map(|warning| safe(warning).chars().take(200).collect()).collect(),
            truncated: page.truncated(),
            hosts: page.items,
            total: page.total,
            next_cursor: page.next_cursor,
        };
        Ok(Answer { data, text })
    }
}

impl Host {
    fn of(host: &FrozenHost, wave: &FrozenWave) -> Self {
        Self {
            hostname: safe(host.hostname.as_str()),
            tier: host.tier,
            wave: safe(&wave.name),
            answers: host.present,
            revision: host.revision.as_ref().map(ToString::to_string),
        }
    }
}

fn waves(plan: &FrozenPlan) -> Vec<Wave> {
    let wave = |(index, wave): (usize, &FrozenWave)| Wave {
        name: safe(&wave.name),
        action: wave.action.to_string(),
        hosts: wave.hosts.len(),
        max_parallel: wave.limits.max_parallel,
        max_failures: wave.limits.max_failures,
        bake_s: plan.bake_time(index).as_secs(),
        confirm: wave.limits.confirm,
        check: wave.limits.check.as_ref().map(|check| safe(&check.command.join(" ")).chars().take(100).collect()),
    };
    plan.waves.iter().enumerate().take(MAX_WAVES).map(wave).collect()
}

/// Stands for everything that a preview shows: the text of the plan, which hosts it comes down to, and the commit.
pub(super) fn plan_hash(text: &str, prepared: &Prepared) -> String {
    let waves = prepared.rollout.plan.waves.iter();
    let waves: Vec<_> = waves
        .map(|wave| {
            let hosts = wave.hosts.iter().map(|host| (&host.hostname, host.tier, host.subject()));
            (wave.name.as_str(), hosts.collect::<Vec<_>>())
        })
        .collect();
    let shown =
        serde_json::to_vec(&(text, prepared.rollout.revision.as_str(), waves)).expect("texts only, which cannot fail");
    // Half of it is enough that no two previews share it.
    let half = Sha256::digest(shown).first_chunk().copied().unwrap_or_default();
    format!("{:032x}", u128::from_be_bytes(half))
}
