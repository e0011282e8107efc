//! Decides whether a connection must use TLS.

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
    /// Used if the server requires it. Does not protect from an attacker in the network who impersonates the server.
    AsTheServerAsks,
}

impl Tls {
    /// Checks the settings. Fails if they require TLS and name a server without it, or if a file has the wrong content,
    /// which the client would report only as a TLS error of each connection.
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

    /// Adds TLS to the options of a client.
    pub(super) fn apply(self, settings: &Settings, mut options: ConnectOptions) -> ConnectOptions {
        if self == Self::Required {
            // A server announces others before TLS begins, and does not say whether they use it.
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

/// Returns the certificate files in the settings.
fn certificates(settings: &Settings) -> impl Iterator<Item = &Path> {
    let client = settings.client_cert.iter().map(|client| &client.cert);
    settings.ca_file.iter().chain(client).map(PathBuf::as_path)
}

/// Fails if the file has no item of this kind; the client would ignore that.
fn check<T: PemObject>(file: &Path, what: &'static str) -> Result<(), BusError> {
    let pem = fs::read(file).map_err(|error| BusError::TlsFile(file.to_owned(), error))?;
    T::from_pem_slice(&pem).map_err(|_| BusError::NotPem { file: file.to_owned(), what })?;
    Ok(())
}

fn required_by(settings: &Settings) -> Option<String> {
    let server = settings.servers.iter().find(|server| server.is_tls()).map(ServerUrl::to_string);
    server.or_else(|| certificates(settings).next().map(|file| file.display().to_string()))
}
