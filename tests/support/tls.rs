//! Creates a certificate authority and certificates for tests.

use std::fs;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

/// An authority with certificates for a server on this machine and for a client.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// Creates an authority with its files in `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).into_diagnostic()?;
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).into_diagnostic()?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().into_diagnostic()?;
        let authority = Self { folder: folder.to_owned() };
        fs::write(authority.file("ca", "key"), key.serialize_pem()).into_diagnostic()?;
        let issuer = CertifiedIssuer::self_signed(params, key).into_diagnostic()?;
        fs::write(authority.certificate(), issuer.pem()).into_diagnostic()?;
        let until = [("server", "127.0.0.1", 4096), ("client", "client.example.com", 4096), ("old", "127.0.0.1", 2021)];
        for (name, address, year) in until {
            let key = KeyPair::generate().into_diagnostic()?;
            let mut certificate = CertificateParams::new([address.to_owned()]).into_diagnostic()?;
            certificate.not_after = date_time_ymd(year, 1, 1);
            let certificate = certificate.signed_by(&key, &issuer).into_diagnostic()?;
            fs::write(authority.file(name, "pem"), certificate.pem()).into_diagnostic()?;
            fs::write(authority.file(name, "key"), key.serialize_pem()).into_diagnostic()?;
        }
        Ok(authority)
    }

    /// Returns the authority's certificate, for clients to trust.
    pub fn certificate(&self) -> PathBuf {
        self.file("ca", "pem")
    }

    /// Returns the files with a client's certificate and its key.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        (self.file("client", "pem"), self.file("client", "key"))
    }

    /// Returns a nats-server configuration that requires TLS.
    pub fn configuration(&self) -> String {
        self.configuration_showing("server")
    }

    /// Does the same with another certificate: that of the `client`, an `old` one, or that of the authority, `ca`.
    pub fn configuration_showing(&self, name: &str) -> String {
        format!("tls {{ {} }}\n", self.shown(name))
    }

    /// Returns a nats-server configuration that requires TLS and client certificates of this authority.
    pub fn configuration_with_clients(&self) -> String {
        format!("tls {{ {}, ca_file: \"{}\", verify: true }}\n", self.shown("server"), self.certificate().display())
    }

    fn shown(&self, name: &str) -> String {
        let (certificate, key) = (self.file(name, "pem"), self.file(name, "key"));
        format!("cert_file: \"{}\", key_file: \"{}\"", certificate.display(), key.display())
    }

    fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{name}.{kind}"))
    }
}
