//! Parses and writes `fleet.toml`: the list of hosts and operators from which the server's permissions are generated.

use std::fmt::Write;

use serde::Deserialize;

use super::{FileError, ListenerName, Principal, PublicKey, User, quoted};
use crate::protocol::{HostName, Role, Tier};

const TITLE: &str = "\
# The hosts and operators of this fleet, with their public keys. `homelab-deploy nats-config` prints the permissions of
# nats-server from this file, and `homelab-deploy doctor` compares the fleet with it.
";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetList {
    /// In the order of the file.
    pub hosts: Vec<(ListenerName, PublicKey)>,
    /// The name, kind and key of each operator.
    pub operators: Vec<(String, Principal, PublicKey)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entries {
    #[serde(default)]
    host: Vec<HostEntry>,
    #[serde(default)]
    operator: Vec<OperatorEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostEntry {
    name: HostName,
    tier: Tier,
    role: Option<Role>,
    key: PublicKey,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorEntry {
    name: String,
    deploys_to: Principal,
    key: PublicKey,
}

impl FleetList {
    /// Parses the file. No error repeats a key, which may be a seed.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let entries: Entries = toml::from_str(text).map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            FileError { line: before.matches('\n').count() + 1, why: error.message().to_owned() }
        })?;
        let host = |HostEntry { name: hostname, tier, role, key }| (ListenerName { tier, hostname, role }, key);
        let operator = |OperatorEntry { name, deploys_to, key }| (name, deploys_to, key);
        Ok(Self {
            hosts: entries.host.into_iter().map(host).collect(),
            operators: entries.operator.into_iter().map(operator).collect(),
        })
    }

    pub fn users(&self) -> Vec<User> {
        let hosts = self.hosts.iter().map(|(name, key)| (Principal::Listener(name.clone()), key));
        let operators = self.operators.iter().map(|(_, holder, key)| (holder.clone(), key));
        hosts.chain(operators).map(|(holder, key)| User { holder, key: key.clone() }).collect()
    }

    pub fn holder(&self, key: &str) -> Option<Principal> {
        self.users().into_iter().find(|user| user.key.as_str() == key).map(|user| user.holder)
    }

    pub fn text(&self) -> String {
        format!("{TITLE}{}", self.entries())
    }

    /// Formats the entries without the title, to be appended to a file.
    pub fn entries(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        for (ListenerName { tier, hostname, role }, key) in &self.hosts {
            let role = role.as_ref().map(|role| format!("role = {}\n", quoted(role.as_str()))).unwrap_or_default();
            let name = quoted(hostname.as_str());
            let _ = write!(text, "\n[[host]]\nname = {name}\ntier = \"{tier}\"\n{role}key = \"{key}\"\n");
        }
        for (name, holder, key) in &self.operators {
            let reach = if *holder == Principal::Admin { "all" } else { "test" };
            let name = quoted(name);
            let _ = write!(text, "\n[[operator]]\nname = {name}\ndeploys_to = \"{reach}\"\nkey = \"{key}\"\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use nkeys::{KeyPair, KeyPairType};

    use super::*;

    fn pair(number: u8) -> KeyPair {
        KeyPair::new_from_raw(KeyPairType::User, [number; 32]).unwrap()
    }

    fn fleet() -> FleetList {
        let key = |number| pair(number).public_key().parse().unwrap();
        FleetList {
            hosts: vec![("test.test1".parse().unwrap(), key(1)), ("prod.ns1.dns".parse().unwrap(), key(2))],
            operators: vec![
                ("operator".to_owned(), Principal::Admin, key(3)),
                ("assistant".to_owned(), Principal::TestDeployer, key(4)),
            ],
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        insta::assert_snapshot!(fleet().text(), @r#"
        # The hosts and operators of this fleet, with their public keys. `homelab-deploy nats-config` prints the permissions of
        # nats-server from this file, and `homelab-deploy doctor` compares the fleet with it.

        [[host]]
        name = "test1"
        tier = "test"
        key = "UCFIRY65OQE7DFP5KLNS2PF2LVZMUZYJX4OZIEQ36N2IQANUB5XVZ45L"

        [[host]]
        name = "ns1"
        tier = "prod"
        role = "dns"
        key = "UCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJPJO"

        [[operator]]
        name = "operator"
        deploys_to = "all"
        key = "UDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2U4"

        [[operator]]
        name = "assistant"
        deploys_to = "test"
        key = "UDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYREV"
        "#);
        assert_eq!(FleetList::parse(&fleet().text()), Ok(fleet()));
        let mut odd = fleet();
        odd.hosts[0].0.hostname = "\u{301}a\"b\\c".parse().unwrap();
        assert_eq!(FleetList::parse(&odd.text()), Ok(odd));
        let holder = fleet().holder(&pair(2).public_key());
        assert_eq!(holder, Some(Principal::Listener("prod.ns1.dns".parse().unwrap())));
    }

    #[test]
    fn mistakes_are_told_by_their_line_and_no_seed_is_repeated() {
        let seed = pair(1).seed().unwrap();
        let told = |text: &str| {
            let told = FleetList::parse(text).unwrap_err().to_string();
            assert!(!told.contains(&seed), "{told}");
            told
        };
        let host = "[[host]]\nname = 'ns1'\ntier = 'prod'\n";
        insta::assert_snapshot!(told(&format!("{host}key = '{seed}'")), @"line 4: this is a seed, which is secret: give the public key that goes with it, which starts with U");
        insta::assert_snapshot!(told(&format!("{host}key = {seed}")), @"line 4: string values must be quoted, expected literal string");
        let key = pair(1).public_key();
        insta::assert_snapshot!(told(&format!("{host}roles = ['dns']\nkey = '{key}'")), @"line 4: unknown field `roles`, expected one of `name`, `tier`, `role`, `key`");
        insta::assert_snapshot!(told(&format!("[[host]]\nname = 'a.b'\ntier = 'prod'\nkey = '{key}'")), @r#"line 2: "a.b" is not a host name: it contains '.'"#);
    }
}
