//! `init`: writes the files that a NATS server, hosts and an operator need for a new fleet.

mod files;

use std::fmt::Display;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;

use self::files::Site;
use super::keygen;
use super::nats_config::read_fleet;
use crate::bus::{self, BusError, ServerUrl};
use crate::cli::context::{self, LOCAL_FILE};
use crate::cli::out::{self, CommandError, CommandResult, Exit, Unwritable};
use crate::nats_config::{FleetList, ListenerName, Principal, PublicKey};
use crate::private_dir::{PrivateDir, PrivateDirError};
use crate::protocol::FlakeUrl;

/// The default address of the NATS server.
const THIS_MACHINE: &str = "nats://127.0.0.1:4222";

#[derive(Debug, Args)]
pub(in crate::cli) struct Init {
    /// Folder for the files of the fleet
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,

    /// A host, as test.NAME, prod.NAME or prod.NAME.ROLE; may be repeated. A later `init` adds more
    #[arg(long = "host", value_name = "TIER.HOST[.ROLE]")]
    hosts: Vec<ListenerName>,

    /// Address of the NATS server, as hosts and operators reach it [default: this machine]
    #[arg(long = "nats-url", value_name = "URL")]
    server: Option<ServerUrl>,

    /// Flake with the configurations of the hosts
    #[arg(long, value_name = "URL")]
    flake: Option<FlakeUrl>,

    /// Ask nothing; use the defaults for all that no flag sets
    #[arg(long, short)]
    yes: bool,
}

impl Init {
    pub(in crate::cli) fn run(self) -> CommandResult {
        let fleet_file = self.folder.join("fleet.toml");
        let before = if fleet_file.exists() { read_fleet(&fleet_file)? } else { FleetList::default() };
        let (site_before, site) = self.sites()?;
        let names = self.names(&before)?;
        // Seeds are written first: every key on the list must have a seed.
        let added = self.make_keys(&before, names)?;
        let mut fleet = before.clone();
        fleet.hosts.extend(added.hosts.iter().cloned());
        fleet.operators.extend(added.operators.iter().cloned());
        for ((path, old), (_, new)) in site_before.files(&before).iter().zip(&site.files(&fleet)) {
            self.update(path, old, new)?;
        }
        // The list is last: what is on it is not new to the next `init`, which then leaves the files above alone.
        if added != FleetList::default() {
            // New entries are appended, so that edits of the user are kept.
            let text = fs::read_to_string(&fleet_file).unwrap_or_else(|_| FleetList::default().text());
            self.put("fleet.toml", &(text + &added.entries()))?;
        }
        let there =
            if self.folder == Path::new(".") { String::new() } else { format!("cd {}\n  ", self.folder.display()) };
        out::note(&format!(
            "\nNext:\n  {there}nats-server --config nats.conf    # where {} leads to\n  \
             scp keys/TIER.HOST.seed root@HOST:{}    # for each host, which imports nix/homelab-deploy.nix\n  \
             homelab-deploy doctor    # says what is missing; then: homelab-deploy apply rollout",
            site.server,
            files::SEED_ON_A_HOST
        ));
        Ok(Exit::Success)
    }

