//! When things happened in a rollout, by the times of its events.

use std::time::Duration;

use jiff::Timestamp;
use miette::{IntoDiagnostic, Result, miette};
use serde::Deserialize;

/// The two moments that count.
#[derive(Debug, Clone, Copy)]
pub struct Timeline {
    /// When the first request was about to leave.
    pub first_request: Timestamp,
    /// When the last host became final.
    pub last_final: Timestamp,
}

#[derive(Deserialize)]
struct Event<'a> {
    at: Timestamp,
    event: &'a str,
}

impl Timeline {
    /// The timeline of a journal, or of what `--json` prints.
    pub fn of(events: &str) -> Result<Self> {
        let (mut first_request, mut last_final) = (None, None);
        for line in events.lines() {
            let event: Event = serde_json::from_str(line).into_diagnostic()?;
            match event.event {
                "dispatched" => _ = first_request.get_or_insert(event.at),
                "final" => last_final = Some(event.at),
                _ => {}
            }
        }
        let both = first_request.zip(last_final);
        let (first_request, last_final) = both.ok_or_else(|| miette!("nothing was deployed: {events}"))?;
        Ok(Self { first_request, last_final })
    }

    /// From the first request to the last final.
    pub fn span(&self) -> Duration {
        between(self.first_request, self.last_final)
    }

    /// From the last final to the end of the process.
    pub fn until(&self, ended_at: Timestamp) -> Duration {
        between(self.last_final, ended_at)
    }
}

/// The end of a process is known to the millisecond only, and so may seem to be before its last event.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
