//! Why there is no connection.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::PathBuf;

use async_nats::{ConnectError, ConnectErrorKind, rustls};
use miette::Diagnostic;
use thiserror::Error;

use super::ServerUrl;

#[derive(Debug, Error, Diagnostic)]
pub enum BusError {
    #[error("no NATS server can be reached: {}", list(.0))]
    #[diagnostic(help(
        "check that nats-server runs there and that the address is right; for a server with TLS use tls:// and, with a \
         private authority, --tls-ca"
    ))]
    Unreachable(Vec<ConnectAttempt>),
    #[error("{server} refuses this key")]
    #[diagnostic(help("add its public key to a user in the server's configuration: {{ nkey: {public_key} }}"))]
    Refused { server: ServerUrl, public_key: String },
    #[error("cannot read the seed file {0}: {1}")]
    #[diagnostic(help(
        "--nkey-file names the file with the seed of your NKey; `homelab-deploy keygen FILE` makes one"
    ))]
    SeedUnreadable(PathBuf, #[source] io::Error),
    #[error("{0} does not hold the seed of a NATS user")]
    #[diagnostic(help("it is one line of 58 characters that begins with SU; `homelab-deploy keygen FILE` makes one"))]
    NotAUserSeed(PathBuf),
    #[error("everyone on this machine can read the key in {0}")]
    #[diagnostic(help("chmod 600 {}, and consider the key known: make a new one", .0.display()))]
    SeedReadable(PathBuf),
    #[error("cannot read {0}: {1}")]
    #[diagnostic(help("--tls-ca, --tls-cert and --tls-key name files in PEM format"))]
    TlsFile(PathBuf, #[source] io::Error),
    #[error("{server} is an address without TLS, but {required_by} requires TLS")]
    #[diagnostic(help(
        "write tls://{}: once an address begins with tls:// or a file for TLS is given, every server must use TLS",
        server.host_and_port()
    ))]
    WithoutTls {
        server: ServerUrl,
        /// The address or file that asks for TLS.
        required_by: String,
    },
}

#[derive(Debug, Clone)]
pub struct ConnectAttempt {
    pub server: ServerUrl,
    pub why: String,
}

impl fmt::Display for ConnectAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.server, self.why)
    }
}

fn list(attempts: &[ConnectAttempt]) -> String {
    attempts.iter().map(ConnectAttempt::to_string).collect::<Vec<_>>().join(", ")
}

/// The client's error in words, without the label that says no more than that it is one. Some of the words are the server's.
pub(super) fn plain(error: &ConnectError) -> String {
    match (error.kind(), error.source()) {
        (ConnectErrorKind::Io, Some(source)) if is_plain_text(source) => "the server does not speak TLS".to_owned(),
        (ConnectErrorKind::Io, Some(source)) => source.to_string(),
        _ => error.to_string(),
    }
}

/// Whether what came was no TLS at all.
fn is_plain_text(error: &(dyn std::error::Error + 'static)) -> bool {
    let tls = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).and_then(|error| error.downcast_ref());
    matches!(tls, Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)))
}
