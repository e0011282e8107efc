//! Implements `list_hosts`, and checks targets against the hosts that answer. An error for an unknown target lists the known
//! names.

use std::collections::{BTreeMap, BTreeSet};

use rmcp::model::CallToolResponse;
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::mcp::answer::{BY_HOST, BY_REPOSITORY, MAX_HOSTS, ToolError, answer};
use crate::mcp::call;
use crate::mcp::context::ToolContext;
use crate::mcp::policy::{Credential, wrong_tier};
use crate::operator::flake::Need;
use crate::operator::{Awaited, Discovered, History, Purpose, RollCall, resolve_revision};
use crate::plan::Plan;
use crate::protocol::{Commit, FlakeUrl, HostAnswer, HostName, HostReport, Problem, Revision, Role, Target, Tier};

const MAX_SUBJECTS: usize = 5;

/// List the hosts that answer now: what they run, how their last deployment ended, problems. With branch: how many commits each
/// is behind it, and which. A host that is missing is down, or its agent is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct HostsArguments {
    /// Only hosts of this tier.
    #[schemars(schema_with = "call::tier")]
    tier: Option<Tier>,
    /// Only this host.
    #[schemars(with = "String")]
    hostname: Option<HostName>,
    /// Only hosts of this role.
    #[schemars(with = "String")]
    role: Option<Role>,
    /// Tell how far each host is behind this branch, tag or commit.
    #[schemars(with = "String")]
    branch: Option<Revision>,
}

pub(super) async fn list(context: &ToolContext, asked: HostsArguments) -> Result<CallToolResponse, ToolError> {
    // The test key hears only test hosts; the administrator's hears all.
    let is_enough = asked.tier == Some(Tier::Test) || context.settings.admin.is_none();
    let credential = if is_enough { Credential::Test } else { Credential::Admin };
    let called = context.roll_call(credential, asked.tier).await?;
    let unheard = called.unheard.clone();
    let all: Vec<HostAnswer> = called.sorted();
    let is_asked = |report: &HostReport| {
        asked.hostname.as_ref().is_none_or(|name| *name == report.hostname)
            && asked.role.as_ref().is_none_or(|role| report.role.as_ref() == Some(role))
    };
    let reports: Vec<&HostReport> =
        all.iter().map(|answer| &*answer.report).filter(|report| is_asked(report)).collect();
    if reports.is_empty() && !all.is_empty() {
        return Err(unknown(&asked, &all));
    }
    let tip = match &asked.branch {
        Some(branch) => Some(behind(context, branch, &reports).await?),
        None => None,
    };
    let missing = |report: &HostReport| tip.as_ref()?.1.get(report.revision.as_ref()?)?.as_ref();
    let hosts: Vec<Value> =
        reports.iter().take(MAX_HOSTS).map(|report| host_report(report, missing(report), context)).collect();
    let total = reports.len();
    let mut summary = match total {
        0 => "no host answers: check that the host agents run and use this NATS server".to_owned(),
        1 => "1 host answers".to_owned(),
        total => format!("{total} hosts answer"),
    };
    if !unheard.is_empty() {
        let tiers: Vec<&str> = unheard.iter().map(|tier| tier.as_str()).collect();
        summary = format!("{summary}; this server's key may not hear hosts of {}", tiers.join(" and "));
    }
    Ok(answer(json!({
        "summary": summary,
        "asked": asked.branch.as_ref().map(Revision::as_str),
        "commit": tip.as_ref().map(|(commit, _)| commit.as_str()),
        "unheard": unheard,
        "hosts": hosts,
        "total": total,
        "more": total.saturating_sub(MAX_HOSTS),
    })))
}

/// Describes a host, with the subjects of the commits that it lacks.
fn host_report(report: &HostReport, missing: Option<&Vec<String>>, context: &ToolContext) -> Value {
    let short = |text: &str| context.redactor.first(text, 100);
    let problem = |problem: &Problem| format!("{BY_HOST}{}", context.redactor.first(&problem.message, 200));
    let subject = |subject: &String| format!("{BY_REPOSITORY}{}", short(subject));
    let last = report.last.as_ref();
    json!({
        "hostname": report.hostname.as_str(),
        "tier": report.tier,
        "role": report.role.as_ref().map(Role::as_str),
        "runs_now": report.revision.as_ref().map(ToString::to_string),
        "generation": report.generation,
        "version": report.version.as_deref().map(short),
        "reboot_pending": report.booted_system_differs,
        "busy_for": report.busy.as_ref().map(|busy| short(busy.operator.as_deref().unwrap_or("an unknown operator"))),
        "last_status": last.map(|last| last.status.as_str()),
        "last_error": last.and_then(|last| last.error.as_ref()).map(|error| short(error.as_str())),
        "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
        "behind": missing.map(Vec::len),
        "subjects": missing.map(|missing| missing.iter().take(MAX_SUBJECTS).map(subject).collect::<Vec<_>>()),
    })
}

