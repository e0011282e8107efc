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
    WithoutTls {
        server: ServerUrl,
        /// The address or file that requires TLS.
        required_by: String,
    },
}

/// A server that cannot be reached.
#[derive(Debug, Error)]
#[error("{server} ({})", reason.why)]
pub struct ConnectAttempt {
    server: ServerUrl,
    pub(super) reason: Reason,
}

/// Why a server cannot be reached, and what the user can do, if known.
#[derive(Debug)]
pub(super) struct Reason {
    pub(super) why: String,
    next: Option<String>,
}

impl BusError {
    pub(super) fn unreachable(server: &ServerUrl, reason: Reason) -> Self {
        Self::Unreachable(vec![ConnectAttempt { server: server.clone(), reason }])
    }
}

fn list(attempts: &[ConnectAttempt]) -> String {
    attempts.iter().map(ConnectAttempt::to_string).collect::<Vec<_>>().join(", ")
}

/// Returns the first known help of the attempts.
fn next(attempts: &[ConnectAttempt]) -> String {
    attempts.iter().find_map(|attempt| attempt.reason.next.clone()).unwrap_or_else(|| {
        "check that nats-server runs there and that the address is right; for a server with TLS use tls:// and, with a \
         private authority, --tls-ca"
            .to_owned()
    })
}

impl Reason {
    pub(super) fn plain(why: impl Into<String>) -> Self {
        Self { why: safe(&why.into()), next: None }
    }

    fn with_help(why: impl Into<String>, next: impl Into<String>) -> Self {
        Self { next: Some(next.into()), ..Self::plain(why) }
    }

    /// A program that accepts the connection and says nothing: no nats-server, or one that waits for the client.
    pub(super) fn not_nats() -> Self {
        Self::with_help("something accepts connections there, but does not speak the NATS protocol", PORT)
    }

    /// Describes an error of the client, which may contain text of the server.
    pub(super) fn of(error: &ConnectError, server: &ServerUrl, settings: &Settings) -> Self {
        let Some(source) = error.source().filter(|_| error.kind() == ConnectErrorKind::Io) else {
            return Self::plain(error.to_string());
        };
        if let Some(error) = tls_error(source) {
            return Self::of_tls(error, server, settings);
        }
        let said = source.to_string();
        if said.contains("invalid server operation") || said.starts_with("expected INFO") {
            return Self::with_help(format!("no NATS server answers there: {said}"), PORT);
        }
        if said.to_lowercase().contains("authentication timeout") {
            let why = "the server did not get the key in time: this machine or the network stalled";
            return Self::with_help(why, "try again");
        }
        Self::plain(said)
    }

    fn of_tls(error: &TlsError, server: &ServerUrl, settings: &Settings) -> Self {
        match error {
            TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => Self::with_help(
                "the server does not speak TLS",
                format!(
                    "write nats://{} without any file for TLS, or give the server a certificate: tls {{ cert_file, key_file }}",
                    server.host_and_port()
                ),
            ),
            TlsError::InvalidCertificate(error) => Self::of_certificate(error, settings),
            TlsError::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::BadCertificate)
                if settings.client_cert.is_none() =>
            {
                Self::with_help("the server requires a client certificate", "give one with --tls-cert and --tls-key")
            }
            error => Self::plain(error.to_string()),
        }
    }

    fn of_certificate(error: &CertificateError, settings: &Settings) -> Self {
        match error {
            // A recreated authority has the same name and another signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::with_help(
                "its certificate is not signed by an authority that is trusted here",
                settings.ca_file.as_ref().map_or_else(
                    || "give the certificate of that authority with --tls-ca FILE".to_owned(),
                    |ca| {
                        format!(
                            "{} is another authority: --tls-ca names the one that signed the certificate",
                            ca.display()
                        )
                    },
                ),
            ),
            CertificateError::NotValidForNameContext { expected, presented } => Self::with_help(
                format!("its certificate is not for {}, but for {}", expected.to_str(), names(presented)),
                "use a name of the certificate in the address, or make a certificate for this one",
            ),
            CertificateError::ExpiredContext { time, not_after } => Self::with_help(
                format!("its certificate expired {} ago by the clock of this machine", apart(*not_after, *time)),
                "make a new one; if it should be valid, set the clock of this machine",
            ),
            CertificateError::NotValidYetContext { time, not_before } => Self::with_help(
                format!("its certificate becomes valid in {} by the clock of this machine", apart(*time, *not_before)),
                "set the clock of this machine, or that of the one that made the certificate",
            ),
            // The certificate library does not export this variant.
            error if format!("{error:?}").contains("CaUsedAsEndEntity") => Self::with_help(
                "its certificate is that of an authority (CA:TRUE), which no server may use as its own",
                "make the server a certificate of its own, without CA:TRUE, signed by this authority; --tls-ca stays as it is",
            ),
            error => Self::plain(format!("its certificate is not accepted: {error}")),
        }
    }
}

/// Returns the TLS error in an error of the client.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a TlsError> {
    error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).and_then(|error| error.downcast_ref())
}

/// Formats the names in a certificate, given as `DnsName("x")` and `IpAddress(x)`.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let name = name.split_once('(').map_or(name.as_str(), |(_, name)| name);
        name.trim_matches(['"', ')']).to_owned()
    };
    let names: Vec<String> = presented.iter().map(bare).collect();
    if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") }
}

fn apart(earlier: UnixTime, later: UnixTime) -> impl fmt::Display {
    humantime::format_duration(Duration::from_secs(later.as_secs().saturating_sub(earlier.as_secs())))
}
