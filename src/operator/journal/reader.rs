//! Reading the record of a rollout.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use jiff::Timestamp;

use crate::rollout::{Event, EventKind, Rollout};

/// What stands in front of the time of the first event.
const TIME_BEGINS: &str = "{\"at\":\"";

/// How much of a journal has that time in it, in bytes.
const TIME_WITHIN: u64 = 64;

/// When a rollout began, by the first bytes of its journal: a plan may be long.
pub(super) fn began_at(journal: File) -> Option<Timestamp> {
    let mut bytes = Vec::new();
    journal.take(TIME_WITHIN).read_to_end(&mut bytes).ok()?;
    // What stands behind the time may be cut in the middle of a character.
    String::from_utf8_lossy(&bytes).strip_prefix(TIME_BEGINS)?.split('"').next()?.parse().ok()
}

/// What the first line of a journal says, which is as much as a plan is long. What follows may be a lot more.
pub(super) fn beginning(journal: File) -> Option<(Timestamp, Arc<Rollout>)> {
    let mut line = String::new();
    BufReader::new(journal).read_line(&mut line).ok()?;
    match serde_json::from_str(&line).ok()? {
        Event { at, kind: EventKind::Begun(rollout) } => Some((at, rollout)),
        _ => None,
    }
}

/// The events of all whole lines from this one on, and where they end. An error names the line that cannot be read, and why.
pub(in crate::operator) fn read_events(text: &str, first: usize) -> Result<(Vec<Event>, u64), (usize, String)> {
    let mut events = Vec::new();
    let mut whole = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        // Only what is in front of a line's end is known to be all of it.
        let Some(object) = line.strip_suffix('\n') else { break };
        let number = first + index;
        let event: Event = serde_json::from_str(object).map_err(|error| (number, error.to_string()))?;
        if number > 1 && matches!(event.kind, EventKind::Begun(_)) {
            return Err((number, "another rollout begins here".to_owned()));
        }
        events.push(event);
        whole += line.len() as u64;
    }
    Ok((events, whole))
}
