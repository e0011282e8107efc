//! Why a server could not be reached, in words, and what to do about it.

use std::error::Error;
use std::io;
use std::time::Duration;

use async_nats::rustls::pki_types::UnixTime;
use async_nats::rustls::{AlertDescription, CertificateError, Error as TlsError, InvalidMessage};
use async_nats::{ConnectError, ConnectErrorKind};

use super::{ServerUrl, Settings};
use crate::text::safe;

/// Why an attempt was in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) why: String,
    /// What to do about it, where that is known.
    pub(super) next: Option<String>,
}

impl Reason {
    pub(super) fn new(why: impl AsRef<str>) -> Self {
        Self { why: safe(why.as_ref()), next: None }
    }

    fn but(why: impl AsRef<str>, next: impl Into<String>) -> Self {
        Self { next: Some(next.into()), ..Self::new(why) }
    }

    /// Nothing came. Something that takes the connection nevertheless is no server, or one that waits for the client.
    pub(super) fn silence(within: Duration, takes_connections: bool) -> Self {
        if takes_connections {
            return Self::but("something takes connections there, and does not speak as a NATS server does", PORT);
        }
        Self::new(format!("no answer within {} ms", within.as_millis()))
    }

    /// What the client says went wrong. Some of the words are the server's.
    pub(super) fn of(error: &ConnectError, server: &ServerUrl, settings: &Settings) -> Self {
        let Some(source) = error.source().filter(|_| error.kind() == ConnectErrorKind::Io) else {
            return Self::new(error.to_string());
        };
        if let Some(error) = tls_error(source) {
            return Self::of_tls(error, server, settings);
        }
        let said = source.to_string();
        if said.contains("invalid server operation") || said.starts_with("expected INFO") {
            return Self::but(format!("what answers there is no NATS server: {said}"), PORT);
        }
        if said.to_lowercase().contains("authentication timeout") {
            return Self::but(
                "the server waited for the key in vain: this machine or the network stood still",
                "try again",
            );
        }
        Self::new(said)
    }

    fn of_tls(error: &TlsError, server: &ServerUrl, settings: &Settings) -> Self {
        match error {
            TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => Self::but(
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
                Self::but("the server wants a certificate of its clients", "give one with --tls-cert and --tls-key")
            }
            error => Self::new(error.to_string()),
        }
    }

    fn of_certificate(error: &CertificateError, settings: &Settings) -> Self {
        match error {
            // An authority that was made anew under the same name signs otherwise.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::but(
                "its certificate is not signed by an authority that is trusted here",
                match &settings.ca_file {
                    Some(file) => {
                        format!(
                            "{} is another authority: --tls-ca names the one that signed the certificate",
                            file.display()
                        )
                    }
                    None => "give the certificate of that authority with --tls-ca FILE".to_owned(),
                },
            ),
            CertificateError::NotValidForNameContext { expected, presented } => Self::but(
                format!("its certificate is not for {}, but for {}", expected.to_str(), names(presented)),
                "use a name of the certificate in the address, or make a certificate for this one",
            ),
            CertificateError::ExpiredContext { time, not_after } => Self::but(
                format!("its certificate ran out {} ago by the clock of this machine", apart(*not_after, *time)),
                "make a new one; if it should be valid, set the clock of this machine",
            ),
            CertificateError::NotValidYetContext { time, not_before } => Self::but(
                format!("its certificate is valid only in {} by the clock of this machine", apart(*time, *not_before)),
                "set the clock of this machine, or that of the one that made the certificate",
            ),
            // The library for certificates keeps this one to itself.
            error if format!("{error:?}").contains("CaUsedAsEndEntity") => Self::but(
                "its certificate is that of an authority (CA:TRUE), which no server may show as its own",
                "make the server a certificate of its own, without CA:TRUE, signed by this authority; --tls-ca stays as it is",
            ),
            error => Self::new(format!("its certificate is not accepted: {error}")),
        }
    }
}

const PORT: &str = "check the port: nats-server has 4222 for its clients unless its configuration says another. One with \
                    `handshake_first` in its tls block is not supported";

/// What went wrong with TLS.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).and_then(|error| error.downcast_ref())
}

/// The names in a certificate, which come as `DnsName("x")` and `IpAddress(x)`.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let name = name.split_once('(').map_or(name.as_str(), |(_, name)| name);
        name.trim_matches(['"', ')']).to_owned()
    };
    let names: Vec<String> = presented.iter().map(bare).collect();
    if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") }
}

fn apart(earlier: UnixTime, later: UnixTime) -> impl std::fmt::Display {
    humantime::format_duration(Duration::from_secs(later.as_secs().saturating_sub(earlier.as_secs())))
}
