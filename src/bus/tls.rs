//! When a connection must be encrypted.

use std::fs;
use std::path::{Path, PathBuf};

use async_nats::ConnectOptions;
use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::BusError;
use super::{ClientCert, ServerUrl, Settings};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    Required,
    /// A server that asks for it gets it. Nothing protects from somebody in the network who answers in its place.
    AsTheServerAsks,
}

impl Tls {
    /// Reads the settings. An error when they ask for TLS and name a server that would do without, or when a file does not
    /// have what it should, which the client would report only as a TLS error of each connection.
    pub(super) fn of(settings: &Settings) -> Result<Self, BusError> {
        for file in certificates(settings) {
            check::<CertificateDer<'_>>(file, "certificate")?;
        }
        if let Some(client) = &settings.client_cert {
            check::<PrivateKeyDer<'_>>(&client.key, "private key")?;
        }
        let Some(required_by) = required_by(settings) else { return Ok(Self::AsTheServerAsks) };
        match settings.servers.iter().find(|server| !server.is_tls()) {
            Some(server) => Err(BusError::WithoutTls { server: server.clone(), required_by }),
            None => Ok(Self::Required),
        }
    }

    /// The options of a client with what TLS needs.
    pub(super) fn apply(self, settings: &Settings, mut options: ConnectOptions) -> ConnectOptions {
        if self == Self::Required {
            // A server names others in the message that comes before TLS does, with no word on whether they speak it.
            options = options.require_tls(true).ignore_discovered_servers();
        }
        if let Some(ca) = &settings.ca_file {
            options = options.add_root_certificates(ca.clone());
        }
        if let Some(ClientCert { cert, key }) = &settings.client_cert {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        options
    }
}

/// The files with certificates that TLS needs, by the settings.
fn certificates(settings: &Settings) -> impl Iterator<Item = &Path> {
    let client = settings.client_cert.iter().map(|client| &client.cert);
    settings.ca_file.iter().chain(client).map(PathBuf::as_path)
}

/// Makes sure that there is one of these in a file, which the client would pass over.
fn check<T: PemObject>(file: &Path, what: &'static str) -> Result<(), BusError> {
    let pem = fs::read(file).map_err(|error| BusError::TlsFile(file.to_owned(), error))?;
    T::from_pem_slice(&pem).map_err(|_| BusError::NotPem { file: file.to_owned(), what })?;
    Ok(())
}

fn required_by(settings: &Settings) -> Option<String> {
    let server = settings.servers.iter().find(|server| server.is_tls()).map(ServerUrl::to_string);
    server.or_else(|| certificates(settings).next().map(|file| file.display().to_string()))
}