/// Returns the commit of a branch, and for each commit that hosts run the subjects of the missing commits, where known.
async fn behind(
    context: &ToolContext,
    branch: &Revision,
    reports: &[&HostReport],
) -> Result<(Commit, BTreeMap<Commit, Option<Vec<String>>>), ToolError> {
    let operator = &context.settings.operator;
    let mut flake = operator.flakes.given.clone();
    if flake.is_none() {
        let named: BTreeSet<&FlakeUrl> = reports.iter().filter_map(|report| report.flake.as_ref()).collect();
        let only = named.first().filter(|_| named.len() == 1).map(|flake| (*flake).clone());
        let usable = operator.flakes.usable(only, branch, Need::Yes).await;
        flake = usable.map_err(|error| ToolError::from_diagnostic("flake_not_accepted", &error))?;
    }
    let mut history = History::of(flake.as_ref(), operator.cache.as_deref());
    let tip = resolve_revision(branch, flake.as_ref(), &history, &operator.journals).await;
    let tip = tip.map_err(|error| ToolError::from_diagnostic("revision_not_found", &error))?;
    let mut known = BTreeMap::new();
    for commit in reports.iter().filter_map(|report| report.revision.as_ref()) {
        if !known.contains_key(commit) {
            known.insert(commit.clone(), history.subjects_between(commit, &tip).await);
        }
    }
    Ok((tip, known))
}

fn unknown(asked: &HostsArguments, all: &[HostAnswer]) -> ToolError {
    match (&asked.hostname, &asked.role) {
        (Some(host), _) if !reports(all).any(|report| report.hostname == *host) => {
            nobody("unknown_host", &format!("host {:?}", host.as_str()), hostnames(reports(all)))
        }
        (_, role) => {
            let role = role.as_ref().map_or("", Role::as_str);
            nobody("unknown_role", &format!("such host of the role {role:?}"), roles(reports(all)))
        }
    }
}

// -- targets

impl ToolContext {
    pub(super) async fn roll_call(&self, credential: Credential, tier: Option<Tier>) -> Result<Discovered, ToolError> {
        let mut bus = self.connect(credential).await?;
        let (purpose, awaited) = (Purpose::List(tier), Awaited::everybody(tier));
        let roll_call = RollCall { discovery: &self.settings.operator.discovery, purpose, awaited };
        Ok(roll_call.call(&mut bus).await?)
    }

    /// Returns the error for no target or several, with the names to choose from. A schema that demanded exactly one would make
    /// some clients drop the tool.
    pub(super) async fn one_target(&self, credential: Credential, tier: Tier, what: &str) -> ToolError {
        let hosts = match self.roll_call(credential, Some(tier)).await {
            Ok(called) => called.hosts,
            Err(error) => return error,
        };
        let (hosts, roles) = (some(hostnames(reports(&hosts))), some(roles(reports(&hosts))));
        let hosts = if hosts.is_empty() { "none" } else { &hosts };
        let roles = if roles.is_empty() { String::new() } else { format!("; their roles: {roles}") };
        ToolError::new("invalid_target", what)
            .next(format!("give exactly one of hostname, all: true and role; {tier} hosts that answer: {hosts}{roles}"))
    }
}

/// Checks that a host answers for each target.
pub(in crate::mcp) fn check_targets(plan: &Plan, answers: &[HostAnswer]) -> Result<(), ToolError> {
    for target in plan.waves.iter().flat_map(|wave| &wave.targets).map(|selector| &selector.value.target) {
        let Some(tier) = target.tier() else { continue };
        let of_tier = || reports(answers).filter(|host| host.tier == tier);
        match target {
            Target::Host(_, name) if !of_tier().any(|host| host.hostname == *name) => {
                if let Some(other) = reports(answers).find(|host| host.hostname == *name) {
                    return Err(wrong_tier(name, other.tier, tier));
                }
                return Err(nobody("unknown_host", &format!("{tier} host {:?}", name.as_str()), hostnames(of_tier())));
            }
            Target::Role(_, role) if !of_tier().any(|host| host.role.as_ref() == Some(role)) => {
                let what = format!("{tier} host of the role {:?}", role.as_str());
                return Err(nobody("unknown_role", &what, roles(of_tier())));
            }
            Target::All(_) if of_tier().next().is_none() => {
                return Err(nobody("no_hosts", &format!("{tier} host"), std::iter::empty()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn nobody<'a>(code: &'static str, what: &str, known: impl Iterator<Item = &'a str>) -> ToolError {
    let known = some(known);
    let known = if known.is_empty() { "none does".to_owned() } else { format!("those that do: {known}") };
    ToolError::new(code, format!("no {what} answers; {known}")).next("list_hosts shows hosts, tiers and roles")
}

fn reports(answers: &[HostAnswer]) -> impl Iterator<Item = &HostReport> {
    answers.iter().map(|answer| &*answer.report)
}

fn hostnames<'a>(hosts: impl Iterator<Item = &'a HostReport>) -> impl Iterator<Item = &'a str> {
    hosts.map(|host| host.hostname.as_str())
}

fn roles<'a>(hosts: impl Iterator<Item = &'a HostReport>) -> impl Iterator<Item = &'a str> {
    hosts.filter_map(|host| host.role.as_ref().map(Role::as_str))
}

/// Lists the first 30 names, each once.
fn some<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<BTreeSet<_>>().into_iter().take(30).collect::<Vec<_>>().join(", ")
}
