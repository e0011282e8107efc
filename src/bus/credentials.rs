//! Reads the files that the settings name: the seed, which is the one secret of the program, and those for TLS.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::{Auth, AuthError};
use nkeys::{KeyPair, KeyPairType};

use super::error::BusError;
use super::{ServerUrl, Settings};

/// The longest seed file that is read, in bytes; a seed has 58.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The permission bit that lets everyone on the machine read a file.
///
/// The group's bit is ignored: systemd's credentials and secret managers give a service its key through the group, or
/// through an access list whose mask replaces the group's bits.
const READ_BY_OTHERS: u32 = 0o004;

/// What to do if every user of the machine can read the seed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeedReaders {
    Warn,
    Refuse,
}

/// The seed file, which may change while this program runs. Not `Debug`, so that no message contains the seed.
pub(super) struct SeedFile {
    file: PathBuf,
    readers: SeedReaders,
    first: KeyPair,
}

impl SeedFile {
    pub(super) fn read(file: &Path, readers: SeedReaders) -> Result<(Self, Option<String>), BusError> {
        let (first, warning) = read(file, readers)?;
        Ok((Self { file: file.to_owned(), readers, first }, warning))
    }

    /// Returns the key in the file now, or else the first key: a pipe of the shell, for example, can be read only once.
    pub(super) fn key(&self) -> KeyPair {
        let is_ordinary = fs::metadata(&self.file).is_ok_and(|file| file.is_file());
        let now = is_ordinary.then(|| read(&self.file, self.readers).ok()).flatten();
        now.map_or_else(|| self.first.clone(), |(key, _)| key)
    }

    pub(super) fn prove(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let (key, mut auth) = (self.key(), Auth::new());
        auth.nkey = Some(key.public_key());
        auth.signature = Some(key.sign(nonce).map_err(AuthError::new)?);
        Ok(auth)
    }
}

/// Returns the public key of the seed in a file. The text is a warning.
pub fn public_key(file: &Path) -> Result<(String, Option<String>), BusError> {
    let (key, warning) = read(file, SeedReaders::Warn)?;
    Ok((key.public_key(), warning))
}

/// Reads the seed file. The text is a warning.
fn read(file: &Path, readers: SeedReaders) -> Result<(KeyPair, Option<String>), BusError> {
    let unreadable = |error| BusError::SeedUnreadable(file.to_owned(), error);
    // One open file, so that the permissions belong to the text that is read.
    let seed_file = File::open(file).map_err(unreadable)?;
    let is_public = seed_file.metadata().map_err(unreadable)?.permissions().mode() & READ_BY_OTHERS != 0;
    if is_public && readers == SeedReaders::Refuse {
        return Err(BusError::SeedReadable(file.to_owned()));
    }
    let mut text = String::new();
    seed_file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    let key = parse(&text).ok_or_else(|| BusError::NotAUserSeed(file.to_owned()))?;
    let warning = || format!("everyone on this machine can read the key in {0}: chmod 600 {0}", file.display());
    Ok((key, is_public.then(warning)))
}

/// Finds the user's key in a file, which may also have comments, lines such as `-----BEGIN USER NKEY SEED-----`, and a
/// JWT, as .creds files do.
fn parse(text: &str) -> Option<KeyPair> {
    let pair = text.lines().find_map(|line| KeyPair::from_seed(line.trim()).ok())?;
    matches!(pair.key_pair_type(), KeyPairType::User).then_some(pair)
}

/// Whether every server must use TLS. If not, it is used if the server requires it, which does not protect from an attacker
/// in the network who impersonates the server.
///
/// Fails if the settings require TLS and name a server without it, or if a file has the wrong content, which the client
/// would report only as a TLS error of each connection.
pub(super) fn requires_tls(settings: &Settings) -> Result<bool, BusError> {
    let mut certificates = settings.ca_file.iter().chain(settings.client_cert.iter().map(|client| &client.cert));
    for file in certificates.clone() {
        check::<CertificateDer<'_>>(file, "certificate")?;
    }
    if let Some(client) = &settings.client_cert {
        check::<PrivateKeyDer<'_>>(&client.key, "private key")?;
    }
    let server = settings.servers.iter().find(|server| server.0.tls_required()).map(ServerUrl::to_string);
    let required_by = server.or_else(|| certificates.next().map(|file| file.display().to_string()));
    let Some(required_by) = required_by else { return Ok(false) };
    match settings.servers.iter().find(|server| !server.0.tls_required()) {
        Some(server) => Err(BusError::WithoutTls { server: server.clone(), required_by }),
        None => Ok(true),
    }
}

