//! Renders a rollout as one document: HTML for a browser, Markdown for issues, pull requests and chat, `JUnit` for CI systems,
//! and JSON.

mod html;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::describe::{self, HostFacts, Liveness, describe, outcome};
use super::format::{DisplayDuration, first_line, safe};
use super::tables::object;
use crate::clock;
use crate::protocol::Commit;
use crate::rollout::summary::{HostProgress, HostState, WaveProgress, WaveState};
use crate::rollout::{HostOutcome, Rollout, Summary, WaveIndex, WaveVerdict};

use self::html::escape as xml_escape;
pub use self::html::html;

#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    summary: &'a Summary,
    rollout: &'a Rollout,
    liveness: Liveness,
    /// The latest known moment. Durations of unfinished hosts and waves count up to it.
    until: Timestamp,
}

struct WaveSection<'a> {
    index: WaveIndex,
    name: String,
    view: &'a WaveProgress,
}

struct HostSection<'a> {
    view: &'a HostProgress,
    facts: HostFacts<'a>,
    took: Option<DisplayDuration>,
}

impl<'a> Document<'a> {
    /// Returns the document of a rollout, or `None` before the rollout has begun.
    pub fn of(summary: &'a Summary, liveness: Liveness, now: Timestamp) -> Option<Self> {
        let until = latest(summary, liveness, now);
        summary.rollout.as_deref().map(|rollout| Self { summary, rollout, liveness, until })
    }

    fn name(&self) -> String {
        safe(self.rollout.name())
    }

    fn outcome(&self) -> String {
        outcome(self.summary, self.liveness).replace('_', " ")
    }

    /// Returns the deployed revision with the first line of the commit message.
    fn revision(&self) -> String {
        let subject = self.rollout.subject.as_deref().map(|subject| format!(" \"{}\"", first_line(subject)));
        describe::revision(self.rollout) + &subject.unwrap_or_default()
    }

    /// Returns the facts about the whole rollout, each with a title. Times are in `zone`.
    fn header(&self, zone: &TimeZone) -> Vec<(&'static str, String)> {
        let at = |at: Timestamp| clock::local(at, zone);
        let facts = [
            ("revision", Some(self.revision())),
            ("operator", Some(safe(&self.rollout.operator))),
            ("began", self.summary.began_at.map(at)),
            ("ended", self.summary.ended_at.map(at)),
            ("took", describe::took(self.summary).map(|took| took.to_string())),
            ("hosts", Some(describe::counts(&self.summary.counts()))),
            ("id", Some(self.rollout.id.to_string())),
        ];
        facts.into_iter().filter_map(|(title, fact)| Some((title, fact?))).collect()
    }

    fn waves(&self) -> impl Iterator<Item = WaveSection<'a>> {
        let resolved = self.rollout.plan.waves.iter().map(|wave| safe(&wave.name));
        let waves = self.summary.waves.iter().zip(resolved).enumerate();
        waves.map(|(index, (view, name))| WaveSection { index: WaveIndex(index), name, view })
    }

    fn hosts(&self, wave: WaveIndex) -> impl Iterator<Item = HostSection<'a>> {
        let document = *self;
        let took = move |view: &HostProgress| document.took(view.sent_at, view.ended_at);
        let hosts = self.summary.hosts_of(wave);
        hosts.map(move |view| HostSection { view, facts: describe(view, document.rollout), took: took(view) })
    }

    /// Returns the time from `began_at` to `ended_at`, or to the latest known moment if there is no end yet.
    fn took(&self, began_at: Option<Timestamp>, ended_at: Option<Timestamp>) -> Option<DisplayDuration> {
        began_at.map(|began_at| DisplayDuration::between(began_at, ended_at.unwrap_or(self.until)))
    }

    pub fn json(&self) -> Value {
        let mut document = object(self.summary, self.liveness).unwrap_or_default();
        let host = |HostSection { view, facts, .. }: HostSection<'_>| {
            json!({
                "host": view.name.as_str(),
                "status": facts.status,
                "error": facts.error,
                "message": facts.message,
                "ran_before": facts.ran_before.as_ref().map(Commit::as_str),
                "runs_now": facts.runs_now.as_ref().map(Commit::as_str),
                "reboot_required": facts.reboot_required,
                "failed_units": facts.failed_units,
                "attempts": view.attempts,
                "sent_at": view.sent_at,
                "ended_at": view.ended_at,
                "log": facts.log,
            })
        };
        let waves = self.waves().map(|wave| {
            json!({
                "wave": wave.index,
                "name": wave.name,
                "verdict": wave.verdict(),
                "began_at": wave.view.began_at,
                "ended_at": wave.view.ended_at,
                "hosts": self.hosts(wave.index).map(host).collect::<Vec<_>>(),
            })
        });
        let waves = waves.collect();
        document.as_object_mut().map(|fields| fields.insert("waves".to_owned(), waves));
        document
    }
}

