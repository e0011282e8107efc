//! Generates the files of a fleet.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write;

use crate::bus::ServerUrl;
use crate::cli::context::{LOCAL_FILE, is_name};
use crate::nats_config::{FleetList, ListenerName, Strictness, authorization};
use crate::protocol::{FlakeUrl, Role, Tier};

/// The default path of the seed on a host.
pub(super) const SEED_ON_A_HOST: &str = "/etc/homelab-deploy.seed";

#[derive(Debug)]
pub(super) struct Site {
    pub(super) context: String,
    pub(super) server: ServerUrl,
    pub(super) flake: FlakeUrl,
}

impl Site {
    /// Returns the files that are generated from a fleet, each with its path.
    pub(super) fn files(&self, fleet: &FleetList) -> [(&'static str, String); 5] {
        [
            ("keys/.gitignore", "# Seeds are secret.\n*\n".to_owned()),
            ("nats.conf", self.server_configuration(fleet)),
            ("nix/homelab-deploy.nix", self.module(fleet)),
            ("plans/rollout.toml", plan(fleet)),
            (LOCAL_FILE, self.context(fleet)),
        ]
    }

    fn server_configuration(&self, fleet: &FleetList) -> String {
        let (host, port) = self.address();
        let is_here = matches!(host.as_str(), "127.0.0.1" | "localhost" | "[::1]");
        let listen = if is_here {
            "# For this machine only; remove the line to let others in.\nhost: \"127.0.0.1\"\n"
        } else {
            "# Without TLS, use a network that encrypts by itself. With it, hosts and operators connect to tls://…\n\
             # tls { cert_file: \"/path/of/cert.pem\", key_file: \"/path/of/key.pem\" }\n"
        };
        let users = authorization(&fleet.users(), Strictness::Strict);
        format!(
            "# The configuration of nats-server for this fleet: `nats-server --config nats.conf`.\n\
             # `homelab-deploy init` wrote it, and `homelab-deploy doctor nats.conf` checks it.\n\
             port: {port}\n{listen}max_payload: 262144\n\n{users}"
        )
    }

    /// Splits the server's address into host and port.
    fn address(&self) -> (String, String) {
        let url = self.server.to_string();
        let address = url.split_once("://").map_or(url.as_str(), |(_, address)| address);
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "4222"));
        (host.to_owned(), port.to_owned())
    }

    fn module(&self, fleet: &FleetList) -> String {
        let (mut hosts, mut names) = (String::new(), BTreeSet::new());
        for (ListenerName { tier, hostname, role }, key) in &fleet.hosts {
            let role = role.as_ref().map(|role| format!(" role = {};", nix(role.as_str()))).unwrap_or_default();
            // A second attribute of that name would be an error in Nix.
            let mark = if names.insert(hostname) { "" } else { "# Set on the host itself, as it shares its name: " };
            // Writing to a String cannot fail.
            let name = nix(hostname.as_str());
            let _ = writeln!(hosts, "    {mark}{name} = {{ tier = \"{tier}\";{role} publicKey = \"{key}\"; }};");
        }
        let (server, flake) = (nix(&self.server.to_string()), nix(self.flake.as_str()));
        format!(
            "# The listener on the hosts of this fleet. Each of them imports this file and the module that it sets:\n\
             #   imports = [ inputs.homelab-deploy.nixosModules.default ./nix/homelab-deploy.nix ];\n\
             # A server on NixOS can take its permissions from the same settings: see lib.natsAuthorization in docs/operations.md.\n\
             {{ config, lib, ... }}:\nlet\n  name = config.networking.hostName;\n  hosts = {{\n{hosts}  }};\nin\n{{\n  \
             services.homelab-deploy.listener = lib.mkIf (hosts ? ${{name}}) (\n    {{\n      enable = true;\n      \
             natsUrl = {server};\n      flakeUrl = {flake};\n      # A file that only root can read, with keys/<tier>.<host>.seed in it.\n      \
             nkeyFile = \"{SEED_ON_A_HOST}\";\n    }}\n    // (hosts.${{name}} or {{ }})\n  );\n}}\n"
        )
    }

    fn context(&self, fleet: &FleetList) -> String {
        let Self { context, server, flake } = self;
        // A second key of that name would be an error in TOML.
        let aliases = roles(fleet).into_iter().filter(|role| is_name(role.as_str()) && role.as_str() != "tests");
        let aliases: Vec<_> = aliases.map(|role| format!("{role} = \"deploy.prod.role.{role}\"\n")).collect();
        let (server, flake) = (server.to_string(), flake.as_str());
        format!(
            "# The settings of homelab-deploy for this fleet, used by each command that runs in this folder. From elsewhere:\n\
             # --config FILE, or HOMELAB_DEPLOY_CONFIG. Paths are relative to this file.\n\
             [context.{context}]\nserver = {server:?}\nkey = \"keys/operator.seed\"\n\
             assistant-key = \"keys/assistant.seed\"\nflake = {flake:?}\nplans = \"plans\"\n\
             fleet = \"fleet.toml\"\n\n[context.{context}.aliases]\ntests = \"deploy.test.all\"\n{}",
            aliases.concat()
        )
    }
}

