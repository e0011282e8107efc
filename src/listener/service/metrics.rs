//! Serves the listener's metrics over HTTP, in the text format of Prometheus.
//!
//! It runs beside the loop that serves NATS, and only sees what that loop published last. Clients are few at a time,
//! get little time and room, and need not be trusted.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::history::RequestHistory;
use crate::listener::nixos::{Host, SystemSnapshot};
use crate::listener::run::{RunSpec, commit_of};
use crate::protocol::{ErrorCode, Response, Status};

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The ways in which a run can fail. Each counter starts at zero: one that appears with 1 has never increased.
#[rustfmt::skip]
const FAILURES: [ErrorCode; 11] = [
    ErrorCode::InvalidRevision, ErrorCode::BuildFailed, ErrorCode::Timeout, ErrorCode::ActivationFailed,
    ErrorCode::Interrupted, ErrorCode::VerifyFailed, ErrorCode::NotConfirmed, ErrorCode::AlreadyRunning,
    ErrorCode::WrongHost, ErrorCode::NotAvailable, ErrorCode::Untrusted,
];

const CLIENTS: usize = 8;

/// The time from a client's connection to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(2);

const REQUEST_BYTES: u64 = 8 * 1024;

/// The state of the loop that serves NATS. The counters begin with the process; the last run is known from disk.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(super) connected: bool,
    runs: BTreeMap<(Status, Option<ErrorCode>), u64>,
    deployed: Option<Response>,
    last: Option<(RunSpec, Response)>,
}

impl Metrics {
    /// Creates the metrics of a listener that has run nothing since its start and is not connected yet.
    pub(crate) fn of(history: &RequestHistory) -> Self {
        let failures = FAILURES.map(|error| ((Status::Failed, Some(error)), 0));
        let runs = failures.into_iter().chain([((Status::Completed, None), 0)]).collect();
        let mut metrics = Self { connected: false, deployed: None, runs, last: None };
        metrics.recall(history);
        metrics
    }

    pub(super) fn count_last(&mut self, history: &RequestHistory) {
        if let Some((_, Response { status, error, .. })) = history.last() {
            *self.runs.entry((*status, error.clone())).or_default() += 1;
        }
        self.recall(history);
    }

    fn recall(&mut self, history: &RequestHistory) {
        self.deployed = history.last_deployed().cloned();
        self.last = history.last().cloned();
    }

    fn page(&self, now: &SystemSnapshot) -> String {
        let mut page = PrometheusText(String::new());
        page.gauge("build_info", "The version of the listener.", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.gauge("connected", "Whether the listener is connected to NATS.", &[], u8::from(self.connected));
        page.family("runs_total", "counter", "Runs that have ended since the listener was started.");
        for ((status, error), count) in &self.runs {
            let error = error.as_ref().map_or("", ErrorCode::as_str);
            page.sample("runs_total", &[("status", status.as_str()), ("error", error)], count);
        }
        if let Some((RunSpec { accepted_at, .. }, Response { at: Some(at), status, .. })) = &self.last {
            let ended_at = at.as_duration().as_secs_f64();
            page.gauge("last_run_timestamp_seconds", "When the last run ended.", &[], ended_at);
            let help = "How long the last run took, from its acceptance to its end.";
            let duration = at.duration_since(*accepted_at).as_secs_f64().max(0.0);
            page.gauge("last_run_duration_seconds", help, &[], duration);
            let help = "Whether the last run completed.";
            page.gauge("last_run_success", help, &[], u8::from(*status == Status::Completed));
        }
        if let Some(commit) = commit_of(self.deployed.as_ref(), now.current_path()) {
            let help = "The running commit, if the listener has deployed it.";
            page.gauge("running_revision_info", help, &[("revision", commit.as_str())], 1);
        }
        if let Some(reboot_required) = now.reboot_required() {
            let help = "Whether the next boot starts another kernel, initrd, kernel modules or system than run now.";
            page.gauge("reboot_required", help, &[], u8::from(reboot_required));
        }
        page.0
    }
}

/// Text in the format of Prometheus, with this program's prefix before each metric.
struct PrometheusText(String);

impl PrometheusText {
    fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, labels, value);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP homelab_deploy_{name} {help}\n# TYPE homelab_deploy_{name} {kind}").ok();
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.0, "homelab_deploy_{name}{labels} {value}").ok();
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

/// Answers the clients of this socket.
pub(crate) async fn serve(socket: TcpListener, metrics: watch::Receiver<Metrics>, host: Host) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = socket.accept(), if clients.len() < CLIENTS => match accepted {
                Ok((client, _)) => {
                    clients.spawn(timeout(PATIENCE, serve_client(client, metrics.clone(), host.clone())));
                }
                Err(error) => {
                    tracing::warn!("cannot serve metrics: {error}");
                    // There may be too many open files.
                    sleep(Duration::from_secs(1)).await;
                }
            },
            // A client that got no answer is no concern of the listener.
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn serve_client(client: TcpStream, metrics: watch::Receiver<Metrics>, host: Host) -> io::Result<()> {
    let mut client = BufStream::new(client);
    let mut lines = (&mut client).take(REQUEST_BYTES).lines();
    let request = lines.next_line().await?.unwrap_or_default();
    while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
    let reply = match request.split(['?', ' ']).take(2).collect::<Vec<_>>()[..] {
        ["GET", "/metrics"] => {
            let page = metrics.borrow().clone().page(&SystemSnapshot::from_links(&host));
            response("200 OK", CONTENT_TYPE, &page)
        }
        _ => response("404 Not Found", "text/plain", "the metrics are at /metrics\n"),
    };
    client.write_all(reply.as_bytes()).await?;
    client.shutdown().await?;
    // Closing a connection over unread bytes would reset it, and the client could lose the answer.
    copy(&mut client.take(REQUEST_BYTES), &mut sink()).await?;
    Ok(())
}

fn response(status: &str, content_type: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests;