/// Fails if the file has no item of this kind; the client would ignore that.
fn check<T: PemObject>(file: &Path, what: &'static str) -> Result<(), BusError> {
    let pem = fs::read(file).map_err(|error| BusError::TlsFile(file.to_owned(), error))?;
    T::from_pem_slice(&pem).map_err(|_| BusError::NotPem { file: file.to_owned(), what })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use miette::Diagnostic;

    use super::*;

    fn file_with(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        (folder, file)
    }

    #[test]
    fn white_space_and_comments_around_the_seed_are_fine() {
        let pair = KeyPair::new_user();
        let seed = pair.seed().unwrap();
        for text in [
            seed.clone(),
            format!("\n  {seed} \r\n\n"),
            format!("# the listener of ns1\n{seed}\n"),
            format!("-----BEGIN NATS USER JWT-----\neyJ0eXAi.eyJqdGki.c2ln\n------END NATS USER JWT------\n\n{seed}\n"),
            format!("-----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\r\n"),
        ] {
            let (_folder, file) = file_with(&text, 0o400);
            let (key, warning) = read(&file, SeedReaders::Refuse).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((key.public_key(), warning), (pair.public_key(), None));
        }
    }

    #[test]
    fn what_is_no_user_seed_is_refused_without_being_shown() {
        let account = KeyPair::new_account().seed().unwrap();
        let user = KeyPair::new_user();
        let mut typo = user.seed().unwrap();
        typo.replace_range(20..21, if typo.get(20..21) == Some("A") { "B" } else { "A" });
        for text in [account, typo, user.public_key(), String::new(), "# nothing".to_owned()] {
            let (_folder, file) = file_with(&text, 0o600);
            let error = read(&file, SeedReaders::Refuse).err().unwrap();
            assert!(matches!(error, BusError::NotAUserSeed(_)));
            let shown = format!("{error} {error:?} {}", error.help().unwrap());
            assert!(text.is_empty() || !shown.contains(&text), "{shown}");
        }
    }

    #[test]
    fn a_seed_that_everyone_can_read_is_a_warning_or_an_error() {
        let seed = KeyPair::new_user().seed().unwrap();
        let (_folder, file) = file_with(&seed, 0o644);
        assert!(matches!(read(&file, SeedReaders::Refuse), Err(BusError::SeedReadable(_))));
        let (_, warning) = read(&file, SeedReaders::Warn).unwrap_or_else(|error| panic!("{error}"));
        assert!(warning.unwrap().contains("chmod 600"));

        let (_folder, credential) = file_with(&seed, 0o440);
        assert!(read(&credential, SeedReaders::Refuse).is_ok());
    }

    #[test]
    fn a_key_that_was_changed_is_taken_up_and_one_that_is_gone_is_not_missed() {
        let [first, second] = [KeyPair::new_user(), KeyPair::new_user()];
        let (folder, file) = file_with(&first.seed().unwrap(), 0o600);
        let (seed, _) = SeedFile::read(&file, SeedReaders::Refuse).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(seed.key().public_key(), first.public_key());
        fs::write(&file, second.seed().unwrap()).unwrap();
        assert_eq!(seed.key().public_key(), second.public_key());
        fs::remove_file(&file).unwrap();
        assert_eq!(seed.key().public_key(), first.public_key());
        // Opening a pipe without a writer would block.
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(seed.key().public_key(), first.public_key());
        drop(folder);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(Path::new("/nowhere/key"), SeedReaders::Warn).err().unwrap();
        insta::assert_snapshot!(error, @"cannot read the seed file /nowhere/key: No such file or directory (os error 2)");
    }
}