    /// Whether there is somebody to ask.
    fn is_asking(&self) -> bool {
        !self.yes && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Returns the server, the flake and the context as an earlier `init` wrote them, and as they are now.
    fn sites(&self) -> Result<(Site, Site), CommandError> {
        let file = self.folder.join(LOCAL_FILE);
        let known = if file.exists() { context::select(&file, None)? } else { None };
        let (name, known) = known.unzip();
        let known = known.unwrap_or_default();
        let known_server = known.server.map(|known| parsed(known.split(',').next().unwrap_or_default())).transpose()?;
        let known_flake = known.flake.map(|known| parsed(&known)).transpose()?;
        let server = self.server.as_ref().or(known_server.as_ref());
        let server = self.setting(server, "NATS server", "--nats-url", THIS_MACHINE)?;
        let flake = self.flake.as_ref().or(known_flake.as_ref());
        let flake = self.setting(flake, "Flake with the configurations of the hosts", "--flake", "")?;
        let folder = std::path::absolute(&self.folder).unwrap_or_default();
        let context = name.unwrap_or_else(|| files::context_name(folder.file_name().unwrap_or_default()));
        let before = Site {
            context: context.clone(),
            server: known_server.unwrap_or_else(|| server.clone()),
            flake: known_flake.unwrap_or_else(|| flake.clone()),
        };
        Ok((before, Site { context, server, flake }))
    }

    /// Returns a setting as it is given, else from the user, else its default.
    fn setting<T>(&self, given: Option<&T>, what: &str, flag: &str, default: &str) -> Result<T, CommandError>
    where
        T: Clone + FromStr<Err: Display>,
    {
        match given {
            Some(given) => Ok(given.clone()),
            None if self.is_asking() => ask(what, default)?.ok_or_else(|| missing(flag)),
            None if default.is_empty() => Err(missing(flag)),
            None => parsed(default),
        }
    }

    /// Returns the hosts to add.
    fn names(&self, known: &FleetList) -> Result<Vec<ListenerName>, CommandError> {
        let mut names = self.hosts.clone();
        if names.is_empty() && self.is_asking() {
            out::note("Hosts, each as test.NAME, prod.NAME or prod.NAME.ROLE; an empty line ends the list.");
            while let Some(name) = ask("Host", "")? {
                names.push(name);
            }
        }
        if names.is_empty() && known.hosts.is_empty() {
            return Err(missing("--host"));
        }
        let mut added: Vec<ListenerName> = Vec::new();
        for name in names {
            let is_same = |other: &ListenerName| (other.tier, &other.hostname) == (name.tier, &name.hostname);
            match known.hosts.iter().map(|(known, _)| known).chain(&added).find(|other| is_same(other)) {
                Some(other) if *other == name => {}
                Some(_) => {
                    let what = format!("{} is a host of this fleet already, with another tier or role", name.hostname);
                    return Err(Exit::Usage.error(what, "change it in fleet.toml, and run `homelab-deploy init` again"));
                }
                None => added.push(name),
            }
        }
        Ok(added)
    }

    /// Makes a key for each host, and keys for the operators if the fleet has none yet.
    fn make_keys(&self, known: &FleetList, names: Vec<ListenerName>) -> Result<FleetList, CommandError> {
        let keys = self.folder.join("keys");
        // A seed in there is taken for one that an earlier `init` wrote: nobody else may have put it there.
        PrivateDir::create(&keys).map_err(|error| match error {
            PrivateDirError::Io(folder, error) => CommandError::from(Unwritable(folder, error)),
            error => error.into(),
        })?;
        let mut added = FleetList::default();
        for name in names {
            let key = make_key(&keys.join(format!("{}.{}.seed", name.tier, name.hostname)))?;
            added.hosts.push((name, key));
        }
        if known.operators.is_empty() {
            for (name, holder) in [("operator", Principal::Admin), ("assistant", Principal::TestDeployer)] {
                let key = make_key(&keys.join(format!("{name}.seed")))?;
                added.operators.push((name.to_owned(), holder, key));
            }
        }
        Ok(added)
    }

    /// Writes a file that is generated from the fleet. A file that was changed by hand stays as it is.
    fn update(&self, path: &str, old: &str, new: &str) -> Result<(), Unwritable> {
        match fs::read_to_string(self.folder.join(path)) {
            Ok(text) if text == new || old == new => Ok(()),
            Ok(text) if text != old => {
                out::note(&format!("{path} was changed by hand and is kept: take what is new from {path}.new"));
                self.put(&format!("{path}.new"), new)
            }
            _ => self.put(path, new),
        }
    }

    fn put(&self, path: &str, text: &str) -> Result<(), Unwritable> {
        let file = self.folder.join(path);
        let made = fs::create_dir_all(file.parent().unwrap_or(Path::new("")));
        made.and_then(|()| out::replace_file(&file, text)).map_err(|error| Unwritable(file, error))?;
        out::note(&format!("{path} is written"));
        Ok(())
    }
}

/// Returns the public key of a new seed, or of a seed that an interrupted `init` left.
fn make_key(seed: &Path) -> Result<PublicKey, CommandError> {
    let public = if seed.exists() { bus::public_key(seed)?.0 } else { keygen::generate(seed)? };
    Ok(public.parse().map_err(|_| BusError::NotAUserSeed(seed.to_owned()))?)
}

fn missing(what: &str) -> CommandError {
    let help = format!("give {what}, or run `homelab-deploy init` on a terminal, where it asks");
    Exit::Usage.error(format!("{what} is missing"), help)
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, CommandError> {
    text.parse().map_err(|error: T::Err| {
        let help = "check the flags of `init`, and what an earlier one wrote into this folder";
        Exit::Usage.error(error.to_string(), help)
    })
}

/// Asks until the answer can be parsed. An empty answer means the default, or `None` if there is no default.
fn ask<T: FromStr<Err: Display>>(what: &str, usual: &str) -> Result<Option<T>, CommandError> {
    loop {
        let hint = if usual.is_empty() { String::new() } else { format!(" [{usual}]") };
        write!(io::stderr(), "{what}{hint}: ").ok();
        let mut line = String::new();
        if !matches!(io::stdin().read_line(&mut line), Ok(1..)) {
            return Err(missing("an answer"));
        }
        let answer = if line.trim().is_empty() { usual } else { line.trim() };
        match answer.parse() {
            Ok(value) => return Ok(Some(value)),
            Err(_) if answer.is_empty() => return Ok(None),
            Err(error) => out::note(&format!("{error}")),
        }
    }
}
