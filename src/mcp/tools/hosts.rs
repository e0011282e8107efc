//! `list_hosts`: which hosts are there, what they run, and how far behind a branch they are.

use std::collections::{BTreeMap, BTreeSet};

use rmcp::model::CallToolResponse;
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::mcp::answer::{ToolError, fitting};
use crate::mcp::boundary::Credential;
use crate::mcp::context::ToolContext;
use crate::mcp::schema;
use crate::mcp::status::{BY_HOST, BY_REPOSITORY, MAX_HOSTS};
use crate::mcp::targets::{hostnames, nobody, reports, roles};
use crate::operator::flake::Need;
use crate::operator::{History, resolve_revision};
use crate::protocol::{Commit, FlakeUrl, HostAnswer, HostName, HostReport, Problem, Revision, Role, Tier};

const MAX_SUBJECTS: usize = 5;

/// List the hosts that answer now: what they run, how their last deployment ended, problems. With branch: how many commits each
/// is behind it, and which. A host that is missing is down, or its agent is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct HostsArguments {
    /// Only hosts of this tier.
    #[schemars(schema_with = "schema::tier")]
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
    // Each key hears the hosts of its own tier; an administrator's hears all.
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
        reports.iter().take(MAX_HOSTS).map(|report| listed(report, missing(report), context)).collect();
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
    let told = json!({
        "summary": summary,
        "asked": asked.branch.as_ref().map(Revision::as_str),
        "commit": tip.as_ref().map(|(commit, _)| commit.as_str()),
        "unheard": unheard,
        "hosts": hosts,
        "total": total,
        "more": total.saturating_sub(MAX_HOSTS),
    });
    Ok(fitting(told, "hosts"))
}

/// A host in the list, with the subjects of the commits that it lacks.
fn listed(report: &HostReport, missing: Option<&Vec<String>>, context: &ToolContext) -> Value {
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

/// The commit of a branch, and what each commit that hosts run lacks of it, where that is known.
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
        flake = usable.map_err(|error| ToolError::told("flake_not_accepted", &error))?;
    }
    let mut history = History::of(flake.as_ref(), operator.cache.as_deref());
    let tip = resolve_revision(branch, flake.as_ref(), &history, &operator.journals).await;
    let tip = tip.map_err(|error| ToolError::told("revision_not_found", &error))?;
    let mut known = BTreeMap::new();
    for commit in reports.iter().filter_map(|report| report.revision.as_ref()) {
        if !known.contains_key(commit) {
            known.insert(commit.clone(), history.subjects_between(commit, &tip).await);
        }
    }
    Ok((tip, known))
}

/// That no host is called so or has this role, with the names to choose from.
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
