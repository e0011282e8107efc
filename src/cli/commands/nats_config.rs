//! `nats-config`: prints what the NATS server must know about hosts and deployers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};

use crate::cli::out::{self, CommandError, CommandResult, Exit};
use crate::nats_config::{FleetList, ListenerName, Principal, Strictness, User, authorization};
use crate::protocol::ParseError;

#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("users").required(true).multiple(true)))]
pub(in crate::cli) struct NatsConfig {
    /// File with the hosts and operators, as `init` writes it; flags add more
    #[arg(group = "users", value_name = "FLEET")]
    fleet: Option<PathBuf>,
    /// A host and its public key; may be repeated
    // The values stay text until `run`: an error of clap would repeat them, and one of them may be a seed.
    #[arg(long = "listener", group = "users", value_name = "TIER.HOST[.ROLE]=PUBLIC_KEY")]
    listeners: Vec<String>,
    /// Public key of a deployer to the test tier; may be repeated
    #[arg(long = "test-deployer", group = "users", value_name = "PUBLIC_KEY")]
    test_deployers: Vec<String>,
    /// Public key of a deployer to every host; may be repeated
    #[arg(long = "admin", group = "users", value_name = "PUBLIC_KEY")]
    admins: Vec<String>,
    /// Also allow what the predecessor's deployers need; hosts can then answer them for each other
    #[arg(long)]
    compatible: bool,
}

impl NatsConfig {
    pub(in crate::cli) fn run(self) -> CommandResult {
        let text = self.authorization()?;
        out::data(&format!(
            "# Made by `homelab-deploy nats-config`; include it in the server's configuration.\n{text}"
        ));
        Ok(Exit::Success)
    }

    fn authorization(&self) -> Result<String, CommandError> {
        let listeners = self.listeners.iter().map(|text| listener(text));
        let test_deployers = self.test_deployers.iter().map(|key| user(Principal::TestDeployer, key));
        let admins = self.admins.iter().map(|key| user(Principal::Admin, key));
        let mut users = match &self.fleet {
            Some(file) => read_fleet(file)?.users(),
            None => Vec::new(),
        };
        for user in listeners.chain(test_deployers).chain(admins) {
            users.push(user?);
        }
        if users.is_empty() {
            let help =
                "a server without users lets everybody in: `homelab-deploy init` makes a list of hosts and operators";
            return Err(Exit::Usage.error("the list names no host and no operator", help));
        }
        refuse_shared_keys(&users)?;
        let strictness = if self.compatible { Strictness::Compatible } else { Strictness::Strict };
        Ok(authorization(&users, strictness))
    }
}

pub(in crate::cli) fn read_fleet(file: &Path) -> Result<FleetList, CommandError> {
    let path = file.display();
    let text = fs::read_to_string(file).map_err(|error| {
        Exit::Usage.error(format!("cannot read {path}: {error}"), "`homelab-deploy init` writes a fleet.toml")
    })?;
    FleetList::parse(&text).map_err(|error| {
        let help = "a host is [[host]] with name, tier, role and key; an operator is [[operator]] with name, \
                    deploys_to (all or test) and key";
        Exit::Usage.error(format!("{path}, {error}"), help)
    })
}

/// Parses `<tier>.<host>[.<role>]=<public key>`.
fn listener(text: &str) -> Result<User, CommandError> {
    let mistake = |what: String| {
        let help = "write it as prod.ns1=U... or, with a role, prod.ns1.dns=U...";
        Exit::Usage.error(format!("--listener: {what}"), help)
    };
    let (name, key) = text.rsplit_once('=').ok_or_else(|| mistake("its public key is missing".to_owned()))?;
    let name: ListenerName = name.parse().map_err(|error: ParseError| mistake(error.to_string()))?;
    user(Principal::Listener(name), key)
}

fn user(holder: Principal, key: &str) -> Result<User, CommandError> {
    match key.parse() {
        Ok(key) => Ok(User { holder, key }),
        Err(error) => {
            let help = "`homelab-deploy keygen FILE` makes a pair and prints the public key";
            Err(Exit::Usage.error(format!("the key of {holder}: {error}"), help))
        }
    }
}

fn refuse_shared_keys(users: &[User]) -> Result<(), CommandError> {
    let mut holders = BTreeMap::new();
    for User { holder, key } in users {
        if let Some(other) = holders.insert(key, holder) {
            let help =
                "the server tells users apart by their keys: make one for each with `homelab-deploy keygen FILE`";
            return Err(Exit::Usage.error(format!("two users have the key {key}: {other}, and {holder}"), help));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use nkeys::{KeyPair, KeyPairType};

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        command: NatsConfig,
    }

    fn run(arguments: &[&str]) -> Result<String, CommandError> {
        let program = ["nats-config"];
        Alone::try_parse_from(program.iter().chain(arguments)).unwrap().command.authorization()
    }

    fn pair(number: u8) -> KeyPair {
        KeyPair::new_from_raw(KeyPairType::User, [number; 32]).unwrap()
    }

    #[test]
    fn the_users_come_in_the_order_listeners_test_deployers_admins() {
        let [host, tester, admin] = [1, 2, 3].map(|number| pair(number).public_key());
        let host = format!("prod.ns1.dns={host}");
        let text = run(&["--admin", &admin, "--test-deployer", &tester, "--listener", &host]).unwrap();
        let comments: Vec<_> = text.lines().filter(|line| line.contains('#')).map(str::trim).collect();
        let users = &comments[comments.len() - 3..];
        assert_eq!(users, ["# listener ns1, tier prod, role dns", "# test deployer", "# admin deployer"]);
    }

    #[test]
    fn mistakes_are_named_and_a_seed_is_never_repeated() {
        let seed = pair(1).seed().unwrap();
        let public = pair(1).public_key();
        let refusal = |arguments: &[&str]| run(arguments).unwrap_err().report.to_string();
        insta::assert_snapshot!(refusal(&["--listener", &seed]), @"--listener: its public key is missing");
        insta::assert_snapshot!(refusal(&["--listener", &format!("prod.ns1={seed}")]), @"the key of listener ns1, tier prod: this is a seed, which is secret: give the public key that goes with it, which starts with U");
        insta::assert_snapshot!(refusal(&["--admin", &seed]), @"the key of admin deployer: this is a seed, which is secret: give the public key that goes with it, which starts with U");
        insta::assert_snapshot!(refusal(&["--admin", &public, "--test-deployer", &public]), @"two users have the key UCFIRY65OQE7DFP5KLNS2PF2LVZMUZYJX4OZIEQ36N2IQANUB5XVZ45L: test deployer, and admin deployer");
        for nobody in [&["nats-config"][..], &["nats-config", "--compatible"]] {
            assert!(Alone::try_parse_from(nobody).is_err(), "a server without users lets everybody in");
        }
        assert_eq!(refusal(&["/dev/null"]), "the list names no host and no operator");
    }
}