/// Returns the latest known moment: now if the rollout is running, else the latest time in its events.
fn latest(summary: &Summary, liveness: Liveness, now: Timestamp) -> Timestamp {
    let hosts = summary.hosts.iter().flat_map(|host| [host.sent_at, host.ended_at]);
    let waves = summary.waves.iter().flat_map(|wave| [wave.began_at, wave.ended_at]);
    let running = (liveness == Liveness::Running).then_some(now);
    let known = hosts.chain(waves).chain([running, summary.ended_at, summary.began_at]);
    known.flatten().max().unwrap_or(now)
}

impl WaveSection<'_> {
    fn verdict(&self) -> String {
        match &self.view.state {
            WaveState::Pending => "not begun".to_owned(),
            WaveState::AwaitingConfirmation => "asks first".to_owned(),
            WaveState::Draining => "halted".to_owned(),
            WaveState::Ended(WaveVerdict::Failed(cause)) => format!("failed: {}", describe::failure_reason(cause)),
            WaveState::Ended(WaveVerdict::Skipped) => "skipped".to_owned(),
            state => describe::wave_status(state).to_owned(),
        }
    }
}

impl HostSection<'_> {
    /// Returns the cells of a row: the host, its status, the time taken, its commits, and what it says.
    fn cells(&self, zone: &TimeZone) -> [String; 5] {
        let took = self.took.map(|took| took.to_string()).unwrap_or_default();
        [self.view.name.to_string(), self.status(), took, self.commits(), self.says(zone)]
    }

    fn status(&self) -> String {
        self.facts.status.replace('_', " ")
    }

    /// Formats `a91be77 -> 8c1f0e2`, or one commit if only one is known or both are equal.
    fn commits(&self) -> String {
        let short = |commit: &Option<Commit>| commit.as_ref().map(|commit| commit.short().to_owned());
        match (short(&self.facts.ran_before), short(&self.facts.runs_now)) {
            (Some(before), Some(now)) if before != now => format!("{before} -> {now}"),
            (before, now) => now.or(before).unwrap_or_default(),
        }
    }

    fn says(&self, zone: &TimeZone) -> String {
        let busy = self.view.response.as_deref().filter(|response| response.holder.is_some());
        let message = busy.map_or_else(|| first_line(&self.facts.message), |busy| describe::message(busy, zone));
        // The message of a skipped host already contains the reason.
        let was_skipped = matches!(self.view.state, HostState::Final(HostOutcome::Skipped(_)));
        let error = self.facts.error.filter(|_| !was_skipped).map(safe);
        let message = Some(message).filter(|message| !message.is_empty());
        let units = Some(self.facts.failed_units.iter().map(|unit| safe(unit)).collect::<Vec<_>>().join(" "));
        let units = units.filter(|units| !units.is_empty()).map(|units| format!("failed units: {units}"));
        let reboot = self.facts.reboot_required.then(|| "reboot required".to_owned());
        error.into_iter().chain(message).chain(units).chain(reboot).collect::<Vec<_>>().join("; ")
    }

    fn log(&self) -> String {
        self.facts.log.iter().map(|line| safe(line)).collect::<Vec<_>>().join("\n")
    }
}

// -- Markdown

pub fn markdown(document: &Document<'_>, zone: &TimeZone) -> String {
    let mut page = vec![format!("# Rollout {}: {}\n", escape(&document.name()), document.outcome())];
    page.extend(document.header(zone).iter().map(|(title, fact)| format!("- {title}: {}", escape(fact))));
    for wave in document.waves() {
        let (waves, name, verdict) = (document.summary.waves.len(), escape(&wave.name), escape(&wave.verdict()));
        page.push(format!("\n## {}/{waves} {name}: {verdict}\n", wave.index));
        page.push("| host | state | took | commit | says |\n| --- | --- | --- | --- | --- |".to_owned());
        let mut logs = Vec::new();
        for host in document.hosts(wave.index) {
            let [name, status, took, commits, says] = host.cells(zone);
            let name = escape(&name);
            page.push(format!("| {name} | {status} | {took} | {} | {} |", escape(&commits), escape(&says)));
            let log = host.log();
            if !log.is_empty() {
                let fence = fence(&log);
                logs.push(format!("\nLog of {name}:\n\n{fence}\n{log}\n{fence}"));
            }
        }
        page.append(&mut logs);
    }
    page.join("\n") + "\n"
}

