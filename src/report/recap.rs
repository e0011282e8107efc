//! Summarizes an ended rollout. A success is one line; every other end says why, which hosts, and what to do now.

use super::format::{DisplayDuration, Symbol, columns, count, safe, shorten, widest, wrap_indented};
use super::layout::Line;
use super::{HostFacts, Style, describe};
use crate::plan::Rollback;
use crate::protocol::HostName;
use crate::rollout::summary::{HostProgress, HostState, WaveState};
use crate::rollout::{HostOutcome, Outcome, Rollout, Summary, WaveIndex, WaveVerdict};

/// The most skipped hosts that are listed. More are counted.
const MAX_SKIPPED: usize = 8;

const TAIL_LINES: usize = 10;

/// The most hosts whose log is shown: one broken revision fails all of them in the same way.
const MAX_TAILS: usize = 3;

/// The prefix of each line of a log.
const BAR: &str = "| ";

/// The longest log line that is shown whole, in columns.
const MAX_LOG_COLUMNS: usize = 200;

/// How much further the continuation of a wrapped line is indented.
const HANGING: usize = 4;

/// Formats the summary of a rollout, without a line break at the end. Lines are wrapped at `width` columns.
pub fn recap(summary: &Summary, style: Style, width: usize) -> String {
    let Some(rollout) = summary.rollout.as_deref() else { return String::new() };
    let recap = Recap { summary, rollout };
    let (symbol, text) = recap.headline();
    let headline = |text| Line::new(symbol, text).wrapped(width, style);
    let remarks = [recap.turned_up(), recap.hosts(), recap.anomalies()];
    if summary.outcome == Some(Outcome::Succeeded) && remarks.iter().all(Vec::is_empty) {
        return headline(text + &recap.took());
    }
    let sections = remarks.into_iter().chain([vec![recap.counts()]]).filter(|section| !section.is_empty());
    let sections = sections.map(|rows| rows.iter().map(|row| wrap_row(row, width)).collect::<Vec<_>>().join("\n"));
    std::iter::once(headline(text)).chain(sections).collect::<Vec<_>>().join("\n\n")
}

/// Wraps a row that is too wide. The continuation of a log line repeats its bar.
fn wrap_row(row: &str, width: usize) -> String {
    if columns(row) <= width {
        return row.to_owned();
    }
    let text = row.trim_start().trim_start_matches(BAR).trim_start();
    let (margin, _) = row.split_at(row.len() - text.len());
    format!("{margin}{}", wrap_indented(text, width, &format!("{margin}{:HANGING$}", "")))
}

struct Recap<'a> {
    summary: &'a Summary,
    rollout: &'a Rollout,
}

