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
use crate::operator::{Discovered, History, RollCall, resolve_revision};
use crate::plan::Plan;
use crate::protocol::{Commit, FlakeUrl, HostAnswer, HostName, HostReport, Problem, Revision, Role, Target, Tier};

const MAX_SUBJECTS: usize = 5;

/// The most hosts or roles that an error lists.
const MAX_NAMES: usize = 30;

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
    let Discovered { hosts: all, unheard, .. } = context.roll_call(credential, asked.tier).await?;
    let is_asked = |report: &&HostReport| {
        asked.hostname.as_ref().is_none_or(|name| *name == report.hostname)
            && asked.role.as_ref().is_none_or(|role| report.role.as_ref() == Some(role))
    };
    let reports: Vec<&HostReport> = all.iter().map(|answer| &*answer.report).filter(is_asked).collect();
    if reports.is_empty() && !all.is_empty() {
        let (hosts, roles) = names(all.iter());
        let role = asked.role.as_ref().map_or("", Role::as_str);
        return Err(match &asked.hostname {
            Some(host) if !hosts.contains(host.as_str()) => {
                unknown("unknown_host", &format!("host {:?}", host.as_str()), &hosts)
            }
            _ => unknown("unknown_role", &format!("such host of the role {role:?}"), &roles),
        });
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
        total => format!("hosts that answer: {total}"),
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
        let usable = operator.flakes.accept(only, branch).await;
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

// -- targets

impl ToolContext {
    pub(super) async fn roll_call(&self, credential: Credential, tier: Option<Tier>) -> Result<Discovered, ToolError> {
        let mut bus = self.connect(credential).await?;
        Ok(RollCall::of_all(&self.settings.operator.discovery, tier).call(&mut bus).await?)
    }

    /// Returns the error for no target or several, with the names to choose from. A schema that demanded exactly one would make
    /// some clients drop the tool.
    pub(super) async fn one_target(&self, credential: Credential, tier: Tier) -> ToolError {
        let answers = match self.roll_call(credential, Some(tier)).await {
            Ok(called) => called.hosts,
            Err(error) => return error,
        };
        let (hosts, roles) = names(answers.iter());
        let (hosts, roles) = (first_names(&hosts), first_names(&roles));
        ToolError::new("invalid_target", "no target was given, or more than one").next(format!(
            "give exactly one of hostname, all: true and role; {tier} hosts that answer: {hosts}; their roles: {roles}"
        ))
    }
}

/// Checks that a host answers for each target.
pub(super) fn check_targets(plan: &Plan, answers: &[HostAnswer]) -> Result<(), ToolError> {
    for target in plan.waves.iter().flat_map(|wave| &wave.targets).map(|selector| &selector.value.target) {
        let Some(tier) = target.tier() else { continue };
        let (hosts, roles) = names(answers.iter().filter(|answer| answer.report.tier == tier));
        match target {
            Target::Host(_, name) if !hosts.contains(name.as_str()) => {
                return Err(match answers.iter().find(|answer| answer.report.hostname == *name) {
                    Some(other) => wrong_tier(name, other.report.tier, tier),
                    None => unknown("unknown_host", &format!("{tier} host {:?}", name.as_str()), &hosts),
                });
            }
            Target::Role(_, role) if !roles.contains(role.as_str()) => {
                let what = format!("{tier} host of the role {:?}", role.as_str());
                return Err(unknown("unknown_role", &what, &roles));
            }
            Target::All(_) if hosts.is_empty() => {
                return Err(unknown("no_hosts", &format!("{tier} host"), &hosts));
            }
            _ => {}
        }
    }
    Ok(())
}

fn unknown(code: &'static str, what: &str, known: &BTreeSet<&str>) -> ToolError {
    ToolError::new(code, format!("no {what} answers; those that do: {}", first_names(known)))
        .next("list_hosts shows hosts, tiers and roles")
}

/// Returns the names and the roles of hosts.
fn names<'a>(answers: impl Iterator<Item = &'a HostAnswer>) -> (BTreeSet<&'a str>, BTreeSet<&'a str>) {
    let answers =
        answers.map(|answer| (answer.report.hostname.as_str(), answer.report.role.as_ref().map(Role::as_str)));
    let (hosts, roles): (_, BTreeSet<Option<&str>>) = answers.unzip();
    (hosts, roles.into_iter().flatten().collect())
}

fn first_names(names: &BTreeSet<&str>) -> String {
    let names = names.iter().copied().take(MAX_NAMES).collect::<Vec<_>>().join(", ");
    if names.is_empty() { "none".to_owned() } else { names }
}
