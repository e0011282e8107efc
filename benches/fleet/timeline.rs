//! Reads the times of a rollout from its events.

use std::time::Duration;

use jiff::Timestamp;
use miette::{IntoDiagnostic, Result, miette};
use serde::Deserialize;

/// The two times that matter.
#[derive(Debug, Clone, Copy)]
pub struct Timeline {
    /// When the first request was about to be sent.
    pub first_request: Timestamp,
    /// When the last final response came.
    pub last_final: Timestamp,
}

#[derive(Deserialize)]
struct Event<'a> {
    at: Timestamp,
    event: &'a str,
}

impl Timeline {
    /// Reads a journal, or the output of `--json`.
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

    /// From the first request to the last final response.
    pub fn span(&self) -> Duration {
        between(self.first_request, self.last_final)
    }

    /// From the last final response to the exit of the process.
    pub fn until(&self, ended_at: Timestamp) -> Duration {
        between(self.last_final, ended_at)
    }
}

/// Zero if negative: the exit of a process is known only to the millisecond, and may seem to be before its last event.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
