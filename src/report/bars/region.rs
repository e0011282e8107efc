//! Lays out the lines that are redrawn in place: the running wave with its hosts, and the waves to come.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Size;
use crate::protocol::HostName;
use crate::report::format::{Symbol, count};
use crate::report::layout::{Layout, Line};
use crate::report::{Style, wording};
use crate::rollout::summary::{Counts, HostProgress, HostState, WaveState};
use crate::rollout::{HostOutcome, WaveIndex};

type LastLines = BTreeMap<HostName, String>;

/// A quarter of the terminal is left to lines that scrolled by, and a quarter of the rest to the waves to come.
const QUARTER: usize = 4;

/// Returns the lines for a terminal of this size, or none if no wave is left to show. A line is wider than the terminal
/// only if a host name is.
pub(super) fn region(
    page: &Layout<'_>,
    last_lines: &LastLines,
    now: Timestamp,
    size: Size,
    style: Style,
) -> Vec<String> {
    let is_over = |state: &WaveState| matches!(state, WaveState::Ended(_));
    let runs = || page.summary.waves.iter().position(|wave| !is_over(&wave.state)).map(WaveIndex);
    let returns = page.summary.unfinished_rollback().filter(|_| page.summary.outcome.is_none());
    let Some(wave) = returns.or_else(runs) else { return Vec::new() };
    let rows = size.rows - size.rows.div_ceil(QUARTER);
    let later = waves_to_come(page, wave, (rows / QUARTER).max(1));
    let header = header(page, wave, now);
    let hosts = hosts(page, wave, last_lines, now, rows.saturating_sub(later.len() + header.iter().len()));
    header.into_iter().chain(hosts).chain(later).map(|line| line.within(size.columns, style)).collect()
}

// -- waves

/// Returns the header of the running wave: how many hosts completed, how many did not, and the current phase.
fn header(page: &Layout<'_>, wave: WaveIndex, now: Timestamp) -> Option<Line> {
    let view = page.summary.waves.get(wave.0)?;
    let (symbol, doing) = match view.state {
        WaveState::Running if page.summary.interrupt.is_some() => (Symbol::Bad, Some("interrupted".to_owned())),
        WaveState::Draining => (Symbol::Bad, Some("halted".to_owned())),
        WaveState::Baking => (Symbol::Waits, page.baking(wave, now)),
        WaveState::Checking => (Symbol::UnderWay, page.checking(wave)),
        WaveState::Ended(_) => (Symbol::Bad, Some("failed, and returns to what ran before".to_owned())),
        WaveState::Running => (Symbol::UnderWay, None),
        WaveState::Pending | WaveState::AwaitingConfirmation => (Symbol::Waits, None),
    };
    let counts = Counts::of(page.summary.hosts_of(wave));
    let lost = Counts { completed: 0, in_flight: 0, pending: 0, ..counts };
    let mut parts = vec![format!("{}/{}", counts.completed + counts.current, counts.total())];
    if page.summary.waves.len() > 1 {
        let all = page.summary.counts();
        parts.push(format!("{} of {}", all.completed + all.current, count(all.total(), "host")));
    }
    parts.extend(Some(wording::counts(&lost)).filter(|lost| !lost.is_empty()));
    parts.extend(doing);
    page.wave(symbol, wave, &parts.join("   "))
}

/// Returns at most `room` lines for the waves after this one.
fn waves_to_come(page: &Layout<'_>, wave: WaveIndex, room: usize) -> Vec<Line> {
    let later = wave.0 + 1..page.summary.waves.len();
    let shown = if later.len() <= room { later.len() } else { room.saturating_sub(1) };
    let mut lines: Vec<Line> =
        later.clone().take(shown).filter_map(|wave| wave_to_come(page, WaveIndex(wave))).collect();
    if shown < later.len() {
        lines.push(Line::new(Symbol::Others, format!("{} to come", count(later.len() - shown, "more wave"))));
    }
    lines
}

fn wave_to_come(page: &Layout<'_>, wave: WaveIndex) -> Option<Line> {
    let resolved = page.resolved_wave(wave)?;
    let text = if resolved.limits.confirm { "asks first".to_owned() } else { count(resolved.hosts.len(), "host") };
    page.wave(Symbol::Waits, wave, &text)
}

// -- hosts

/// Returns the hosts of a wave: all of them if they fit, else the active ones and a count of the others.
fn hosts(page: &Layout<'_>, wave: WaveIndex, last_lines: &LastLines, now: Timestamp, room: usize) -> Vec<Line> {
    let line = |host: &HostProgress| {
        let mut line = page.host_now(host, now);
        line.aside = last_lines.get(&host.name).filter(|_| wording::moves(host)).cloned();
        line
    };
    let hosts: Vec<&HostProgress> = page.summary.hosts_of(wave).filter(|host| !is_told_above(page, host)).collect();
    if hosts.len() <= room {
        return hosts.into_iter().map(line).collect();
    }
    let room = room.saturating_sub(1);
    let moving = hosts.iter().filter(|host| wording::moves(host));
    let mut lines: Vec<Line> = moving.clone().copied().take(room).map(line).collect();
    let unseen = moving.skip(room).chain(hosts.iter().filter(|host| !wording::moves(host)));
    lines.push(page.among_hosts(Symbol::Others, wording::counts(&Counts::of(unseen.copied()))));
    lines
}

/// Whether a line that scrolled by has already told how the host ended.
fn is_told_above(page: &Layout<'_>, host: &HostProgress) -> bool {
    match host.state {
        HostState::Final(HostOutcome::Completed) => {
            wording::is_deployment(page.rollout) || host.rollback.as_ref().is_some_and(|back| back.outcome.is_some())
        }
        HostState::Final(_) => true,
        HostState::Pending
        | HostState::Dispatched
        | HostState::Accepted
        | HostState::Started(_)
        | HostState::Waiting(_) => false,
    }
}

#[cfg(test)]
mod tests;
