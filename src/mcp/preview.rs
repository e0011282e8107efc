//! What a plan means for the hosts that are there now, as an assistant is told before it is carried out.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::answer::ToolAnswer;
use super::redact::Redactor;
use super::status::{BY_REPOSITORY, MAX_HOSTS, MAX_WAVES};
use crate::operator::Prepared;
use crate::plan::{ResolvedHost, ResolvedPlan, ResolvedWave};
use crate::protocol::{HostName, Tier};
use crate::report;

/// More packages than this are counted, in a preview and in a question.
pub(super) const MOST_PACKAGES: usize = 15;

/// What a plan means now; `hash` changes when that does.
pub(super) fn preview(prepared: &Prepared, hash: &str, redactor: &Redactor) -> ToolAnswer {
    let Prepared { rollout, warnings, ahead, changes, .. } = prepared;
    let plan = &rollout.plan;
    let host = |wave: &ResolvedWave, host: &ResolvedHost| {
        let goes_back = ahead.contains(&host.hostname).then_some("goes back");
        json!({
            "hostname": host.hostname.as_str(),
            "tier": host.tier,
            "wave": redactor.first(&wave.name, 80),
            "state": if host.present { goes_back } else { Some("silent") },
            "runs_now": host.revision.as_ref().map(|commit| commit.short().to_owned()),
        })
    };
    let hosts = plan.own_waves().flat_map(|(_, wave)| wave.hosts.iter().map(move |host| (wave, host)));
    let changes = changes.as_ref().map(|changes| report::packages(rollout, changes, MOST_PACKAGES));
    let total = plan.hosts().count();
    let (waves, commit, asked) = (plan.waves.len(), &rollout.revision, &rollout.asked);
    let told = json!({
        "plan": redactor.first(rollout.name(), 80),
        "summary": format!("{waves} waves, {total} hosts, {asked} -> {commit}; nothing is deployed yet"),
        "next": "call apply_plan with this plan_hash, and the same until and exclude",
        "plan_hash": hash,
        "action": plan.waves.iter().map(|wave| wave.action.as_str()).collect::<std::collections::BTreeSet<_>>(),
        "asked": asked.as_str(),
        "commit": commit.as_str(),
        "subject": rollout.subject.as_ref().map(|subject| format!("{BY_REPOSITORY}{}", redactor.first(subject, 200))),
        "tiers": plan.tiers().into_iter().map(Tier::as_str).collect::<Vec<_>>(),
        "warnings": warnings.iter().take(10).map(|warning| redactor.first(warning, 300)).collect::<Vec<_>>(),
        // Whole commands: they would run on the machine of this server.
        "hooks": plan.hooks.iter().map(|(hook, command)| (hook.as_str(), redactor.clean(&command.join(" ")))).collect::<BTreeMap<_, _>>(),
        // What hosts that get built systems would have other versions of; null where it is not known.
        "changes": changes.map(|lines| lines.iter().map(|line| redactor.first(line, 200)).collect::<Vec<_>>()),
        "waves": waves_of(plan, redactor),
        "hosts": hosts.take(MAX_HOSTS).map(|(of, it)| host(of, it)).collect::<Vec<_>>(),
        "more": total.saturating_sub(MAX_HOSTS),
    });
    ToolAnswer::fitting(told, "hosts")
}

fn waves_of(plan: &ResolvedPlan, redactor: &Redactor) -> Vec<Value> {
    let wave = |(index, wave): (usize, &ResolvedWave)| {
        let limits = &wave.limits;
        json!({
            "name": redactor.first(&wave.name, 80),
            "action": wave.action.as_str(),
            "hosts": wave.hosts.len(),
            "max_parallel": limits.max_parallel,
            "max_failures": limits.max_failures,
            "bake_s": plan.bake_time(index).as_secs(),
            "confirm": limits.confirm.then_some("a person is asked before it"),
            // The whole command: it would run on the machine of this server.
            "check": limits.check.as_ref().map(|check| redactor.clean(&check.command.join(" "))),
        })
    };
    plan.waves.iter().enumerate().take(MAX_WAVES).map(wave).collect()
}

/// Stands for everything that a preview shows: the text of the plan, its part, its hosts, their systems, and the commit.
pub(super) fn plan_hash(text: &str, until: Option<&str>, exclude: &[HostName], prepared: &Prepared) -> String {
    let waves = prepared.rollout.plan.waves.iter();
    let waves: Vec<_> = waves
        .map(|wave| {
            let hosts = wave.hosts.iter().map(|host| (&host.hostname, host.tier, host.subject(), &host.system));
            (wave.name.as_str(), hosts.collect::<Vec<_>>())
        })
        .collect();
    let shown = serde_json::to_vec(&(text, until, exclude, prepared.rollout.revision.as_str(), waves));
    let shown = shown.expect("texts only, so this cannot fail");
    // Half of it is enough that no two previews share it.
    let half = Sha256::digest(shown).first_chunk().copied().unwrap_or_default();
    format!("{:032x}", u128::from_be_bytes(half))
}
