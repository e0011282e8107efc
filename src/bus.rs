//! The connection to NATS: who connects, to which servers, and what becomes of it.
//!
//! TLS is never lost: where an address or a file of the settings asks for it, every server must speak it, and servers that
//! another server names are not used.
//!
//! The client keeps reconnecting by itself, with growing pauses. Callers learn of that from [`BusEvent`]s. A refused publish or
//! subscription is one of them, because the server reports it only afterwards.

mod backoff;
mod error;
mod event;
mod seed;
mod tls;
mod trial;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, ServerAddr};

use self::backoff::Backoff;
pub use self::error::{Attempt, BusError};
use self::event::Translator;
pub use self::event::{BusEvent, Events, Operation, Violation};
pub use self::seed::SeedReaders;
use self::seed::UserKey;
pub use self::seed::public_key;
use self::tls::Tls;
pub use self::trial::Tried;
use crate::text::safe;

/// How long [`Bus::connect`] tries, all servers taken together.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The longest pause between two attempts of an operator's command: a person waits for it.
const OPERATOR_PAUSE: Duration = Duration::from_secs(2);

/// The longest pause between two attempts of a listener: it has all day, and a server that comes back must not be
/// met by a crowd.
const LISTENER_PAUSE: Duration = Duration::from_secs(30);

/// How many messages a subscription holds before it drops some, unless the caller knows how many to expect.
pub const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// What is needed to connect.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The servers; they are tried in this order.
    pub servers: Vec<ServerUrl>,
    /// The file with the seed of the user's `NKey`.
    pub nkey_file: PathBuf,
    /// What to do when everyone on the machine can read that file.
    pub seed_readers: SeedReaders,
    /// The authorities that the server's certificate may be signed by, in PEM; the system's when absent.
    pub ca_file: Option<PathBuf>,
    /// What to show a server that asks for a certificate.
    pub client_cert: Option<ClientCert>,
    /// The name of the connection, as the server's monitoring shows it.
    pub name: String,
    /// How many messages a subscription holds. A message that finds it full is dropped, and
    /// [`BusEvent::SlowConsumer`] is all that is heard of it.
    pub subscription_capacity: usize,
}

/// A client certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct ClientCert {
    /// The file with the certificate.
    pub cert: PathBuf,
    /// The file with the key.
    pub key: PathBuf,
}

/// The address of a server: `nats://host:port`, `tls://host:port`, or without scheme or port.
///
/// It is shown without the user name and password that it may carry.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(ServerAddr);

/// A connection.
#[derive(Debug)]
pub struct Bus {
    /// Publishes and subscribes.
    pub client: Client,
    /// What becomes of the connection. That it was made is no event: the first [`BusEvent::Up`] is a reconnect.
    pub events: Events,
    /// What the user should know although it works.
    pub warnings: Vec<String>,
}

impl Bus {
    /// Connects for a command that someone waits for: each server is tried once, all within five seconds.
    pub async fn connect(settings: &Settings) -> Result<Self, BusError> {
        Dialer::prepare(settings, OPERATOR_PAUSE)?.connect().await
    }

    /// Connects for a service: tries for ever, with growing pauses, and logs each failure. An error means that trying
    /// again would not help, since it is about the files of the settings.
    pub async fn connect_patiently(settings: &Settings) -> Result<Self, BusError> {
        let dialer = Dialer::prepare(settings, LISTENER_PAUSE)?;
        let rounds = Backoff::new(LISTENER_PAUSE);
        loop {
            tokio::time::sleep(rounds.next(1).pause).await;
            match dialer.connect().await {
                Ok(bus) => return Ok(bus),
                Err(error) => {
                    let help = miette::Diagnostic::help(&error).map(|help| help.to_string());
                    tracing::error!(help, "{error}; trying again");
                }
            }
        }
    }
}

/// Settings that were checked as far as is possible without a server.
struct Dialer<'a> {
    settings: &'a Settings,
    key: UserKey,
    tls: Tls,
    warnings: Vec<String>,
    longest_pause: Duration,
}

impl<'a> Dialer<'a> {
    fn prepare(settings: &'a Settings, longest_pause: Duration) -> Result<Self, BusError> {
        let (key, warning) = UserKey::read(&settings.nkey_file, settings.seed_readers)?;
        let tls = Tls::of(settings)?;
        Ok(Self { settings, key, tls, warnings: warning.into_iter().collect(), longest_pause })
    }

    /// Tries each server once.
    async fn connect(&self) -> Result<Bus, BusError> {
        let servers = &self.settings.servers;
        let patience = CONNECT_WITHIN / u32::try_from(servers.len().max(1)).unwrap_or(u32::MAX);
        let mut attempts = Vec::new();
        let mut refused = None;
        for (position, server) in servers.iter().enumerate() {
            let (translator, events) = Translator::new();
            let addresses: Vec<ServerAddr> = servers.iter().map(|server| server.0.clone()).collect();
            let connecting = self.options(position, patience, translator).connect(addresses);
            let why = match tokio::time::timeout(patience, connecting).await {
                Ok(Ok(client)) => {
                    let warnings = self.warnings.clone();
                    return Ok(Bus { client, events, warnings });
                }
                Ok(Err(error)) => {
                    if error.kind() == ConnectErrorKind::AuthorizationViolation {
                        refused.get_or_insert_with(|| server.clone());
                    }
                    safe(&error::plain(&error))
                }
                Err(_) => format!("no answer within {} ms", patience.as_millis()),
            };
            attempts.push(Attempt { server: server.clone(), why });
        }
        Err(match refused {
            Some(server) => BusError::Refused { server, public_key: self.key.public() },
            None => BusError::Unreachable(attempts),
        })
    }

    /// The options of a client whose first attempt goes to the server at this position.
    fn options(&self, position: usize, patience: Duration, translator: Translator) -> ConnectOptions {
        let backoff = Backoff::starting_at(position, self.longest_pause);
        let options = ConnectOptions::with_nkey(self.key.seed())
            .name(&self.settings.name)
            .subscription_capacity(self.settings.subscription_capacity)
            .connection_timeout(patience)
            .reconnect_to_server_callback(move |pool, _| std::future::ready(backoff.choose(&pool)))
            .event_callback(move |event| {
                translator.hear(event);
                std::future::ready(())
            });
        self.tls.apply(self.settings, options)
    }
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let address: ServerAddr = text.parse().map_err(|_| "not the address of a NATS server".to_owned())?;
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
    /// Whether the address asks for TLS.
    fn is_tls(&self) -> bool {
        self.0.tls_required()
    }

    fn host_and_port(&self) -> String {
        let (host, port) = (self.0.host(), self.0.port());
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// The whole address. It may carry a password, and is for programs only.
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