/// Generates a plan: the test tier first, then each role of prod, then the other hosts.
fn plan(fleet: &FleetList) -> String {
    let mut text =
        "# A rollout of this fleet: `homelab-deploy plan rollout` shows what it would do, `apply rollout` does it.\n\
         revision = \"main\"\n"
            .to_owned();
    if hosts(fleet, Tier::Test).next().is_some() {
        text.push_str("\n[[wave]]\ntargets = \"test.all\"\n");
    }
    for role in roles(fleet) {
        let _ = write!(text, "\n[[wave]]\ntargets = \"prod.role.{role}\"\nmax_parallel = 1\n");
    }
    if hosts(fleet, Tier::Prod).any(|name| name.role.is_none()) {
        text.push_str("\n[[wave]]\ntargets = \"prod.all\"      # hosts of earlier waves are left out\n");
    }
    text
}

fn hosts(fleet: &FleetList, tier: Tier) -> impl Iterator<Item = &ListenerName> {
    fleet.hosts.iter().map(|(name, _)| name).filter(move |name| name.tier == tier)
}

/// Returns each role of prod once, in the order of the list.
fn roles(fleet: &FleetList) -> Vec<&Role> {
    let mut roles = Vec::new();
    for role in hosts(fleet, Tier::Prod).filter_map(|name| name.role.as_ref()) {
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    roles
}

/// Returns the name of a folder's context: the name of the folder without the characters that a context cannot have.
pub(super) fn context_name(folder: &OsStr) -> String {
    let name: String = folder.to_string_lossy().chars().filter(|c| is_name(&c.to_string())).collect();
    if name.is_empty() { "fleet".to_owned() } else { name }
}

/// Formats a text as a Nix string.
fn nix(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace("${", "\\${"))
}

#[cfg(test)]
mod tests {
    use nkeys::{KeyPair, KeyPairType};

    use super::*;
    use crate::nats_config::Principal;
    use crate::plan::Plan;

    fn site() -> (Site, FleetList) {
        let key =
            |number| KeyPair::new_from_raw(KeyPairType::User, [number; 32]).unwrap().public_key().parse().unwrap();
        let hosts = ["test.test1", "prod.ns1.dns", "prod.jelly.media", "prod.ns2.dns", "prod.nas"];
        let hosts = hosts.iter().zip(1..).map(|(name, number)| (name.parse().unwrap(), key(number))).collect();
        let operators = vec![("operator".to_owned(), Principal::Admin, key(9))];
        let flake = "git+https://git.example.com/nixos?dir=${x}".parse().unwrap();
        let site = Site { context: "home".to_owned(), server: "nats://nats.example.com".parse().unwrap(), flake };
        (site, FleetList { hosts, operators })
    }

