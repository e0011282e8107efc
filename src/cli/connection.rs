//! Flags of the commands that connect to NATS, and of an operator's commands.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::context::StateArgs;
use super::exit::CommandError;
use super::out;
use crate::bus::{self, Bus, ClientCert, SeedReaders, ServerUrl, Settings};
use crate::operator::{Discovery, KnownHosts};
use crate::protocol::{Subject, subject};

/// The heading of the connection flags in the help. Each flag names it: `next_help_heading` would also apply to the
/// flags of the commands that include these.
pub(in crate::cli) const HEADING: &str = "Connection";

#[derive(Debug, Args)]
pub(in crate::cli) struct ConnectionArgs {
    /// NATS server, nats://HOST:PORT or tls://HOST:PORT; several are tried in turn
    #[arg(long, env = "HOMELAB_DEPLOY_NATS_URL", value_name = "URL", help_heading = HEADING, required = true, value_delimiter = ',')]
    nats_url: Vec<ServerUrl>,

    /// File with the seed of the NKey to connect with
    #[arg(long, env = "HOMELAB_DEPLOY_NKEY_FILE", value_name = "FILE", help_heading = HEADING)]
    nkey_file: PathBuf,

    /// Certificate authorities of the server, in PEM [default: those of the system]
    #[arg(long, env = "HOMELAB_DEPLOY_TLS_CA", value_name = "FILE", help_heading = HEADING)]
    tls_ca: Option<PathBuf>,

    /// Client certificate, in PEM
    #[arg(long, env = "HOMELAB_DEPLOY_TLS_CERT", value_name = "FILE", help_heading = HEADING, requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Key of the client certificate, in PEM
    #[arg(long, env = "HOMELAB_DEPLOY_TLS_KEY", value_name = "FILE", help_heading = HEADING, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl ConnectionArgs {
    /// Returns the settings of a connection that has this name in the server's monitoring.
    pub(in crate::cli) fn settings(&self, name: impl Into<String>, seed_readers: SeedReaders) -> Settings {
        let client_cert = self.tls_cert.clone().zip(self.tls_key.clone());
        Settings {
            servers: self.nats_url.clone(),
            nkey_file: self.nkey_file.clone(),
            seed_readers,
            ca_file: self.tls_ca.clone(),
            client_cert: client_cert.map(|(cert, key)| ClientCert { cert, key }),
            name: name.into(),
            subscription_capacity: bus::SUBSCRIPTION_CAPACITY,
        }
    }
}

/// More than the largest fleet answers at once. Unused capacity costs nothing; a full subscription loses answers.
const SUBSCRIPTION_CAPACITY: usize = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct OperatorArgs {
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,

    /// Subject on which hosts are asked whether they are there
    #[arg(long, env = "HOMELAB_DEPLOY_DISCOVER_SUBJECT", value_name = "SUBJECT", default_value = subject::DISCOVER)]
    #[arg(help_heading = HEADING)]
    discover_subject: Subject,

    /// How long answers to that are waited for [default: 2s, and less once every host has answered that did before]
    #[arg(long, env = "HOMELAB_DEPLOY_DISCOVER_WINDOW", value_name = "DURATION")]
    #[arg(help_heading = HEADING, value_parser = humantime::parse_duration)]
    discover_window: Option<Duration>,

    /// Who deploys, as the hosts and other operators are told [default: USER@MACHINE]
    #[arg(long, env = "HOMELAB_DEPLOY_OPERATOR", value_name = "NAME")]
    operator: Option<String>,

    #[arg(long, env = "USER", hide = true, default_value = "unknown")]
    login_name: String,
}

impl OperatorArgs {
    /// Connects, and prints the warnings about the connection.
    pub(super) async fn connect(&self) -> Result<Bus, CommandError> {
        let bus = Bus::connect(&self.settings()).await?;
        out::warnings(&bus.warnings);
        Ok(bus)
    }

    pub(super) fn settings(&self) -> Settings {
        let settings = self.connection.settings(self.name(), SeedReaders::Warn);
        Settings { subscription_capacity: SUBSCRIPTION_CAPACITY, ..settings }
    }

    pub(super) fn name(&self) -> String {
        let machine = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.operator.clone().unwrap_or_else(|| format!("{}@{}", self.login_name, machine()))
    }

    /// Returns the subject, the window and the known hosts for roll calls.
    pub(super) fn discovery(&self, state: &StateArgs) -> Discovery {
        let servers = self.settings().servers;
        Discovery {
            subject: self.discover_subject.clone(),
            window: self.discover_window,
            known: KnownHosts::of(state.folder(), servers.iter().map(ServerUrl::to_string)),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        connection: ConnectionArgs,
    }

    fn parse(arguments: &[&str]) -> Result<Settings, clap::error::ErrorKind> {
        let command = Command::try_parse_from([&["x", "--nkey-file", "k"], arguments].concat());
        command.map(|command| command.connection.settings("ops", SeedReaders::Warn)).map_err(|error| error.kind())
    }

    #[test]
    fn several_servers_come_with_commas_and_by_repetition() {
        let settings = parse(&["--nats-url", "a,tls://b:1", "--nats-url", "c"]).unwrap();
        let servers: Vec<String> = settings.servers.iter().map(ServerUrl::to_string).collect();
        assert_eq!(servers, ["nats://a:4222", "tls://b:1", "nats://c:4222"]);
        assert!(settings.client_cert.is_none());
    }

    #[test]
    fn half_a_client_certificate_and_a_bad_address_are_usage_errors() {
        use clap::error::ErrorKind;
        assert_eq!(parse(&["--nats-url", "a", "--tls-cert", "c"]).unwrap_err(), ErrorKind::MissingRequiredArgument);
        assert_eq!(parse(&["--nats-url", "http://a"]).unwrap_err(), ErrorKind::ValueValidation);
        assert_eq!(parse(&[]).unwrap_err(), ErrorKind::MissingRequiredArgument);
        let both = parse(&["--nats-url", "a", "--tls-cert", "c", "--tls-key", "k"]).unwrap();
        assert!(both.client_cert.is_some());
    }
}
