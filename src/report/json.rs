//! Writes each event as a line of JSON, for programs.

use std::io::{self, Write};

use jiff::Timestamp;

use super::Reporter;
use super::lines::LineWriter;
use crate::protocol::HostName;
use crate::rollout::{Event, EventKind, EventWriter, Rollout, Summary};

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
    fn event(&mut self, event: &Event, json: &[u8], summary: &Summary) -> io::Result<()> {
        let Self { out, writer } = self;
        out.line(|line| {
            let begins = line.len();
            line.extend_from_slice(json);
            if json.is_empty() {
                writer.write(event, line)?;
            }
            match &event.kind {
                EventKind::Begun(rollout) => cut_secret(rollout, line, begins)?,
                EventKind::Final { host, .. } | EventKind::RollbackEnded { host, .. } => add_facts(host, summary, line),
                _ => {}
            }
            Ok(())
        })
    }

    fn tick(&mut self, _: Timestamp, _: &Summary) -> io::Result<()> {
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Adds `runs_now` and `ran_before` of the host to the JSON object of an event.
fn add_facts(host: &HostName, summary: &Summary, json: &mut Vec<u8>) {
    let Some((host, rollout)) = summary.host(host).zip(summary.rollout.as_deref()) else { return };
    json.pop();
    for (name, commit) in [("runs_now", host.runs_now(rollout).as_ref()), ("ran_before", host.ran_before(rollout))] {
        if let Some(commit) = commit {
            json.extend_from_slice([",\"", name, "\":\"", commit.as_str(), "\""].concat().as_bytes());
        }
    }
    json.push(b'}');
}

/// Removes the rollout's secret: output ends up in logs, and a reader who knows it can forge hosts' responses.
fn cut_secret(rollout: &Rollout, json: &mut Vec<u8>, begins: usize) -> io::Result<()> {
    let secret = format!(r#""secret":{},"#, serde_json::to_string(&rollout.ids)?);
    let mut places = json.windows(secret.len()).skip(begins);
    let Some(place) = places.position(|bytes| bytes == secret.as_bytes()).map(|place| begins + place) else {
        json.truncate(begins);
        return Err(io::Error::other("the secret of the rollout would be printed"));
    };
    json.drain(place..place + secret.len());
    Ok(())
}

#[cfg(test)]
mod tests;