    #[test]
    fn the_files_say_what_the_fleet_is() {
        let (site, fleet) = site();
        let [_, server, module, plan, context] = site.files(&fleet).map(|(_, text)| text);
        insta::assert_snapshot!(server.split("authorization").next().unwrap(), @r#"
        # The configuration of nats-server for this fleet: `nats-server --config nats.conf`.
        # `homelab-deploy init` wrote it, and `homelab-deploy doctor nats.conf` checks it.
        port: 4222
        # Without TLS, use a network that encrypts by itself. With it, hosts and operators connect to tls://…
        # tls { cert_file: "/path/of/cert.pem", key_file: "/path/of/key.pem" }
        max_payload: 262144

        # Each host answers below deploy.responses.<tier>.<host> only, so the server proves which key answered. It proves no more:
        # a host can lie about itself, and an admin key may publish everything.
        # The longest message of homelab-deploy has less than 256 KiB. On a server that serves nothing else, set at the top level:
        #   max_payload: 262144
        "#);
        insta::assert_snapshot!(module, @r#"
        # The listener on the hosts of this fleet. Each of them imports this file and the module that it sets:
        #   imports = [ inputs.homelab-deploy.nixosModules.default ./nix/homelab-deploy.nix ];
        # A server on NixOS can take its permissions from the same settings: see lib.natsAuthorization in docs/operations.md.
        { config, lib, ... }:
        let
          name = config.networking.hostName;
          hosts = {
            "test1" = { tier = "test"; publicKey = "UCFIRY65OQE7DFP5KLNS2PF2LVZMUZYJX4OZIEQ36N2IQANUB5XVZ45L"; };
            "ns1" = { tier = "prod"; role = "dns"; publicKey = "UCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJPJO"; };
            "jelly" = { tier = "prod"; role = "media"; publicKey = "UDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2U4"; };
            "ns2" = { tier = "prod"; role = "dns"; publicKey = "UDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYREV"; };
            "nas" = { tier = "prod"; publicKey = "UBXHUHG5FGYLPD6RHL2MKWMP572O6KUXCZXDZJXS4T57ZTMAKBN7CEDX"; };
          };
        in
        {
          services.homelab-deploy.listener = lib.mkIf (hosts ? ${name}) (
            {
              enable = true;
              natsUrl = "nats://nats.example.com:4222";
              flakeUrl = "git+https://git.example.com/nixos?dir=\${x}";
              # A file that only root can read, with keys/<tier>.<host>.seed in it.
              nkeyFile = "/etc/homelab-deploy.seed";
            }
            // (hosts.${name} or { })
          );
        }
        "#);
        insta::assert_snapshot!(plan, @r#"
        # A rollout of this fleet: `homelab-deploy plan rollout` shows what it would do, `apply rollout` does it.
        revision = "main"

        [[wave]]
        targets = "test.all"

        [[wave]]
        targets = "prod.role.dns"
        max_parallel = 1

        [[wave]]
        targets = "prod.role.media"
        max_parallel = 1

        [[wave]]
        targets = "prod.all"      # hosts of earlier waves are left out
        "#);
        insta::assert_snapshot!(context, @r#"
        # The settings of homelab-deploy for this fleet, used by each command that runs in this folder. From elsewhere:
        # --config FILE, or HOMELAB_DEPLOY_CONFIG. Paths are relative to this file.
        [context.home]
        server = "nats://nats.example.com:4222"
        key = "keys/operator.seed"
        assistant-key = "keys/assistant.seed"
        flake = "git+https://git.example.com/nixos?dir=${x}"
        plans = "plans"
        fleet = "fleet.toml"

        [context.home.aliases]
        tests = "deploy.test.all"
        dns = "deploy.prod.role.dns"
        media = "deploy.prod.role.media"
        "#);
        Plan::parse(&plan, "rollout", &|_: &str| None).unwrap();
    }

    #[test]
    fn what_has_one_name_is_set_once() {
        let (site, mut fleet) = site();
        for name in ["prod.test1", "prod.web.tests"] {
            fleet.hosts.push((name.parse().unwrap(), fleet.hosts[0].1.clone()));
        }
        let [_, _, module, _, context] = site.files(&fleet).map(|(_, text)| text);
        let lines: Vec<&str> = module.lines().filter(|line| line.contains("test1")).map(str::trim).collect();
        assert!(lines.len() == 2 && lines[0].starts_with("\"test1\"") && lines[1].starts_with('#'), "{lines:?}");
        toml::from_str::<toml::Table>(&context).unwrap();
    }

    #[test]
    fn a_context_has_a_name_that_is_one() {
        assert_eq!(context_name(OsStr::new("my fleet.2")), "myfleet2");
        assert_eq!(context_name(OsStr::new("/")), "fleet");
    }
}
