//! The flags of every command that connects to NATS.

use std::path::PathBuf;

use clap::Args;

use crate::bus::{ClientCert, SUBSCRIPTION_CAPACITY, SeedReaders, ServerUrl, Settings};

/// Under which the flags of a connection stand in the help. Each flag says it: a heading for "what comes next" would take
/// in the flags of the commands that include these.
pub(in crate::cli) const HEADING: &str = "Connection";

// How to reach NATS, and as whom.
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
    /// The settings of a connection that the server's monitoring shows under this name.
    pub(in crate::cli) fn settings(&self, name: impl Into<String>, seed_readers: SeedReaders) -> Settings {
        let client_cert = self.tls_cert.clone().zip(self.tls_key.clone());
        Settings {
            servers: self.nats_url.clone(),
            nkey_file: self.nkey_file.clone(),
            seed_readers,
            ca_file: self.tls_ca.clone(),
            client_cert: client_cert.map(|(cert, key)| ClientCert { cert, key }),
            name: name.into(),
            subscription_capacity: SUBSCRIPTION_CAPACITY,
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
