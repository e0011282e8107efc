//! Connects to NATS servers and reports the state of the connection.
//!
//! TLS is never downgraded: if an address or a file in the settings requires it, every server must use it, and servers
//! that another server announces are ignored.
//!
//! The client reconnects by itself with backoff, and callers receive [`BusEvent`]s. A refused publish or subscription
//! is an event too, because the server reports it only afterwards.

mod backoff;
mod credentials;
mod error;
mod event;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::client::ReconnectError;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, ServerAddr, Subscriber};
use futures_util::future::select_ok;
use futures_util::stream::{FuturesUnordered, SelectAll};
use futures_util::{FutureExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use self::backoff::Backoff;
pub use self::backoff::Lockout;
use self::credentials::{SeedFile, requires_tls};
pub use self::credentials::{SeedReaders, public_key};
pub use self::error::{BusError, ConnectAttempt};
use self::event::Translator;
pub use self::event::{BusEvent, Events, Operation, Tried, Violation};

/// How long an attempt to reach a server may take, for all addresses of its name together.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

const LEAST_SHARE: Duration = Duration::from_secs(1);

/// How long a server is tried before the next one is tried too. Usually all are up, and the first one is preferred.
const HEAD_START: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy)]
struct ConnectionProfile {
    longest_pause: Duration,
    /// How long the server may be silent before a ping. After three times that, the connection is down.
    ping_after: Duration,
    /// Whether a second, hedging attempt skips silent addresses after a second, also when reconnecting.
    hedges: bool,
}

/// For a person who waits: notices a connection that hangs before its hosts are reported as unreachable.
const OPERATOR: ConnectionProfile =
    ConnectionProfile { longest_pause: Duration::from_secs(2), ping_after: Duration::from_secs(2), hedges: true };

/// For a listener, which may wait: a server that comes back must not face all hosts at once. A host notices a silently
/// broken connection within a minute.
const LISTENER: ConnectionProfile =
    ConnectionProfile { longest_pause: Duration::from_secs(30), ping_after: Duration::from_secs(20), hedges: false };

/// The default number of messages that a subscription buffers before it drops some.
pub const SUBSCRIPTION_CAPACITY: usize = 65_536;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Tried in this order.
    pub servers: Vec<ServerUrl>,
    pub nkey_file: PathBuf,
    pub seed_readers: SeedReaders,
    /// The trusted certificate authorities, in PEM. By default, those of the system.
    pub ca_file: Option<PathBuf>,
    pub client_cert: Option<ClientCert>,
    /// The name of the connection in the server's monitoring.
    pub name: String,
    /// How many messages a subscription buffers. Further ones are dropped and reported as [`BusEvent::SlowConsumer`].
    pub subscription_capacity: usize,
}

/// A client certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct ClientCert {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// The address of a server: `nats://host:port`, `tls://host:port`, or without scheme or port.
///
/// `Display` and `Debug` omit the user name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(ServerAddr);

#[derive(Debug)]
pub struct Bus {
    pub client: Client,
    /// The first connect is no event: the first [`BusEvent::Up`] is a reconnect.
    pub events: Events,
    pub renewal: Renewal,
    /// Warnings for the user about a connection that works.
    pub warnings: Vec<String>,
    /// The id and the subscription of a roll call whose late answers may still come.
    pub late_answers: Option<(Uuid, SelectAll<Subscriber>)>,
}

#[derive(Debug, Clone)]
pub struct Renewal {
    client: Client,
    backoff: Arc<Backoff>,
}

impl Renewal {
    /// Reconnects at once, without the pause that follows a failure.
    pub async fn connect_anew(&self) -> Result<(), ReconnectError> {
        self.backoff.reconnect_on_purpose();
        self.client.force_reconnect().await
    }
}

impl Bus {
    /// Connects for a command: tries each server once.
    pub async fn connect(settings: &Settings) -> Result<Self, BusError> {
        Dialer::prepare(settings, OPERATOR)?.connect().await
    }

    /// Connects for a service: retries with backoff and logs each failure. Fails only if a retry cannot help: the files
    /// of the settings are wrong, or the key was refused for a minute.
    pub async fn connect_patiently(settings: &Settings) -> Result<Self, BusError> {
        let dialer = Dialer::prepare(settings, LISTENER)?;
        let rounds = Backoff::starting_at(0, LISTENER.longest_pause);
        let mut lockout = Lockout::default();
        loop {
            sleep(rounds.next_pause()).await;
            match dialer.connect().await {
                Ok(bus) => return Ok(bus),
                Err(error @ BusError::Refused { .. }) if lockout.refused() => return Err(error),
                Err(error) => {
                    let help = miette::Diagnostic::help(&error).map(|help| help.to_string());
                    tracing::error!(help, "{error}; trying again");
                }
            }
        }
    }
}

/// Settings that were checked as far as possible without a server.
struct Dialer<'a> {
    settings: &'a Settings,
    seed: Arc<SeedFile>,
    requires_tls: bool,
    warnings: Vec<String>,
    profile: ConnectionProfile,
}

impl<'a> Dialer<'a> {
    fn prepare(settings: &'a Settings, profile: ConnectionProfile) -> Result<Self, BusError> {
        let (seed, warning) = SeedFile::read(&settings.nkey_file, settings.seed_readers)?;
        let (requires_tls, warnings) = (requires_tls(settings)?, warning.into_iter().collect());
        Ok(Self { settings, seed: Arc::new(seed), requires_tls, warnings, profile })
    }

