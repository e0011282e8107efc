//! Who answered the roll call.

use super::format::{safe, table};
use crate::protocol::{HostAnswer, HostReport};

const TITLES: [&str; 7] = ["host", "tier", "role", "revision", "generation", "version", "state"];

/// The hosts as a table with a title, in their order; every line ends with a line break.
pub fn hosts_table(answers: &[HostAnswer]) -> String {
    table(TITLES, answers.iter().map(row))
}

fn row(HostAnswer { report, proved }: &HostAnswer) -> [String; 7] {
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        report.hostname.to_string(),
        report.tier.to_string(),
        known(report.role.as_ref().map(|role| safe(role.as_str()))),
        known(report.revision.as_ref().map(|commit| commit.short().to_owned())),
        known(report.generation.map(|generation| generation.to_string())),
        known(report.version.as_deref().map(safe)),
        state(report) + if *proved { "" } else { ", answers in the old form: not proved" },
    ]
}

/// What the host is busy with, or else how its last run ended.
fn state(report: &HostReport) -> String {
    let doing = match (&report.busy, &report.last) {
        (Some(holder), _) => {
            let operator = holder.operator.as_deref().map(|operator| format!(" for {}", safe(operator)));
            format!("busy{} since {:.0}", operator.unwrap_or_default(), holder.since)
        }
        (None, Some(last)) => {
            let error = last.error.as_ref().map(|error| format!(" ({})", safe(error.as_str())));
            format!("{}{} at {:.0}", last.status, error.unwrap_or_default(), last.at)
        }
        (None, None) => "idle".to_owned(),
    };
    let reboot = if report.booted_system_differs == Some(true) { ", reboot pending" } else { "" };
    format!("{doing}{reboot}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::DiscoveryAnswer;

    fn answer(json: &str) -> HostAnswer {
        match DiscoveryAnswer::parse(json.as_bytes()).unwrap() {
            DiscoveryAnswer::Host(report) => HostAnswer { report: *report, proved: true },
            DiscoveryAnswer::Operator { .. } => unreachable!("the tests give hosts only"),
        }
    }

    #[test]
    fn hosts_are_aligned() {
        let nas = answer(r#"{"hostname":"nas","tier":"prod","booted_system_differs":true}"#);
        let answers = [
            answer(
                r#"{"hostname":"test1","tier":"test","version":"0.1\u001b[31m.0","last":{"id":"x","status":"failed",
                    "error":"build_failed","at":"2026-11-23T10:00:00Z"}}"#,
            ),
            answer(
                r#"{"hostname":"jelly","tier":"prod","role":"media","version":"0.1.0","generation":7,
                    "revision":"a91be77a91be77a91be77a91be77a91be77a91be","busy":{"id":"x","operator":"ops@desk",
                    "since":"2026-11-23T10:00:00.123Z"}}"#,
            ),
            HostAnswer { proved: false, ..nas },
        ];
        insta::assert_snapshot!(hosts_table(&answers), @"
        host   tier  role   revision  generation  version  state
        test1  test  -      -         -           0.1.0    failed (build_failed) at 2026-11-23T10:00:00Z
        jelly  prod  media  a91be77   7           0.1.0    busy for ops@desk since 2026-11-23T10:00:00Z
        nas    prod  -      -         -           -        idle, reboot pending, answers in the old form: not proved
        ");
    }
}
