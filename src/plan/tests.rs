//! Shared helpers for the tests of plans: short notations for plans, rosters and results.

mod changes;
mod format;
mod print;
mod properties;
mod resolve;
mod rollback;
mod schema;
mod systems;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, MietteDiagnostic};

use super::{Plan, PlanErrors, ResolvedPlan, Roster};
use crate::protocol::{HostAnswer, HostReport};

/// The only alias of these tests.
fn aliases(variable: &str) -> Option<String> {
    (variable == "HOMELAB_DEPLOY_ALIAS_MY_LAB").then(|| "deploy.prod.role.lab".to_owned())
}

fn parse(text: &str) -> Result<Plan, PlanErrors> {
    Plan::parse(text, "Weekly Update", &aliases)
}

/// Parses a valid plan.
fn plan(text: &str) -> Plan {
    match parse(text) {
        Ok(plan) => plan,
        Err(mistakes) => panic!("{}", report(&mistakes.named("plan.toml", text))),
    }
}

/// Formats each diagnostic on two lines: the message and the help.
fn told<'a>(findings: impl IntoIterator<Item = &'a MietteDiagnostic>) -> String {
    let told = findings.into_iter().map(|finding| {
        let help = finding.help().expect("every finding says what to do").to_string();
        format!("{finding}\n  {help}\n")
    });
    told.collect()
}

/// Formats a report as the command line does, without colours.
fn report(mistakes: &dyn Diagnostic) -> String {
    let mut text = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .render_report(&mut text, mistakes)
        .unwrap();
    // An editor that trims lines must not break the snapshots.
    text.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

/// Creates a host from `<tier>.<name>` or `<tier>.<name>/<role>`, with the default subjects.
fn host(text: &str) -> HostReport {
    let (address, role) = text.split_once('/').map_or((text, None), |(host, role)| (host, Some(role)));
    let (tier, name) = address.split_once('.').unwrap();
    let mut subjects = vec![format!("deploy.{tier}.{name}"), format!("deploy.{tier}.all")];
    subjects.extend(role.map(|role| format!("deploy.{tier}.role.{role}")));
    listening(text, &subjects)
}

/// Creates a host with these subjects.
fn listening(text: &str, subjects: &[impl AsRef<str>]) -> HostReport {
    let (address, role) = text.split_once('/').unwrap_or((text, ""));
    let (tier, name) = address.split_once('.').unwrap();
    let subjects: Vec<_> = subjects.iter().map(AsRef::as_ref).collect();
    let report = serde_json::json!({ "hostname": name, "tier": tier, "role": role, "deploy_subjects": subjects, "features": ["id", "rollback"] });
    serde_json::from_value(report).unwrap()
}

fn roster(hosts: &[&str]) -> Roster {
    answered_by(hosts.iter().map(|text| host(text)).collect())
}

/// Creates a roster of hosts that answered with proof.
fn answered_by(reports: Vec<HostReport>) -> Roster {
    Roster::new(reports.into_iter().map(|report| HostAnswer { report: Box::new(report), proved: true }).collect())
}

fn demo_roster() -> Roster {
    roster(&["test.test1", "test.test2", "prod.ns1/dns", "prod.ns2/dns", "prod.jelly/media", "prod.sonos/media"])
}

/// Formats each wave on a line. Silent hosts have a question mark; shared subjects are in parentheses.
fn waves(resolved: &ResolvedPlan) -> String {
    let told = resolved.waves.iter().map(|wave| {
        let hosts = wave.hosts.iter().map(|host| {
            let absent = if host.present { "" } else { "?" };
            let subject = host.shared_subject.as_ref().map(|subject| format!(" ({subject})")).unwrap_or_default();
            format!(" {}{absent}{subject}", host.hostname)
        });
        format!("{}:{} at once {}\n", wave.name, hosts.collect::<String>(), wave.limits.max_parallel)
    });
    told.collect()
}