    /// Tries each server once, in order, without waiting for silent ones. The first to accept the key wins. If none does, a
    /// refused key is the most specific error.
    async fn connect(&self) -> Result<Bus, BusError> {
        let mut untried = self.settings.servers.iter().enumerate();
        let mut under_way = FuturesUnordered::new();
        let (mut attempts, mut refusal) = (Vec::new(), None);
        loop {
            under_way.extend(untried.next().map(|(position, server)| self.try_server(position, server)));
            tokio::select! {
                ended = under_way.next() => match ended {
                    Some(Err(BusError::Unreachable(more))) => attempts.extend(more),
                    Some(Err(refused)) => refusal = Some(refused),
                    Some(connected) => return connected,
                    None => return Err(refusal.unwrap_or(BusError::Unreachable(attempts))),
                },
                () = sleep(HEAD_START), if untried.len() > 0 => {}
            }
        }
    }

    /// Tries the addresses of a server's name in turn. For a person who waits, a second attempt with less time for each
    /// address runs beside the first, in case an address drops packets.
    async fn try_server(&self, position: usize, server: &'a ServerUrl) -> Result<Bus, BusError> {
        let addresses = count_addresses(server).await.map_err(|why| ConnectAttempt::new(server, why))?;
        let thorough = self.try_addresses(position, server, share(addresses));
        if addresses < 2 || !self.profile.hedges {
            return thorough.await;
        }
        let hurried = async {
            sleep(HEAD_START).await;
            self.try_addresses(position, server, LEAST_SHARE).await
        };
        let (bus, _) = select_ok([thorough.boxed(), hurried.boxed()]).await?;
        Ok(bus)
    }

    /// The client gets all servers, for later reconnects; by `position` it begins with this one.
    async fn try_addresses(&self, position: usize, server: &ServerUrl, share: Duration) -> Result<Bus, BusError> {
        let (translator, events) = Translator::new();
        let backoff = Arc::new(Backoff::starting_at(position, self.profile.longest_pause));
        let servers: Vec<ServerAddr> = self.settings.servers.iter().map(|server| server.0.clone()).collect();
        match self.options(&backoff, share, translator).connect(servers).await {
            Ok(client) => {
                let renewal = Renewal { client: client.clone(), backoff };
                Ok(Bus { client, events, renewal, warnings: self.warnings.clone(), late_answers: None })
            }
            Err(error) => {
                let attempt = match error.kind() {
                    ConnectErrorKind::AuthorizationViolation => {
                        let public_key = self.seed.key().public_key();
                        return Err(BusError::Refused { server: server.clone(), public_key });
                    }
                    ConnectErrorKind::TimedOut if takes_connections(server).await => ConnectAttempt::not_nats(server),
                    ConnectErrorKind::TimedOut => {
                        ConnectAttempt::new(server, format!("no answer within {} ms", share.as_millis()))
                    }
                    _ => ConnectAttempt::of(&error, server, self.settings),
                };
                Err(attempt.into())
            }
        }
    }

    fn options(&self, backoff: &Arc<Backoff>, share: Duration, translator: Translator) -> ConnectOptions {
        let (seed, backoff) = (Arc::clone(&self.seed), Arc::clone(backoff));
        let mut options = ConnectOptions::with_auth_callback(move |nonce| std::future::ready(seed.prove(&nonce)))
            .name(&self.settings.name)
            .subscription_capacity(self.settings.subscription_capacity)
            .connection_timeout(share)
            .ping_interval(self.profile.ping_after)
            .reconnect_to_server_callback(move |pool, _| std::future::ready(backoff.choose(&pool)))
            .event_callback(move |event| {
                translator.on_event(event);
                std::future::ready(())
            });
        if self.requires_tls {
            // A server announces others before TLS begins, and does not say whether they use it.
            options = options.require_tls(true).ignore_discovered_servers();
        }
        if let Some(ca) = &self.settings.ca_file {
            options = options.add_root_certificates(ca.clone());
        }
        if let Some(ClientCert { cert, key }) = &self.settings.client_cert {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        options
    }
}

async fn count_addresses(server: &ServerUrl) -> Result<usize, String> {
    match timeout(CONNECT_WITHIN, server.0.socket_addrs()).await {
        Ok(Ok(addresses)) => Ok(addresses.count()),
        Ok(Err(error)) => Err(format!("its name cannot be looked up: {error}")),
        Err(_) => Err("its name cannot be looked up: no answer".to_owned()),
    }
}

async fn takes_connections(server: &ServerUrl) -> bool {
    let connected = timeout(HEAD_START, TcpStream::connect((server.0.host(), server.0.port()))).await;
    connected.is_ok_and(|connected| connected.is_ok())
}

/// Returns the time for each address of a name, which are tried in turn.
fn share(addresses: usize) -> Duration {
    (CONNECT_WITHIN / u32::try_from(addresses.max(1)).unwrap_or(u32::MAX)).max(LEAST_SHARE)
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let address: ServerAddr = text
            .parse()
            .map_err(|_| "not the address of a NATS server, which is nats://HOST:PORT or tls://HOST:PORT".to_owned())?;
        if address.host().is_empty() {
            return Err("the address has no host".to_owned());
        }
        if address.is_websocket() {
            return Err("websockets are not supported: use nats:// or tls://".to_owned());
        }
        Ok(Self(address))
    }
}

impl ServerUrl {
    fn host_and_port(&self) -> String {
        let (host, port) = (self.0.host(), self.0.port());
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Returns the address with its password, which must not be shown.
    pub fn with_password(&self) -> &str {
        self.0.as_url_str()
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), self.host_and_port())
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
