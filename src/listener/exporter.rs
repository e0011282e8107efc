//! The metrics of a listener over HTTP, for Prometheus to fetch.
//!
//! It is beside the loop that serves NATS and sees no more than what that last showed. Clients are few at a time, have
//! little time and room, and need not be trusted for any of it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::host::Host;
use super::metrics::{CONTENT_TYPE, Metrics, Seen};

/// How many clients are served at once; others wait until they are accepted.
const CLIENTS: usize = 8;

/// How long a client may take, from its connection to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many bytes a request may have, up to its empty line.
const REQUEST_BYTES: u64 = 8 * 1024;

/// How long to wait after a client could not be accepted, as it is with too many open files.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Exporter {
    socket: TcpListener,
    source: Source,
}

/// Where the metrics come from.
#[derive(Debug, Clone)]
struct Source {
    metrics: watch::Receiver<Metrics>,
    host: Host,
}

impl Exporter {
    /// Takes the address, and does not answer on it yet.
    pub(super) async fn bind(address: SocketAddr, metrics: watch::Receiver<Metrics>, host: Host) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        tracing::info!("metrics on http://{}/metrics", socket.local_addr()?);
        Ok(Self { socket, source: Source { metrics, host } })
    }

    /// Never returns.
    pub(super) async fn serve(self) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.socket.accept(), if clients.len() < CLIENTS => match accepted {
                    Ok((client, _)) => {
                        clients.spawn(timeout(PATIENCE, answer(client, self.source.clone())));
                    }
                    Err(error) => {
                        tracing::warn!("nobody can ask for metrics: {error}");
                        sleep(PAUSE).await;
                    }
                },
                // Whether a client got its answer is its own concern.
                Some(_) = clients.join_next() => {}
            }
        }
    }
}

/// Answers the one request of a client.
async fn answer(client: TcpStream, source: Source) -> io::Result<()> {
    let mut client = BufStream::new(client);
    let line = request_line(&mut client).await?;
    client.write_all(reply(line.as_deref(), &source).as_bytes()).await?;
    client.shutdown().await?;
    // A connection that is closed over something unread takes back what was said on it.
    copy(&mut client.take(REQUEST_BYTES), &mut sink()).await?;
    Ok(())
}

/// Reads a request up to its empty line, and returns the first one; nothing when it has no end or is too long.
async fn request_line(client: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut client = client.take(REQUEST_BYTES);
    let (mut first, mut line) = (Vec::new(), Vec::new());
    client.read_until(b'\n', &mut first).await?;
    loop {
        line.clear();
        client.read_until(b'\n', &mut line).await?;
        match &line[..] {
            b"\r\n" | b"\n" => return Ok(Some(String::from_utf8_lossy(&first).into_owned())),
            [.., b'\n'] => {}
            _ => return Ok(None),
        }
    }
}

/// What to say to a request with this first line.
fn reply(line: Option<&str>, source: &Source) -> String {
    let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
    let [method, target, _version] = words[..] else { return refusal("400 Bad Request", "") };
    match (method, target.split('?').next()) {
        ("GET", Some("/metrics")) => source.reply(),
        (_, Some("/metrics")) => refusal("405 Method Not Allowed", "Allow: GET\r\n"),
        _ => refusal("404 Not Found", ""),
    }
}

fn refusal(status: &str, header: &str) -> String {
    response(status, header, "text/plain", &format!("{status}: the metrics are at /metrics\n"))
}

fn response(status: &str, header: &str, content_type: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{header}Content-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

impl Source {
    fn reply(&self) -> String {
        let metrics = self.metrics.borrow().clone();
        let system = self.host.current().map(|system| system.path);
        let revision = metrics.revision_of(system.as_deref()).cloned();
        let seen = Seen { revision, reboot_required: self.host.reboot_required() };
        response("200 OK", "", CONTENT_TYPE, &metrics.page(&seen))
    }
}

#[cfg(test)]
mod tests;
