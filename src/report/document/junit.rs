//! Renders a rollout as `JUnit` XML for CI systems: a wave is a suite, and a host a test case.

use jiff::tz::TimeZone;

use super::html::escape;
use super::{Document, HostSection, WaveSection, write};
use crate::rollout::HostOutcome;
use crate::rollout::summary::HostState;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CaseResult {
    Passed,
    Failed,
    Skipped,
}

pub fn junit(document: &Document<'_>) -> String {
    let suites: String = document.waves().map(|wave| suite(document, &wave)).collect();
    let counted = count(document.waves().flat_map(|wave| document.hosts(wave.index)));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"{}\" {counted}>\n{suites}</testsuites>\n",
        xml(&document.name())
    )
}

fn suite(document: &Document<'_>, wave: &WaveSection<'_>) -> String {
    let name = xml(&wave.name);
    let mut suite = format!("  <testsuite name=\"{name}\" {}>\n", count(document.hosts(wave.index)));
    for host in document.hosts(wave.index) {
        let (says, log) = (xml(&format!("{}: {}", host.status(), host.says(&TimeZone::UTC))), xml(&host.log()));
        let inside = match verdict(&host) {
            CaseResult::Passed => String::new(),
            CaseResult::Skipped => format!("<skipped message=\"{says}\"/>"),
            CaseResult::Failed => format!("<failure message=\"{says}\">{log}</failure>"),
        };
        let seconds = host.took.unwrap_or_default().0.as_secs_f64();
        let host = xml(host.view.name.as_str());
        write(
            &mut suite,
            format_args!(
                "    <testcase classname=\"{name}\" name=\"{host}\" time=\"{seconds:.3}\">{inside}</testcase>\n"
            ),
        );
    }
    suite + "  </testsuite>\n"
}

fn count<'a>(hosts: impl Iterator<Item = HostSection<'a>>) -> String {
    let verdicts: Vec<CaseResult> = hosts.map(|host| verdict(&host)).collect();
    let number = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
    let (failed, skipped) = (number(CaseResult::Failed), number(CaseResult::Skipped));
    format!("tests=\"{}\" failures=\"{failed}\" errors=\"0\" skipped=\"{skipped}\"", verdicts.len())
}

/// Returns the result of a host. A host that has not finished has neither passed nor failed, and counts as skipped.
fn verdict(host: &HostSection<'_>) -> CaseResult {
    match host.view.state {
        HostState::Final(_) if host.view.runs_what_was_asked() => CaseResult::Passed,
        HostState::Final(HostOutcome::Skipped(_)) => CaseResult::Skipped,
        HostState::Final(_) => CaseResult::Failed,
        _ => CaseResult::Skipped,
    }
}

/// Escapes foreign text for XML, which cannot represent some characters at all.
fn xml(text: &str) -> String {
    let is_allowed = |character: &char| matches!(character, '\t' | '\n' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    escape(&text.chars().filter(is_allowed).collect::<String>())
}