impl Recap<'_> {
    fn headline(&self) -> (Symbol, String) {
        if describe::is_deployment(self.rollout) { self.deployment() } else { self.rollout() }
    }

    fn deployment(&self) -> (Symbol, String) {
        let counts = self.summary.counts();
        let (name, revision) = (self.rollout.name(), describe::revision(self.rollout));
        match self.summary.outcome {
            Some(Outcome::Succeeded) => {
                (Symbol::Good, format!("{name}: {} completed, {revision}", count(counts.completed, "host")))
            }
            Some(Outcome::Failed) => {
                let missing = counts.total - counts.completed - counts.current;
                (Symbol::Bad, format!("{name} failed: {missing} of {} did not complete", count(counts.total, "host")))
            }
            Some(Outcome::Interrupted | Outcome::Declined | Outcome::Paused) => {
                (Symbol::Bad, format!("{name} was interrupted"))
            }
            None => (Symbol::Bad, format!("{name} was cut off")),
        }
    }

    fn rollout(&self) -> (Symbol, String) {
        let name = format!("Rollout {}", self.rollout.name());
        let unstarted = self.unstarted();
        match self.summary.outcome {
            Some(Outcome::Succeeded) => (Symbol::Good, format!("{name}: {}", self.success())),
            Some(Outcome::Failed) => {
                let place = self.in_wave("in", |verdict| matches!(verdict, WaveVerdict::Failed(_)));
                let cause = self.cause(": ");
                (Symbol::Bad, format!("{name} failed{place}{cause}.{}{unstarted}", self.rollback_sentence()))
            }
            Some(Outcome::Interrupted) => {
                let ended_so = |verdict: &_| matches!(verdict, WaveVerdict::Interrupted | WaveVerdict::Failed(_));
                let (place, cause) = (self.in_wave("in", ended_so), self.cause(", which had failed: "));
                (Symbol::Bad, format!("{name} was interrupted{place}{cause}.{}{unstarted}", self.rollback_sentence()))
            }
            Some(Outcome::Declined) => (Symbol::Skipped, format!("{name} was declined{}.{unstarted}", self.before())),
            Some(Outcome::Paused) => {
                let text = format!("{name} is paused{}: nobody was there to confirm it.{unstarted}", self.before());
                (Symbol::Waits, text)
            }
            None => (Symbol::Bad, format!("{name} was cut off.")),
        }
    }

    fn success(&self) -> String {
        let (counts, total) = (self.summary.counts(), self.summary.hosts.len());
        let hosts = count(total, "host");
        let done = match (counts.completed, counts.current) {
            (completed, _) if completed == total => format!("{hosts} completed"),
            (_, current) if current == total => format!("{hosts} current"),
            (completed, 0) => format!("{completed} of {hosts} completed"),
            (completed, current) => format!("{completed} of {hosts} completed and {current} current"),
        };
        let waves = count(self.summary.waves.len(), "wave");
        format!("{done} in {waves}, {}", describe::revision(self.rollout))
    }

    /// Returns the reason why the first failed wave failed, prefixed with `lead`.
    fn cause(&self, lead: &str) -> String {
        let causes = self.summary.waves.iter().filter_map(|wave| match &wave.state {
            WaveState::Ended(WaveVerdict::Failed(cause)) => Some(format!("{lead}{}", describe::failure_reason(cause))),
            _ => None,
        });
        causes.take(1).collect()
    }

    /// Formats the first wave that ended with such a verdict, behind a preposition.
    fn in_wave(&self, preposition: &str, ended_so: impl Fn(&WaveVerdict) -> bool) -> String {
        let Some(wave) = self.wave_that(ended_so) else { return String::new() };
        let waves = &self.rollout.plan.waves;
        let name = waves.get(wave.0).map(|wave| wave.name.as_str()).unwrap_or_default();
        format!(" {preposition} wave {wave}/{} \"{name}\"", waves.len())
    }

    fn before(&self) -> String {
        self.in_wave("before", |verdict| *verdict == WaveVerdict::Skipped)
    }

    /// Formats the sentence about waves that were not started. They are always the last ones.
    fn unstarted(&self) -> String {
        let last = WaveIndex(self.summary.waves.len().saturating_sub(1));
        match self.wave_that(|verdict| *verdict == WaveVerdict::Skipped) {
            None => String::new(),
            Some(first) if first == last => format!(" Wave {last} was not started."),
            Some(first) => format!(" Waves {first}-{last} were not started."),
        }
    }

    /// Formats the sentence about the hosts that were to roll back because their wave failed.
    fn rollback_sentence(&self) -> String {
        let hosts = || self.summary.hosts.iter().filter(|host| self.was_to_return(host));
        let (total, returned) = (hosts().count(), hosts().filter(|host| host.has_rolled_back()).count());
        let those = format!("{} that had completed", count(total, "host"));
        match total - returned {
            _ if total == 0 => String::new(),
            0 => format!(" {those} returned to what ran before."),
            missing => format!(" {missing} of {those} did NOT return to what ran before."),
        }
    }

    /// Whether a host completed in a wave that failed and rolls back.
    fn was_to_return(&self, host: &HostProgress) -> bool {
        let view = self.summary.waves.get(host.wave.0);
        let wave = self.rollout.plan.waves.get(host.wave.0);
        host.state == HostState::Final(HostOutcome::Completed)
            && view.is_some_and(|view| matches!(view.state, WaveState::Ended(WaveVerdict::Failed(_))))
            && wave.is_some_and(|wave| wave.limits.rollback == Rollback::Wave)
    }

    fn wave_that(&self, matches: impl Fn(&WaveVerdict) -> bool) -> Option<WaveIndex> {
        let ended_so = |state: &WaveState| matches!(state, WaveState::Ended(verdict) if matches(verdict));
        self.summary.waves.iter().position(|wave| ended_so(&wave.state)).map(WaveIndex)
    }

    // -- the hosts that did not complete

    /// Returns a row or a few for each host that was asked and did not complete, then the skipped hosts of waves that had
    /// started. The headline counts the waves that had not.
    fn hosts(&self) -> Vec<String> {
        let is_asked = |host: &&HostProgress| match host.state {
            HostState::Final(HostOutcome::Completed) => self.was_to_return(host),
            HostState::Pending | HostState::Final(HostOutcome::Skipped(_) | HostOutcome::Current) => false,
            HostState::Final(_) => true,
            // While a rollout is running, hosts in flight need no remark.
            _ => self.summary.outcome.is_some(),
        };
        let asked: Vec<&HostProgress> = self.summary.hosts.iter().filter(is_asked).collect();
        let has_begun = |host: &HostProgress| {
            let state = self.summary.waves.get(host.wave.0).map(|wave| &wave.state);
            state != Some(&WaveState::Ended(WaveVerdict::Skipped))
        };
        let is_skipped = |host: &&HostProgress| matches!(host.state, HostState::Final(HostOutcome::Skipped(_)));
        let skipped = self.summary.hosts.iter().filter(|host| is_skipped(host) && has_begun(host));
        let mut skipped: Vec<&HostProgress> = skipped.collect();
        let hidden = skipped.len().saturating_sub(MAX_SKIPPED);
        skipped.truncate(MAX_SKIPPED);
        let width = widest(asked.iter().chain(&skipped).map(|host| host.name.as_str()));

        let mut rows = Vec::new();
        let mut tails = 0;
        for host in asked {
            rows.push(self.row(host, width));
            let tail = if tails < MAX_TAILS { self.units_and_log(host) } else { Vec::new() };
            tails += usize::from(!tail.is_empty());
            rows.extend(tail);
        }
        rows.extend(skipped.into_iter().map(|host| self.row(host, width)));
        rows.extend((hidden > 0).then(|| format!("  and {} skipped", count(hidden, "more host"))));
        rows
    }

    fn row(&self, host: &HostProgress, width: usize) -> String {
        let until = host.ended_at.or(self.summary.ended_at);
        let took = host.sent_at.zip(until).map(|(sent_at, until)| DisplayDuration::between(sent_at, until));
        let detail = describe::detail(host, self.rollout);
        let detail = match (host.state, &host.rollback) {
            (HostState::Final(HostOutcome::Completed), None) => "did NOT return: it was not asked to".to_owned(),
            (HostState::Final(HostOutcome::Completed), Some(rollback)) if rollback.outcome.is_none() => {
                "left while it returns to what ran before".to_owned()
            }
            (HostState::Final(HostOutcome::Completed | HostOutcome::Skipped(_)), _) => detail,
            (HostState::Final(_), _) => {
                std::iter::once(detail).chain(describe::left_on(host, self.rollout)).collect::<Vec<_>>().join("   ")
            }
            _ => "left in flight: its deployment continues".to_owned(),
        };
        format!("  {}", describe::host_row(host.name.as_str(), width, describe::state_word(host), took, &detail))
    }

    /// Returns the failed units of a host and the end of its log.
    fn units_and_log(&self, host: &HostProgress) -> Vec<String> {
        let HostFacts { failed_units, log, .. } = describe(host, self.rollout);
        let units: Vec<String> = failed_units.iter().map(|unit| safe(unit)).collect();
        let units = (!units.is_empty()).then(|| format!("      failed units: {}", describe::names(&units)));
        let tail = log.iter().skip(log.len().saturating_sub(TAIL_LINES));
        let line =
            |line: &String| format!("      {BAR}{}", shorten(&safe(line), MAX_LOG_COLUMNS)).trim_end().to_owned();
        units.into_iter().chain(tail.map(line)).collect()
    }

    // -- the last sections

    fn anomalies(&self) -> Vec<String> {
        let responses = self.summary.unexpected_responses.iter();
        let sentences = responses
            .map(|(host, response)| format!("    {}", describe::unexpected_response(host, response, self.summary)));
        let title = (!self.summary.unexpected_responses.is_empty()).then(|| "  late or unexpected:".to_owned());
        title.into_iter().chain(sentences).collect()
    }

    fn turned_up(&self) -> Vec<String> {
        let hosts: Vec<&str> = self.summary.late_hosts.keys().map(HostName::as_str).collect();
        if hosts.is_empty() {
            return Vec::new();
        }
        let hosts = describe::names(&hosts);
        vec![format!("  turned up meanwhile and not deployed: {hosts}   (apply the plan again for them)")]
    }

    fn counts(&self) -> String {
        let counts = self.summary.counts();
        format!("  {}: {}{}", count(counts.total, "host"), describe::counts(&counts), self.took())
    }

    fn took(&self) -> String {
        describe::took(self.summary).map(|took| format!("   {took}")).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