/// Escapes foreign text: every character that could have a meaning in Markdown or HTML gets a backslash.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_punctuation() && !matches!(character, ',' | '\'' | ';') {
            escaped.push('\\');
        }
        escaped.push(if character.is_control() { ' ' } else { character });
    }
    escaped
}

/// Returns a code fence with more backticks than the longest run of backticks in the text.
fn fence(text: &str) -> String {
    let longest = text.split(|character| character != '`').map(str::len).max().unwrap_or(0);
    "`".repeat(longest.max(2) + 1)
}

// -- JUnit

/// A test case as an element, and the name of the element in it that says why it has not passed.
type TestCase = (String, Option<&'static str>);

/// Renders a wave as a suite, and a host as a test case.
pub fn junit(document: &Document<'_>) -> String {
    let suites: Vec<Vec<TestCase>> = document.waves().map(|wave| test_cases(document, &wave)).collect();
    let mut page = vec![
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>".to_owned(),
        format!("<testsuites name=\"{}\" {}>", xml(&document.name()), case_counts(suites.iter().flatten())),
    ];
    for (wave, cases) in document.waves().zip(suites) {
        page.push(format!("  <testsuite name=\"{}\" {}>", xml(&wave.name), case_counts(&cases)));
        page.extend(cases.into_iter().map(|(element, _)| element));
        page.push("  </testsuite>".to_owned());
    }
    page.join("\n") + "\n</testsuites>\n"
}

/// Returns a case for each host of a wave, and one for a wave in which the rollout ended although none of its hosts failed.
fn test_cases(document: &Document<'_>, wave: &WaveSection<'_>) -> Vec<TestCase> {
    let case = |name: &str, seconds: f64, result, says: &str, log: &str| {
        let (suite, name, says, log) = (xml(&wave.name), xml(name), xml(says), xml(log));
        let inside = match result {
            Some("skipped") => format!("<skipped message=\"{says}\"/>"),
            Some(failure) => format!("<{failure} message=\"{says}\">{log}</{failure}>"),
            None => String::new(),
        };
        let attributes = format!("classname=\"{suite}\" name=\"{name}\" time=\"{seconds:.3}\"");
        (format!("    <testcase {attributes}>{inside}</testcase>"), result)
    };
    let of_host = |host: HostSection<'_>| {
        let says = format!("{}: {}", host.status(), host.says(&TimeZone::UTC));
        let seconds = host.took.unwrap_or_default().0.as_secs_f64();
        case(host.view.name.as_str(), seconds, case_result(host.view), &says, &host.log())
    };
    let mut cases: Vec<TestCase> = document.hosts(wave.index).map(of_host).collect();
    let is_last = document.liveness == Liveness::Over && wave.index == document.summary.current_wave;
    if is_last && cases.iter().all(|(_, result)| *result != Some("failure")) {
        let says = match &wave.view.state {
            WaveState::Ended(WaveVerdict::Failed(_)) => wave.verdict(),
            _ => format!("the rollout ended here: {}", document.outcome()),
        };
        cases.push(case("the wave", 0.0, Some("failure"), &says, ""));
    }
    cases
}

fn case_counts<'a>(cases: impl IntoIterator<Item = &'a TestCase>) -> String {
    let results: Vec<Option<&str>> = cases.into_iter().map(|(_, result)| *result).collect();
    let number = |wanted| results.iter().filter(|result| **result == Some(wanted)).count();
    let (failed, skipped) = (number("failure"), number("skipped"));
    format!("tests=\"{}\" failures=\"{failed}\" errors=\"0\" skipped=\"{skipped}\"", results.len())
}

/// Returns the name of the element for a host that has not passed. One that has not finished counts as skipped.
fn case_result(host: &HostProgress) -> Option<&'static str> {
    match host.state {
        HostState::Final(_) if host.runs_what_was_asked() => None,
        HostState::Final(HostOutcome::Skipped(_)) => Some("skipped"),
        HostState::Final(_) => Some("failure"),
        _ => Some("skipped"),
    }
}

/// Escapes foreign text for XML, which cannot represent some characters at all.
fn xml(text: &str) -> String {
    let is_allowed = |character: &char| matches!(character, '\t' | '\n' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    xml_escape(&text.chars().filter(is_allowed).collect::<String>())
}

#[cfg(test)]
mod tests;
