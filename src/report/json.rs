//! For programs: each event as one JSON object in a line of its own.

use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::Value;

use super::line_writer::LineWriter;
use super::{Reporter, describe};
use crate::protocol::HostName;
use crate::rollout::{Event, EventKind, EventWriter, Summary};

#[derive(Debug)]
pub struct Json<W> {
    out: LineWriter<W>,
    writer: EventWriter,
}

impl<W: Write> Json<W> {
    pub fn new(out: W) -> Self {
        Self { out: LineWriter::new(out), writer: EventWriter::default() }
    }
}

impl<W: Write> Reporter for Json<W> {
    fn event(&mut self, event: &Event, summary: &Summary) -> io::Result<()> {
        let Self { out, writer } = self;
        out.line(|line| match &event.kind {
            EventKind::Begun(_) => Ok(serde_json::to_writer(line, &without_secret(event)?)?),
            EventKind::Final { host, .. } | EventKind::Returned { host, .. } => {
                writer.write(event, line)?;
                add_facts(host, summary, line);
                Ok(())
            }
            _ => Ok(writer.write(event, line)?),
        })
    }

    fn tick(&mut self, _: Timestamp, _: &Summary) -> io::Result<()> {
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Adds what the host of an event runs now and ran before to its object, as [`describe()`] tells it.
fn add_facts(host: &HostName, summary: &Summary, json: &mut Vec<u8>) {
    let Some((host, rollout)) = summary.host(host).zip(summary.rollout.as_deref()) else { return };
    let facts = describe(host, rollout);
    json.pop();
    for (name, commit) in [("runs_now", facts.runs_now), ("ran_before", facts.ran_before)] {
        if let Some(commit) = commit {
            json.extend_from_slice(format!(r#","{name}":"{commit}""#).as_bytes());
        }
    }
    json.push(b'}');
}

/// Output ends up in logs, and a reader who knows the secret of a rollout could answer in the name of its hosts.
fn without_secret(event: &Event) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(event)?;
    value.as_object_mut().map(|fields| fields.remove("secret"));
    Ok(value)
}

#[cfg(test)]
mod tests;
