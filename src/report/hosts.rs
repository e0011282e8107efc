//! Formats the hosts that answered the roll call as a table.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::format::{ago, columns, first_line, pad, safe, widest, wrap_indented};
use crate::protocol::{Commit, HostAnswer, HostReport};

const TITLES: [&str; 5] = ["host", "tier", "role", "commit", "state"];

/// A state goes below its row if the other columns leave it fewer columns than this.
const MIN_STATE: usize = 24;

const INDENT: usize = 4;

#[derive(Debug, Clone, Copy)]
pub struct HostsView<'a> {
    /// How many commits each deployed commit is behind, where known.
    pub behind: &'a BTreeMap<Commit, usize>,
    pub now: Timestamp,
    pub width: usize,
}

/// Formats the hosts as a table with a header, in the given order; every line ends with a line break. A state that does
/// not fit continues on the next line.
pub fn hosts_table(answers: &[HostAnswer], view: &HostsView<'_>) -> String {
    let titles = TITLES.map(str::to_owned);
    let rows: Vec<[String; 5]> =
        std::iter::once(titles).chain(answers.iter().map(|answer| row(answer, view))).collect();
    let widths: [usize; 4] = std::array::from_fn(|column| widest(rows.iter().filter_map(|row| row.get(column))));
    let left = widths.iter().map(|width| width + 2).sum::<usize>();
    let line = |[cells @ .., state]: &[String; 5]| {
        let cells: String = cells.iter().zip(widths).map(|(cell, width)| pad(cell, width) + "  ").collect();
        if left + MIN_STATE.min(columns(state)) <= view.width {
            let margin = " ".repeat(left);
            return format!("{cells}{}\n", wrap_indented(state, view.width, &margin));
        }
        let margin = " ".repeat(INDENT);
        format!("{}\n{margin}{}\n", cells.trim_end(), wrap_indented(state, view.width, &margin))
    };
    rows.iter().map(line).collect()
}

fn row(answer @ HostAnswer { report, .. }: &HostAnswer, view: &HostsView<'_>) -> [String; 5] {
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let commit = |commit: &Commit| match view.behind.get(commit) {
        Some(behind @ 1..) => format!("{} behind {behind}", commit.short()),
        Some(0) | None => commit.short().to_owned(),
    };
    [
        report.hostname.to_string(),
        report.tier.to_string(),
        known(report.role.as_ref().map(|role| safe(role.as_str()))),
        known(report.revision.as_ref().map(commit)),
        state(answer, view.now),
    ]
}

/// Formats what the host is busy with or else the result of its last run, then everything that is wrong with it.
fn state(HostAnswer { report, proved }: &HostAnswer, now: Timestamp) -> String {
    let remarks = [
        (report.deployed_differs, "not what was deployed"),
        (report.next_boot_differs, "boots something else"),
        (report.reboot_required.filter(|_| report.next_boot_differs != Some(true)), "reboot required"),
        (Some(!proved), "answers in the old form: not proved"),
    ];
    let remarks = remarks.into_iter().filter(|(is_so, _)| *is_so == Some(true)).map(|(_, remark)| remark.to_owned());
    let problems = report.problems.iter().map(|problem| format!("⚠ {}", first_line(&problem.message)));
    std::iter::once(doing(report, now)).chain(remarks).chain(problems).collect::<Vec<_>>().join(", ")
}

fn doing(report: &HostReport, now: Timestamp) -> String {
    match (&report.busy, &report.last) {
        (Some(holder), _) => {
            let operator = holder.operator.as_deref().map(|operator| format!(" for {}", safe(operator)));
            format!("busy{}, began {}", operator.unwrap_or_default(), ago(holder.since, now))
        }
        (None, Some(last)) => {
            let error = last.error.as_ref().map(|error| format!(" ({})", safe(error.as_str())));
            format!("{}{} {}", last.status, error.unwrap_or_default(), ago(last.at, now))
        }
        (None, None) => "idle".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::DiscoveryAnswer;

    fn answer(json: &str) -> HostAnswer {
        match DiscoveryAnswer::parse(json.as_bytes()).unwrap() {
            DiscoveryAnswer::Host(report) => HostAnswer { report, proved: true },
            DiscoveryAnswer::Operator { .. } => unreachable!("the tests give hosts only"),
        }
    }

    fn answers() -> [HostAnswer; 3] {
        let nas = answer(
            r#"{"hostname":"nas","tier":"prod","reboot_required":true,"next_boot_differs":true,"deployed_differs":true,
                "problems":[{"code":"no_git","message":"git is not on the\u001b[31m PATH of the listener"}]}"#,
        );
        [
            answer(
                r#"{"hostname":"test1","tier":"test","reboot_required":true,"next_boot_differs":false,
                    "revision":"a91be77a91be77a91be77a91be77a91be77a91be","last":{"id":"x","status":"failed",
                    "error":"build_failed","at":"2026-11-23T10:00:00Z"}}"#,
            ),
            answer(
                r#"{"hostname":"jelly","tier":"prod","role":"media","revision":"8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b",
                    "busy":{"id":"x","operator":"ops@desk","since":"2026-11-23T10:00:00.123Z"}}"#,
            ),
            HostAnswer { proved: false, ..nas },
        ]
    }

    fn shown(width: usize) -> String {
        let commit = |text: &str| text.parse::<Commit>().unwrap();
        let behind = BTreeMap::from([
            (commit("a91be77a91be77a91be77a91be77a91be77a91be"), 12),
            (commit("8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b"), 0),
        ]);
        let now = "2026-11-23T10:03:10Z".parse().unwrap();
        let table = hosts_table(&answers(), &HostsView { behind: &behind, now, width });
        assert!(table.lines().all(|line| columns(line) <= width), "{table}");
        table
    }

    #[test]
    fn a_file_has_a_line_for_each_host() {
        insta::assert_snapshot!(shown(usize::MAX), @"
        host   tier  role   commit             state
        test1  test  -      a91be77 behind 12  failed (build_failed) 3m ago, reboot required
        jelly  prod  media  8c1f0e2            busy for ops@desk, began 3m ago
        nas    prod  -      -                  idle, not what was deployed, boots something else, answers in the old form: not proved, ⚠ git is not on the PATH of the listener
        ");
    }

    #[test]
    fn a_terminal_is_never_too_narrow() {
        insta::assert_snapshot!(shown(120), @"
        host   tier  role   commit             state
        test1  test  -      a91be77 behind 12  failed (build_failed) 3m ago, reboot required
        jelly  prod  media  8c1f0e2            busy for ops@desk, began 3m ago
        nas    prod  -      -                  idle, not what was deployed, boots something else, answers in the old form: not
                                               proved, ⚠ git is not on the PATH of the listener
        ");
        insta::assert_snapshot!(shown(80), @"
        host   tier  role   commit             state
        test1  test  -      a91be77 behind 12  failed (build_failed) 3m ago, reboot
                                               required
        jelly  prod  media  8c1f0e2            busy for ops@desk, began 3m ago
        nas    prod  -      -                  idle, not what was deployed, boots
                                               something else, answers in the old form:
                                               not proved, ⚠ git is not on the PATH of
                                               the listener
        ");
        insta::assert_snapshot!(shown(60), @"
        host   tier  role   commit             state
        test1  test  -      a91be77 behind 12
            failed (build_failed) 3m ago, reboot required
        jelly  prod  media  8c1f0e2
            busy for ops@desk, began 3m ago
        nas    prod  -      -
            idle, not what was deployed, boots something else,
            answers in the old form: not proved, ⚠ git is not on the
            PATH of the listener
        ");
    }
}
