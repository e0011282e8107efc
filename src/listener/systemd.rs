//! Notifies systemd of the state of a service, with one datagram for each message: `sd_notify(3)`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// The notification socket of systemd. Without one, nothing is sent.
#[derive(Debug)]
pub struct Systemd {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// The times at which the loop that serves NATS reports that it turns.
    beats: Option<Interval>,
    /// Whether systemd was notified that the service is up, which happens once.
    pub(super) is_up: bool,
    status: String,
}

impl Systemd {
    /// Parses `NOTIFY_SOCKET`: an absolute path, or `@` and the name of an abstract socket. Fails if it is neither, or
    /// if no socket can be opened.
    pub fn at(notify_socket: Option<&OsStr>) -> io::Result<Self> {
        let address = notify_socket.filter(|address| !address.is_empty()).map(|address| {
            let address = match address.as_bytes().strip_prefix(b"@") {
                Some(name) => abstract_address(name)?,
                None => SocketAddr::from_pathname(address)?,
            };
            let socket = UnixDatagram::unbound()?;
            // The service must not block if systemd does not read.
            socket.set_nonblocking(true)?;
            io::Result::Ok((socket, address))
        });
        Ok(Self { socket: address.transpose()?, beats: None, is_up: false, status: String::new() })
    }

    /// Sets systemd's timeout for a service that hangs, in which it reports twice. Must be called on the runtime.
    #[must_use]
    pub fn with_watchdog(mut self, timeout: Option<Duration>) -> Self {
        self.beats = timeout.map(|timeout| timeout / 2).filter(|period| !period.is_zero()).map(|period| {
            let mut beats = interval(period);
            beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            beats
        });
        self
    }

    /// Waits for the next [`beat`](Self::beat); forever without a watchdog.
    pub(super) async fn beat_due(&mut self) {
        match &mut self.beats {
            Some(beats) => _ = beats.tick().await,
            None => std::future::pending().await,
        }
    }

    /// Reports that the service works. The loop that serves NATS itself calls this, so that systemd sees it hang.
    pub(super) fn beat(&self) {
        self.notify("WATCHDOG=1");
    }

    /// Reports that the service is ready, so that systemd starts the units after it.
    pub(super) fn ready(&mut self) {
        if !self.is_up {
            self.is_up = true;
            self.notify("READY=1");
        }
    }

    /// Reports that the service is stopping on request.
    pub(super) fn stopping(&self) {
        self.notify("STOPPING=1");
    }

    /// Sets the text in `systemctl status`; systemd is notified of changes only.
    pub(super) fn status(&mut self, words: String) {
        if words != self.status {
            // A line feed would begin another message.
            self.notify(&format!("STATUS={}", words.replace(char::is_control, " ")));
            self.status = words;
        }
    }

    /// Only logs an error: systemd itself reports a missing message on which it acts.
    fn notify(&self, message: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            tracing::warn!("cannot tell systemd {message}: {error}");
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
    use super::*;

    /// Returns the socket of systemd in this folder, and the service that notifies it.
    fn systemd(folder: &tempfile::TempDir) -> (UnixDatagram, Systemd) {
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket, Systemd::at(Some(path.as_os_str())).unwrap())
    }

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut message = [0; 256];
        let next = || socket.recv(&mut message).ok().map(|length| String::from_utf8_lossy(&message[..length]).into());
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn each_piece_of_news_is_a_datagram() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, mut systemd) = systemd(&folder);
        systemd.ready();
        systemd.status("switching\nSTOPPING=1".to_owned());
        systemd.beat();
        systemd.stopping();
        assert_eq!(heard(&socket), ["READY=1", "STATUS=switching STOPPING=1", "WATCHDOG=1", "STOPPING=1"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_socket_may_be_an_abstract_one() {
        let name = format!("homelab-deploy-test-{}", uuid::Uuid::new_v4());
        let socket = UnixDatagram::bind_addr(&abstract_address(name.as_bytes()).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        Systemd::at(Some(OsStr::new(&format!("@{name}")))).unwrap().ready();
        assert_eq!(heard(&socket), ["READY=1"]);
    }

    #[test]
    fn nobody_to_tell_is_no_error_and_a_full_or_missing_socket_holds_up_nobody() {
        for none in [None, Some(OsStr::new(""))] {
            Systemd::at(none).unwrap().ready();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let systemd = Systemd::at(Some(path.as_os_str())).unwrap();
        systemd.stopping();
        let _never_read = UnixDatagram::bind(&path).unwrap();
        for _ in 0..1_000 {
            systemd.beat();
        }
        assert!(Systemd::at(Some(OsStr::new(&"x".repeat(500)))).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_is_not_heard_of_and_one_that_turns_twice_as_often_as_it_has_to() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, systemd) = systemd(&folder);
        let mut systemd = systemd.with_watchdog(Some(Duration::from_secs(10)));
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(heard(&socket).is_empty());

        let began = tokio::time::Instant::now();
        for _ in 0..5 {
            systemd.beat_due().await;
            systemd.beat();
        }
        assert_eq!(heard(&socket), ["WATCHDOG=1"; 5]);
        // The first one was overdue.
        assert_eq!(began.elapsed().as_secs(), 20);
    }

    #[test]
    fn what_was_told_is_not_told_again() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, mut systemd) = systemd(&folder);
        for _ in 0..2 {
            systemd.status("waiting".to_owned());
            systemd.ready();
        }
        assert_eq!(heard(&socket), ["STATUS=waiting", "READY=1"]);
        assert!(systemd.is_up);
    }
}
