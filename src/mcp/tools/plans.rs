//! Implements `list_plans`, `preview_plan` and `apply_plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;
use rmcp::model::CallToolResponse;
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;
use serde_json::{Value, json};

use super::deploy::{Launch, MOST_PACKAGES, within_deadline};
use crate::mcp::answer::{MAX_HOSTS, MAX_WAVES, ToolError, answer, first_warnings, subject};
use crate::mcp::call::ToolCall;
use crate::mcp::context::ToolContext;
use crate::mcp::policy::Credential;
use crate::mcp::redact::{Redactor, pattern};
use crate::operator::plan_file::PlanFile;
use crate::operator::{PrepareOptions, Prepared, SystemsFrom, WaveSelection};
use crate::plan::{Plan, ResolvedHost, ResolvedPlan, ResolvedWave};
use crate::protocol::{HostName, Tier};
use crate::report;
use crate::text::fingerprint;

/// The names of plans, which are never paths.
static NAME: LazyLock<Regex> = LazyLock::new(|| pattern("^[a-z0-9][a-z0-9-]{0,62}$"));

/// List the plans for rollouts in waves.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListPlansArguments {}

/// Carry out a plan as `preview_plan` showed it, wave after wave; it halts when a wave fails. Refused when it would do something
/// else by now. Waits like deploy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanArguments {
    /// The name of the plan.
    plan: String,
    /// `plan_hash` of its preview.
    plan_hash: String,
    /// The name of the last wave to run.
    #[schemars(with = "String", default)]
    until: Option<String>,
    /// Hosts to leave out.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    exclude: Vec<HostName>,
}

pub(super) fn list(context: &ToolContext) -> CallToolResponse {
    let names = names(context.settings.plans_dir.as_deref());
    let plans: Vec<Value> = names.iter().filter_map(|name| plan_report(context, name)).collect();
    let summary = format!("{} plans; preview_plan tells what one would do", plans.len());
    answer(json!({ "summary": summary, "plans": plans, "more": 0 }))
}

/// Describes a plan; `None` when this server has no key for it.
fn plan_report(context: &ToolContext, name: &str) -> Option<Value> {
    let file = match read(context, name) {
        Ok(file) => file,
        Err(error) => {
            return Some(json!({ "name": name, "problem": context.redactor.first(&error.text(), 500) }));
        }
    };
    let tiers = file.plan.tiers();
    context.connection(Credential::for_tiers(&tiers)).ok()?;
    let waves = file.plan.waves.iter().take(MAX_WAVES);
    Some(json!({
        "name": name,
        "tiers": tiers,
        "revision": file.plan.revision.as_ref().map(|revision| revision.value.as_str()),
        "waves": waves.map(|wave| context.redactor.first(&wave.name.value, 80)).collect::<Vec<_>>(),
    }))
}

pub(super) async fn show(context: &ToolContext, asked: PlanArguments) -> Result<CallToolResponse, ToolError> {
    let (prepared, hash) = within_deadline(context.deadline(), prepare(context, &asked)).await?;
    Ok(preview(&prepared, &hash, &context.redactor))
}

pub(super) async fn apply(
    context: &ToolContext,
    asked: PlanArguments,
    call: ToolCall<'_>,
) -> Result<CallToolResponse, ToolError> {
    let (phrase, plan_hash) = (asked.plan.clone(), Some(asked.plan_hash.clone()));
    let credential = Credential::for_tiers(&read(context, &asked.plan)?.plan.tiers());
    let launch = Launch { call, phrase, credential, no_downgrade: &Tier::ALL, plan_hash, resumes: None };
    // Reads the file for each preparation, so that a plan that was edited while a person was asked is refused as stale.
    let settle = async || {
        let (prepared, hash) = prepare(context, &asked).await?;
        if hash == asked.plan_hash {
            return Ok(prepared);
        }
        let what = format!("plan_hash: the plan {}, its hosts, its commit, until or exclude have changed", asked.plan);
        Err(ToolError::new("stale_plan", what)
            .next("call preview_plan, look at what it would do now, and give its plan_hash"))
    };
    context.launch(launch, settle).await
}

