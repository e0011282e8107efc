//! Why there is no connection.

use std::fmt;
use std::io;
use std::path::PathBuf;

use miette::Diagnostic;
use thiserror::Error;

use super::ServerUrl;

#[derive(Debug, Error, Diagnostic)]
pub enum BusError {
    #[error("no NATS server can be reached: {}", list(.0))]
    #[diagnostic(help("{}", next(.0)))]
    Unreachable(Vec<ConnectAttempt>),
    #[error("{server} refuses this key")]
    #[diagnostic(help(
        "add its public key to a user in the server's configuration: {{ nkey: {public_key} }}. A server that knows its users by \
         JWTs, as in .creds files, does not take it"
    ))]
    Refused { server: ServerUrl, public_key: String },
    #[error("cannot read the seed file {0}: {1}")]
    #[diagnostic(help(
        "--nkey-file names the file with the seed of your NKey; `homelab-deploy keygen FILE` makes one"
    ))]
    SeedUnreadable(PathBuf, #[source] io::Error),
    #[error("{0} does not hold the seed of a NATS user")]
    #[diagnostic(help(
        "it is a line of 58 characters that begins with SU, alone or in a .creds file; `homelab-deploy keygen FILE` makes one"
    ))]
    NotAUserSeed(PathBuf),
    #[error("everyone on this machine can read the key in {0}")]
    #[diagnostic(help("chmod 600 {}, and consider the key known: make a new one", .0.display()))]
    SeedReadable(PathBuf),
    #[error("cannot read {0}: {1}")]
    #[diagnostic(help("--tls-ca, --tls-cert and --tls-key name files in PEM format"))]
    TlsFile(PathBuf, #[source] io::Error),
    #[error("there is no {what} in {file}")]
    #[diagnostic(help("the file has to be in PEM format: text with a line -----BEGIN {}-----", what.to_uppercase()))]
    NotPem { file: PathBuf, what: &'static str },
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
    /// What to do about it, where that is known.
    pub next: Option<String>,
}

impl fmt::Display for ConnectAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.server, self.why)
    }
}

fn list(attempts: &[ConnectAttempt]) -> String {
    attempts.iter().map(ConnectAttempt::to_string).collect::<Vec<_>>().join(", ")
}

/// What to do, by what came of the first server of which that is known.
fn next(attempts: &[ConnectAttempt]) -> String {
    attempts.iter().find_map(|attempt| attempt.next.clone()).unwrap_or_else(|| {
        "check that nats-server runs there and that the address is right; for a server with TLS use tls:// and, with a \
         private authority, --tls-ca"
            .to_owned()
    })
}
