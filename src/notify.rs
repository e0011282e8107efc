//! Notifies systemd of the state of a service, with one datagram for each message: `sd_notify(3)`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The notification socket of systemd. Without one, nothing is sent.
#[derive(Debug)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// Parses `NOTIFY_SOCKET`: an absolute path, or `@` and the name of an abstract socket. Fails if it is neither, or
    /// if no socket can be opened.
    pub fn new(notify_socket: Option<&OsStr>) -> io::Result<Self> {
        let Some(address) = notify_socket.filter(|address| !address.is_empty()) else { return Ok(Self(None)) };
        let address = match address.as_bytes().strip_prefix(b"@") {
            Some(name) => abstract_address(name)?,
            None => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        // The service must not block if systemd does not read.
        socket.set_nonblocking(true)?;
        Ok(Self(Some((socket, address))))
    }

    /// Reports that the service is ready, so that systemd starts the units after it.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// Reports that the service works. Without this for `WatchdogSec=`, systemd kills the service.
    pub fn watchdog(&self) {
        self.tell("WATCHDOG=1");
    }

    /// Reports that the service is stopping on request.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Sets the text in `systemctl status`.
    pub fn status(&self, words: &str) {
        // A line feed would begin another message.
        self.tell(&format!("STATUS={}", words.replace(char::is_control, " ")));
    }

    /// Only logs an error: systemd itself reports a missing message on which it acts.
    fn tell(&self, news: &str) {
        if let Self(Some((socket, address))) = self
            && let Err(error) = socket.send_to_addr(news.as_bytes(), address)
        {
            tracing::warn!("cannot tell systemd {news}: {error}");
        }
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name)
}

/// Only Linux has abstract sockets and systemd.
#[cfg(not(target_os = "linux"))]
fn abstract_address(_name: &[u8]) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn heard(systemd: &UnixDatagram) -> String {
        systemd.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut message = [0; 256];
        let length = systemd.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    #[test]
    fn each_piece_of_news_is_a_datagram() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(Some(path.as_os_str())).unwrap();
        notifier.ready();
        notifier.status("switching\nSTOPPING=1");
        notifier.watchdog();
        notifier.stopping();
        let all = [(); 4].map(|()| heard(&systemd));
        assert_eq!(all, ["READY=1", "STATUS=switching STOPPING=1", "WATCHDOG=1", "STOPPING=1"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_socket_may_be_an_abstract_one() {
        let name = format!("homelab-deploy-test-{}", uuid::Uuid::new_v4());
        let systemd = UnixDatagram::bind_addr(&abstract_address(name.as_bytes()).unwrap()).unwrap();
        Notifier::new(Some(OsStr::new(&format!("@{name}")))).unwrap().ready();
        assert_eq!(heard(&systemd), "READY=1");
    }

    #[test]
    fn nobody_to_tell_is_no_error_and_a_full_or_missing_socket_holds_up_nobody() {
        for none in [None, Some(OsStr::new(""))] {
            Notifier::new(none).unwrap().ready();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let notifier = Notifier::new(Some(path.as_os_str())).unwrap();
        notifier.ready();
        let _never_read = UnixDatagram::bind(&path).unwrap();
        for _ in 0..1_000 {
            notifier.watchdog();
        }
        assert!(Notifier::new(Some(OsStr::new(&"x".repeat(500)))).is_err());
    }
}