/// Prepares a plan up to a wave and without some hosts, and returns the hash of its preview.
async fn prepare(context: &ToolContext, asked: &PlanArguments) -> Result<(Prepared, String), ToolError> {
    let PlanArguments { plan, until, exclude, .. } = asked;
    let file = read(context, plan)?;
    let credential = Credential::for_tiers(&file.plan.tiers());
    context.connection(credential)?;
    let systems = file
        .systems()
        .map_err(|error| ToolError::from_diagnostic("systems_unreadable", &error))?
        .map(SystemsFrom::Built);
    let revision = SystemsFrom::revision(systems.as_ref(), &file.plan, None)?;
    let options = context.options(file.plan.clone(), Some(file.source()), revision);
    let waves = until.as_ref().map_or_else(WaveSelection::default, |until| up_to(&file.plan, until, exclude));
    let options = PrepareOptions { systems, exclude: exclude.clone(), waves, ..options };
    let prepared = context.prepare(credential, options).await?;
    let hash = plan_hash(&file.text, asked, &prepared);
    Ok((prepared, hash))
}

/// Selects the waves of a plan up to this one that have a host left.
fn up_to(plan: &Plan, last: &str, exclude: &[HostName]) -> WaveSelection {
    let mut left = plan.clone();
    for host in exclude {
        left.exclude(host);
    }
    let names = |plan: &Plan| plan.waves.iter().map(|wave| wave.name.value.clone()).collect::<Vec<_>>();
    let (mut waves, left) = (names(plan), names(&left));
    // A wave that the plan has not is an error of the selection.
    let Some(index) = waves.iter().position(|wave| wave == last) else {
        return WaveSelection { only: Some(vec![last.to_owned()]), from: None };
    };
    waves.truncate(index + 1);
    waves.retain(|wave| left.contains(wave));
    WaveSelection { only: Some(waves), from: None }
}

fn read(context: &ToolContext, name: &str) -> Result<PlanFile, ToolError> {
    Ok(PlanFile::read(&path(context.settings.plans_dir.as_deref(), name)?, &context.settings.aliases)?)
}

/// Returns the sorted names of the plans in a folder.
fn names(folder: Option<&Path>) -> Vec<String> {
    let entries = folder.and_then(|folder| folder.read_dir().ok()).into_iter().flatten();
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let names = paths.filter_map(|path| Some(path.file_name()?.to_str()?.strip_suffix(".toml")?.to_owned()));
    names.filter(|name| path(folder, name).is_ok()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Returns the path of a plan's file. A link must not lead out of the folder.
fn path(folder: Option<&Path>, name: &str) -> Result<PathBuf, ToolError> {
    if !NAME.is_match(name) {
        let shown: String = name.chars().take(80).collect();
        let what = "is not the name of a plan: those have lower-case letters, digits and - only";
        return Err(ToolError::new("invalid_plan", format!("{shown:?} {what}"))
            .next("give plan a name that list_plans shows, without a path and without .toml"));
    }
    let folder = folder.and_then(|folder| folder.canonicalize().ok());
    let file = folder.as_ref().and_then(|folder| folder.join(format!("{name}.toml")).canonicalize().ok());
    let within = file.zip(folder).filter(|(file, folder)| file.starts_with(folder) && file.is_file());
    within.map(|(file, _)| file).ok_or_else(|| {
        ToolError::new("unknown_plan", format!("there is no plan {name}")).next("list_plans shows the plans")
    })
}

fn preview(prepared: &Prepared, hash: &str, redactor: &Redactor) -> CallToolResponse {
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
    let hosts = plan.deploying_waves().flat_map(|(_, wave)| wave.hosts.iter().map(move |host| (wave, host)));
    let changes = changes.as_ref().map(|changes| report::packages(rollout, changes, MOST_PACKAGES));
    let total = plan.hosts().count();
    let (waves, commit, asked) = (plan.waves.len(), &rollout.revision, &rollout.asked);
    answer(json!({
        "plan": redactor.first(rollout.name(), 80),
        "summary": format!("{waves} waves, {total} hosts, {asked} -> {commit}; nothing is deployed yet"),
        "next": "call apply_plan with this plan_hash, and the same until and exclude",
        "plan_hash": hash,
        "action": plan.waves.iter().map(|wave| wave.action.as_str()).collect::<BTreeSet<_>>(),
        "asked": asked.as_str(),
        "commit": commit.as_str(),
        "subject": subject(rollout, redactor),
        "tiers": plan.tiers().into_iter().map(Tier::as_str).collect::<Vec<_>>(),
        "warnings": first_warnings(warnings, redactor),
        // Not cut: these commands would run on the machine of this server.
        "hooks": plan.hooks.iter().map(|(hook, command)| (hook.as_str(), redactor.clean(&command.join(" ")))).collect::<BTreeMap<_, _>>(),
        // The package changes of hosts that get built systems; null when they are unknown.
        "changes": changes.map(|lines| lines.iter().map(|line| redactor.first(line, 200)).collect::<Vec<_>>()),
        "waves": waves_of(plan, redactor),
        "hosts": hosts.take(MAX_HOSTS).map(|(of, it)| host(of, it)).collect::<Vec<_>>(),
        "more": total.saturating_sub(MAX_HOSTS),
    }))
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
            // Not cut: the command would run on the machine of this server.
            "check": limits.check.as_ref().map(|check| redactor.clean(&check.command.join(" "))),
        })
    };
    // Not cut: a plan is not carried out unless all of it was shown.
    plan.waves.iter().enumerate().map(wave).collect()
}

