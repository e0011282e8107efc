//! Formats hosts and rollouts as tables, and rollouts as JSON.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::describe::{self, Liveness, outcome};
use super::format::{ago, columns, first_line, pad, safe, widest, wrap_indented};
use crate::protocol::{Commit, HostAnswer, HostReport};
use crate::rollout::Summary;

/// The last cell of a row goes below the row if the other cells leave it fewer columns than this.
const MIN_LAST: usize = 24;

/// The margin of what goes below a row.
const MARGIN: &str = "    ";

/// Formats the hosts that answered the roll call as a table, in the given order. `behind` has the number of commits by
/// which deployed ones are behind, where known.
pub fn hosts_table(answers: &[HostAnswer], behind: &BTreeMap<Commit, usize>, now: Timestamp, width: usize) -> String {
    let commit = |commit: &Commit| match behind.get(commit) {
        Some(behind @ 1..) => format!("{} behind {behind}", commit.short()),
        Some(0) | None => commit.short().to_owned(),
    };
    let rows = answers.iter().map(|answer @ HostAnswer { report, .. }| {
        [
            report.hostname.to_string(),
            report.tier.to_string(),
            report.role.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            report.revision.as_ref().map_or_else(|| "-".to_owned(), commit),
            state(answer, now),
        ]
    });
    table(["host", "tier", "role", "commit", "state"], rows, width)
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

/// Formats the rollouts as a table, in the given order.
pub fn rollouts_table(rollouts: &[(&Summary, Liveness)], now: Timestamp, width: usize) -> String {
    let row = |(summary, liveness): &(&Summary, Liveness)| {
        let rollout = summary.rollout.as_deref()?;
        let took = describe::took(summary).map(|took| format!(" {took}"));
        Some([
            rollout.id.short(),
            safe(rollout.name()),
            describe::revision(rollout),
            summary.began_at.map(|at| ago(at, now)).unwrap_or_default(),
            safe(&rollout.operator),
            format!("{}{}", outcome(summary, *liveness).replace('_', " "), took.unwrap_or_default()),
            describe::counts(&summary.counts()),
        ])
    };
    let titles = ["rollout", "name", "revision", "began", "by", "outcome", "hosts"];
    table(titles, rollouts.iter().filter_map(row), width)
}

/// Formats a table with a header for a terminal of `width` columns; every line ends with a line break. A cell that does
/// not fit goes below its row, and the last one is wrapped. A line is wider than the terminal only if a single cell is.
fn table<const COLUMNS: usize>(
    titles: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
    width: usize,
) -> String {
    let rows: Vec<[String; COLUMNS]> = std::iter::once(titles.map(str::to_owned)).chain(rows).collect();
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| widest(rows.iter().filter_map(|row| row.get(column))));
    let lines = |row: &[String; COLUMNS]| {
        let (mut above, mut line) = (String::new(), String::new());
        for (index, (cell, cell_width)) in row.iter().zip(widths).enumerate() {
            let needed = columns(cell).min(if index + 1 == COLUMNS { MIN_LAST } else { usize::MAX });
            if !line.trim().is_empty() && columns(&line) + needed > width {
                above += &(line.trim_end().to_owned() + "\n");
                MARGIN.clone_into(&mut line);
            }
            let margin = " ".repeat(columns(&line));
            line += &(pad(&wrap_indented(cell, width, &margin), cell_width) + "  ");
        }
        above + line.trim_end() + "\n"
    };
    rows.iter().map(lines).collect()
}

/// Returns the rollouts as a JSON array, in the given order.
pub fn rollouts_json(rollouts: &[(&Summary, Liveness)]) -> Value {
    rollouts.iter().filter_map(|(summary, liveness)| object(summary, *liveness)).collect()
}

/// Returns a rollout as a JSON object, or `None` before it has begun.
pub(super) fn object(summary: &Summary, liveness: Liveness) -> Option<Value> {
    let rollout = summary.rollout.as_deref()?;
    Some(json!({
        "id": rollout.id.to_string(),
        "name": rollout.name(),
        "plan": rollout.source.as_ref().map(|source| &source.path),
        "asked": rollout.asked.as_str(),
        "revision": rollout.revision.as_str(),
        "subject": rollout.subject,
        "operator": rollout.operator,
        "began_at": summary.began_at,
        "ended_at": summary.ended_at,
        "outcome": outcome(summary, liveness),
        "waves": summary.waves.len(),
        "hosts": summary.counts(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::DiscoveryAnswer;
    use crate::report::tests::scenario::{demo, start};
    use crate::rollout::{Event, EventKind, Outcome};

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
        let table = hosts_table(&answers(), &behind, now, width);
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

    fn summary(events: Vec<EventKind>) -> Summary {
        let begun = EventKind::Begun(std::sync::Arc::new(demo()));
        let events: Vec<Event> = std::iter::once(begun).chain(events).map(|kind| Event { at: start(), kind }).collect();
        Summary::of(&events)
    }

    #[test]
    fn a_table_tells_what_was_deployed_when_by_whom_and_how_it_ended() {
        let (over, cut_off) = (summary(vec![EventKind::Ended { outcome: Outcome::Failed }]), summary(vec![]));
        let now = start() + jiff::SignedDuration::from_hours(3);
        let rows = [(&over, Liveness::Over), (&cut_off, Liveness::Over), (&cut_off, Liveness::Running)];
        insta::assert_snapshot!(rollouts_table(&rows, now, 80), @"
        rollout   name  revision         began   by        outcome    hosts
        01f92b3c  demo  main -> 8c1f0e2  3h ago  ops@desk  failed 0s  6 not asked
        01f92b3c  demo  main -> 8c1f0e2  3h ago  ops@desk  cut off    6 not asked
        01f92b3c  demo  main -> 8c1f0e2  3h ago  ops@desk  running    6 not asked
        ");
        for width in [50, 60, 80] {
            let shown = rollouts_table(&rows, now, width);
            assert!(shown.lines().all(|line| columns(line) <= width), "{width}:\n{shown}");
        }
        insta::assert_snapshot!(rollouts_table(&rows, now, 60), @"
        rollout   name  revision         began   by        outcome
            hosts
        01f92b3c  demo  main -> 8c1f0e2  3h ago  ops@desk  failed 0s
            6 not asked
        01f92b3c  demo  main -> 8c1f0e2  3h ago  ops@desk  cut off
            6 not asked
        01f92b3c  demo  main -> 8c1f0e2  3h ago  ops@desk  running
            6 not asked
        ");
        let told = rollouts_json(&rows);
        let outcomes: Vec<&Value> = told.as_array().unwrap().iter().map(|rollout| &rollout["outcome"]).collect();
        assert_eq!(outcomes, ["failed", "cut_off", "running"]);
        assert_eq!((&told[0]["hosts"]["total"], told[0].get("secret")), (&json!(6), None));
    }
}
