//! Errors of connecting, with help.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::rustls::pki_types::UnixTime;
use async_nats::rustls::{AlertDescription, CertificateError, Error as TlsError, InvalidMessage};
use async_nats::{ConnectError, ConnectErrorKind};
use miette::Diagnostic;
use thiserror::Error;

use super::{ServerUrl, Settings};
use crate::text::safe;

const PORT: &str = "check the port: nats-server listens on 4222 unless its configuration names another. \
                    `handshake_first` in its tls block is not supported";

#[derive(Debug, Error, Diagnostic)]
pub enum BusError {
    #[error("no NATS server can be reached: {}", list(.0))]
    #[diagnostic(help("{}", next(.0)))]
    Unreachable(Vec<ConnectAttempt>),
    #[error("{server} refuses this key")]
    #[diagnostic(help(
        "add its public key to a user in the server's configuration: {{ nkey: {public_key} }}. A server that \
         identifies users by JWTs, as in .creds files, does not accept it"
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
    WithoutTls { server: ServerUrl, required_by: String },
}

/// A server that cannot be reached.
#[derive(Debug, Error)]
#[error("{server} ({why})")]
pub struct ConnectAttempt {
    server: ServerUrl,
    pub(super) why: String,
    next: Option<String>,
}

impl From<ConnectAttempt> for BusError {
    fn from(attempt: ConnectAttempt) -> Self {
        Self::Unreachable(vec![attempt])
    }
}

fn list(attempts: &[ConnectAttempt]) -> String {
    attempts.iter().map(ConnectAttempt::to_string).collect::<Vec<_>>().join(", ")
}

/// Returns the first known help of the attempts.
fn next(attempts: &[ConnectAttempt]) -> String {
    attempts.iter().find_map(|attempt| attempt.next.clone()).unwrap_or_else(|| {
        "check that nats-server runs there and that the address is right; for a server with TLS use tls:// and, with a \
         private authority, --tls-ca"
            .to_owned()
    })
}

impl ConnectAttempt {
    pub(super) fn new(server: &ServerUrl, why: impl Into<String>) -> Self {
        Self { server: server.clone(), why: safe(&why.into()), next: None }
    }

    fn next(self, next: impl Into<String>) -> Self {
        Self { next: Some(next.into()), ..self }
    }

    /// A program that accepts the connection and says nothing: no nats-server, or one that waits for the client.
    pub(super) fn not_nats(server: &ServerUrl) -> Self {
        Self::new(server, "something accepts connections there, but does not speak the NATS protocol").next(PORT)
    }

    /// Describes an error of the client, which may contain text of the server.
    pub(super) fn of(error: &ConnectError, server: &ServerUrl, settings: &Settings) -> Self {
        let Some(source) = error.source().filter(|_| error.kind() == ConnectErrorKind::Io) else {
            return Self::new(server, error.to_string());
        };
        if let Some(error) = tls_error(source) {
            return Self::of_tls(error, server, settings);
        }
        let said = source.to_string();
        if said.contains("invalid server operation") || said.starts_with("expected INFO") {
            return Self::new(server, format!("no NATS server answers there: {said}")).next(PORT);
        }
        if said.to_lowercase().contains("authentication timeout") {
            let why = "the server did not get the key in time: this machine or the network stalled";
            return Self::new(server, why).next("try again");
        }
        Self::new(server, said)
    }

    fn of_tls(error: &TlsError, server: &ServerUrl, settings: &Settings) -> Self {
        match error {
            TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => {
                Self::new(server, "the server does not speak TLS").next(format!(
                    "write nats://{} without any file for TLS, or give the server a certificate: tls {{ cert_file, key_file }}",
                    server.host_and_port()
                ))
            }
            TlsError::InvalidCertificate(error) => Self::of_certificate(error, server, settings),
            TlsError::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::BadCertificate)
                if settings.client_cert.is_none() =>
            {
                Self::new(server, "the server requires a client certificate")
                    .next("give one with --tls-cert and --tls-key")
            }
            error => Self::new(server, error.to_string()),
        }
    }

    fn of_certificate(error: &CertificateError, server: &ServerUrl, settings: &Settings) -> Self {
        let clock = "set the clock of this machine if it is wrong; else make a new certificate";
        match error {
            // A recreated authority has the same name and another signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                let next = match &settings.ca_file {
                    Some(ca) => format!("{} is another authority: --tls-ca names the one that signed it", ca.display()),
                    None => "give the certificate of that authority with --tls-ca FILE".to_owned(),
                };
                Self::new(server, "its certificate is not signed by an authority that is trusted here").next(next)
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                let why = format!("its certificate is not for {}, but for {}", expected.to_str(), names(presented));
                Self::new(server, why)
                    .next("use a name of the certificate in the address, or make a certificate for this one")
            }
            CertificateError::ExpiredContext { time, not_after } => {
                Self::new(server, format!("its certificate expired {} ago", apart(*not_after, *time))).next(clock)
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                Self::new(server, format!("its certificate is valid only in {}", apart(*time, *not_before))).next(clock)
            }
            // The certificate library does not export this variant.
            error if format!("{error:?}").contains("CaUsedAsEndEntity") => {
                let why = "its certificate is that of an authority (CA:TRUE), which no server may use as its own";
                Self::new(server, why).next(
                    "make the server a certificate of its own, without CA:TRUE, signed by this authority; --tls-ca stays as it is",
                )
            }
            error => Self::new(server, format!("its certificate is not accepted: {error}")),
        }
    }
}

fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a TlsError> {
    error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).and_then(|error| error.downcast_ref())
}

/// Formats the names in a certificate, given as `DnsName("x")` and `IpAddress(x)`.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let name = name.split_once('(').map_or(name.as_str(), |(_, name)| name);
        name.trim_matches(['"', ')']).to_owned()
    };
    presented.iter().map(bare).collect::<Vec<_>>().join(", ")
}

fn apart(earlier: UnixTime, later: UnixTime) -> impl fmt::Display {
    humantime::format_duration(Duration::from_secs(later.as_secs().saturating_sub(earlier.as_secs())))
}