/// Hashes all that a preview shows: the text of the plan, its part, its hosts, their systems, and the commit.
fn plan_hash(text: &str, asked: &PlanArguments, prepared: &Prepared) -> String {
    let waves = prepared.rollout.plan.waves.iter();
    let waves: Vec<_> = waves
        .map(|wave| {
            let hosts = wave.hosts.iter().map(|host| (&host.hostname, host.tier, host.subject(), &host.system));
            (wave.name.as_str(), hosts.collect::<Vec<_>>())
        })
        .collect();
    let shown = serde_json::to_vec(&(text, &asked.until, &asked.exclude, prepared.rollout.revision.as_str(), waves));
    fingerprint(shown.expect("texts only, so this cannot fail"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::operator::testing::rollout;
    use crate::plan::Check;

    #[test]
    fn plans_are_files_in_the_folder() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("plans");
        fs::create_dir_all(folder.join("dir.toml")).unwrap();
        for file in ["b.toml", "a.toml", "UPPER.toml", "-dash.toml", "no-plan.txt", ".toml"] {
            fs::write(folder.join(file), "revision = 'main'").unwrap();
        }
        fs::write(place.path().join("outside.toml"), "secret").unwrap();
        symlink(place.path().join("outside.toml"), folder.join("out.toml")).unwrap();
        symlink("a.toml", folder.join("within.toml")).unwrap();
        symlink("nowhere.toml", folder.join("dangling.toml")).unwrap();
        symlink(&folder, place.path().join("link")).unwrap();
        for folder in [folder, place.path().join("link")] {
            let folder = Some(folder.as_path());
            assert_eq!(names(folder), ["a", "b", "within"]);
            assert!(path(folder, "within").unwrap().ends_with("a.toml"));
            for hidden in ["out", "dir", "dangling", "missing"] {
                assert_eq!(path(folder, hidden).unwrap_err().code, "unknown_plan", "{hidden}");
            }
        }
        assert_eq!(names(None), [""; 0]);
        assert_eq!(names(Some(&place.path().join("missing"))), [""; 0]);
    }

    #[test]
    fn a_preview_has_every_wave_with_its_check() {
        let mut plan = rollout(&[[].as_slice(); 25]).plan.clone();
        for (number, wave) in plan.waves.iter_mut().enumerate() {
            let command = vec!["./smoke.sh".to_owned(), number.to_string()];
            wave.limits.check = Some(Check { command, timeout: Duration::from_mins(1) });
        }
        let shown = waves_of(&plan, &Redactor::default());
        assert_eq!((shown.len(), &shown[24]["check"]), (25, &json!("./smoke.sh 24")));
    }

    proptest! {
        #[test]
        fn a_name_is_never_a_path(text in "\\PC{0,8}|[a-z0-9./-]{0,8}|[a-z]{60,66}") {
            let error = path(None, &text).unwrap_err();
            if NAME.is_match(&text) {
                prop_assert_eq!(Path::new("f").join(text).components().count(), 2);
            } else {
                prop_assert_eq!(error.code, "invalid_plan");
            }
        }
    }
}
