//! Measures the time to show a rollout.

use std::io;
use std::time::{Duration, Instant};

use homelab_deploy::report::{Lines, Reporter, Style};
use homelab_deploy::rollout::{Event, EventKind, Summary};
use miette::{IntoDiagnostic, Result};

/// Returns the time of the display for the events of a journal, without that of the terminal.
pub fn time(journal: &str) -> Result<Duration> {
    let events: Vec<Event> = journal.lines().map(serde_json::from_str).collect::<Result<_, _>>().into_diagnostic()?;
    let events: Vec<Event> = events.into_iter().flat_map(with_progress).collect();
    let mut lines = Lines::new(io::sink(), Style::Colored);
    let shown = replay(&events, |event, summary| lines.event(event, &[], summary))?;
    let not_shown = replay(&events, |_, _| Ok(()))?;
    Ok(shown.saturating_sub(not_shown))
}

/// Returns the time to fold the events and to show each.
fn replay(events: &[Event], mut show: impl FnMut(&Event, &Summary) -> io::Result<()>) -> Result<Duration> {
    let began = Instant::now();
    let mut summary = Summary::default();
    for event in events {
        summary.apply(event);
        show(event, &summary).into_diagnostic()?;
    }
    Ok(began.elapsed())
}

/// Adds progress events, which a display shows and a journal does not have.
fn with_progress(event: Event) -> impl Iterator<Item = Event> {
    let host = if let EventKind::Final { host, .. } = &event.kind { Some(host.clone()) } else { None };
    let progress = host
        .into_iter()
        .flat_map(|host| [EventKind::Accepted { host: host.clone() }, EventKind::Started { host, phase: None }]);
    let at = event.at;
    progress.map(move |kind| Event { at, kind }).chain([event])
}
