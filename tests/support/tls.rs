//! A certificate authority of the test's own, and servers that it vouches for.

use std::fs;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// An authority, and a server on this machine with a certificate of it.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// Makes an authority whose files are in `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).into_diagnostic()?;
        let mut params = CertificateParams::new([]).into_diagnostic()?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().into_diagnostic()?).into_diagnostic()?;
        let authority = Self { folder: folder.to_owned() };
        let key = KeyPair::generate().into_diagnostic()?;
        let server = CertificateParams::new(["127.0.0.1".to_owned()]).into_diagnostic()?;
        let server = server.signed_by(&key, &issuer).into_diagnostic()?;
        fs::write(authority.certificate(), issuer.pem()).into_diagnostic()?;
        fs::write(authority.server_certificate(), server.pem()).into_diagnostic()?;
        fs::write(authority.server_key(), key.serialize_pem()).into_diagnostic()?;
        Ok(authority)
    }

    /// The file that clients trust.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    fn server_certificate(&self) -> PathBuf {
        self.folder.join("server.pem")
    }

    fn server_key(&self) -> PathBuf {
        self.folder.join("server.key")
    }

    /// What makes a nats-server require TLS.
    pub fn configuration(&self) -> String {
        let (certificate, key) = (self.server_certificate(), self.server_key());
        format!("tls {{ cert_file: \"{}\", key_file: \"{}\" }}\n", certificate.display(), key.display())
    }
}
