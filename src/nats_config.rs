//! Generates the NATS server's `authorization` block: the permissions of each key.
//!
//! The server proves who answers: each host may publish below its own prefix only. A pattern for subscriptions has no
//! wildcard except a final `>`: with `*`, nats-server also allows a subscription to `>`. Pure: public keys go in, text
//! comes out. This module never sees seeds.

mod audit;
mod fleet;
mod server;

use std::fmt::{self, Write};
use std::str::FromStr;

use nkeys::{KeyPair, KeyPairType};
use serde::Deserialize;
use thiserror::Error;

pub use self::audit::{Deviation, sample};
pub use self::fleet::FleetList;
pub use self::server::{ServerUser, server_users};
use crate::protocol::subject::DISCOVER;
use crate::protocol::{HostName, ParseError, Role, Target, Tier, text_type};

const EVERYTHING: &str = "deploy.>";
/// The reply subjects of the predecessor's deployers, which end in a single token that they choose.
const OLD_ANSWERS: &str = "deploy.responses.*";
/// The reply subjects of both forms.
const ALL_ANSWERS: &str = "deploy.responses.>";

const STRICT: &str = "\
# Each host answers below deploy.responses.<tier>.<host> only, so the server proves which key answered. It proves no more:
# a host can lie about itself, and an admin key may publish everything.
";
const COMPATIBLE: &str = "\
# Compatible with the predecessor's deployers, which wait for answers on deploy.responses.<one token>. Every host may
# publish there, so hosts can answer such a deployer, and old-form discovery questions, in the name of another host, and
# test deployers can read those answers. Print this block without --compatible once the predecessor is gone.
";
/// Limits the cost of a message. The longest is a page of a log: 32 KiB, at worst six times that in JSON.
const MAX_PAYLOAD: &str = "\
# The longest message of homelab-deploy has less than 256 KiB. On a server that serves nothing else, set at the top level:
#   max_payload: 262144
";

/// The public half of a user's NKey. It starts with `U` and is no secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey(String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerName {
    pub tier: Tier,
    pub hostname: HostName,
    pub role: Option<Role>,
}

/// The owner of a key, which decides its permissions. Operators are read as the tiers that they deploy to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub enum Principal {
    /// A host, which receives its own requests and responds to them.
    #[serde(skip)]
    Listener(ListenerName),
    #[serde(rename = "test")]
    TestDeployer,
    #[serde(rename = "all")]
    Admin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub holder: Principal,
    pub key: PublicKey,
}

/// The reason why a text is not the public key of a user. It does not repeat the text, which may be a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct PublicKeyError(&'static str);

/// A mistake in a file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {why}")]
pub struct FileError {
    /// Counted from 1.
    pub line: usize,
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    Strict,
    /// Includes the permissions that the predecessor's deployers need.
    Compatible,
}

/// An operation that needs a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Publish,
    Subscribe,
}

/// An operation and the pattern of its subjects.
pub type Permission = (Operation, String);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    pub allowed: Vec<Permission>,
    /// Exceptions from what is allowed.
    pub denied: Vec<Permission>,
}

/// Returns the `authorization` block for the server's configuration, with these users in this order.
pub fn authorization(users: &[User], strictness: Strictness) -> String {
    let proof = match strictness {
        Strictness::Strict => STRICT,
        Strictness::Compatible => COMPATIBLE,
    };
    let mut text = format!("{proof}{MAX_PAYLOAD}authorization {{\n  users = [\n");
    for User { holder, key } in users {
        let Permissions { allowed, denied } = holder.permissions(strictness);
        let publish = quoted_list(&allowed, Operation::Publish);
        let mut subscribe = quoted_list(&allowed, Operation::Subscribe);
        if !denied.is_empty() {
            subscribe = format!("{{ allow: {subscribe}, deny: {} }}", quoted_list(&denied, Operation::Subscribe));
        }
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "    # {holder}\n    {{\n      nkey: \"{key}\"\n      permissions: {{\n        publish: {publish}\n        \
             subscribe: {subscribe}\n      }}\n    }}\n"
        );
    }
    text.push_str("  ]\n}\n");
    text
}

fn subjects(permissions: &[Permission], operation: Operation) -> impl Iterator<Item = &str> {
    permissions.iter().filter(move |(of, _)| *of == operation).map(|(_, subject)| subject.as_str())
}

/// Formats a list in the server's configuration.
fn quoted_list(permissions: &[Permission], operation: Operation) -> String {
    let quoted: Vec<String> = subjects(permissions, operation).map(quoted).collect();
    format!("[{}]", quoted.join(", "))
}

/// Quotes a name or subject, which has no control characters, for the server's configuration and for TOML.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Returns the subject on which deployers call the roll of a tier.
fn discover(tier: Tier) -> String {
    format!("{DISCOVER}.{tier}")
}

fn answers_of(tier: Tier) -> String {
    format!("deploy.responses.{tier}.>")
}

/// Returns the permissions to deploy to the hosts of one tier, which answer on `answers`.
fn deployer(tier: Tier, answers: String) -> Vec<Permission> {
    let questions = [DISCOVER.to_owned(), discover(tier), format!("deploy.operators.{tier}.>")];
    let all = |operation, first| [first].into_iter().chain(questions.clone()).map(move |subject| (operation, subject));
    all(Operation::Publish, format!("deploy.{tier}.>")).chain(all(Operation::Subscribe, answers)).collect()
}

impl Operation {
    /// Returns the verb, as in "may not publish to".
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
    }
}

impl Principal {
    /// Returns exactly the permissions that the program needs.
    pub fn permissions(&self, strictness: Strictness) -> Permissions {
        let mut denied = Vec::new();
        let allowed = match (self, strictness) {
            (Self::Listener(listener), _) => listener.permissions(strictness),
            (Self::TestDeployer, Strictness::Strict) => deployer(Tier::Test, answers_of(Tier::Test)),
            (Self::TestDeployer, Strictness::Compatible) => {
                // `deploy.responses.*` would cover the old form, but would also allow a subscription to all answers.
                denied.push((Operation::Subscribe, answers_of(Tier::Prod)));
                deployer(Tier::Test, ALL_ANSWERS.to_owned())
            }
            (Self::Admin, _) => {
                [Operation::Publish, Operation::Subscribe].map(|operation| (operation, EVERYTHING.to_owned())).into()
            }
        };
        Permissions { allowed, denied }
    }
}

impl ListenerName {
    fn permissions(&self, strictness: Strictness) -> Vec<Permission> {
        let Self { tier, hostname, role } = self;
        let mut publish = vec![format!("deploy.responses.{tier}.{hostname}.>")];
        if strictness == Strictness::Compatible {
            publish.extend([OLD_ANSWERS, DISCOVER].map(str::to_owned));
        }
        let targets = [Target::Host(*tier, hostname.clone()), Target::All(*tier)];
        let of_role = role.clone().map(|role| Target::Role(*tier, role));
        let requests = targets.into_iter().chain(of_role).map(|target| target.subject().to_string());
        let subscribe = requests.chain([DISCOVER.to_owned(), discover(*tier)]);
        let publish = publish.into_iter().map(|subject| (Operation::Publish, subject));
        publish.chain(subscribe.map(|subject| (Operation::Subscribe, subject))).collect()
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener(ListenerName { tier, hostname, role }) => {
                write!(f, "listener {hostname}, tier {tier}")?;
                role.iter().try_for_each(|role| write!(f, ", role {role}"))
            }
            Self::TestDeployer => f.write_str("test deployer"),
            Self::Admin => f.write_str("admin deployer"),
        }
    }
}

impl FromStr for ListenerName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parts: Vec<&str> = text.split('.').collect();
        let (tier, hostname, role) = match parts.as_slice() {
            [tier, hostname] => (tier, hostname, None),
            [tier, hostname, role] => (tier, hostname, Some(role.parse()?)),
            _ => return Err(ParseError::new(text, "a host", "write <tier>.<host> or <tier>.<host>.<role>")),
        };
        Ok(Self { tier: tier.parse()?, hostname: hostname.parse()?, role })
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        if nkeys::decode_seed(text).is_ok() {
            let why = "this is a seed, which is secret: give the public key that goes with it, which starts with U";
            return Err(PublicKeyError(why));
        }
        match KeyPair::from_public_key(text).map(|pair| pair.key_pair_type()) {
            Ok(KeyPairType::User) => Ok(Self(text.to_owned())),
            Ok(_) => Err(PublicKeyError("this is not the key of a user: those start with U")),
            Err(_) => Err(PublicKeyError(
                "this is not a public key: one has 56 characters, starts with U, and its last ones are a checksum",
            )),
        }
    }
}

text_type!(PublicKey);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Creates the same key in every run.
    fn pair(kind: KeyPairType, number: u8) -> KeyPair {
        KeyPair::new_from_raw(kind, [number; 32]).unwrap()
    }

    fn user(number: u8, holder: Principal) -> User {
        let key = pair(KeyPairType::User, number).public_key().parse().unwrap();
        User { holder, key }
    }

    fn listener(text: &str) -> Principal {
        Principal::Listener(text.parse().unwrap())
    }

    /// Returns one user of each kind, and listeners with and without a role.
    fn users() -> [User; 4] {
        [
            user(1, listener("prod.ns1.dns")),
            user(2, listener("test.test1")),
            user(3, Principal::TestDeployer),
            user(4, Principal::Admin),
        ]
    }

    #[test]
    fn each_user_gets_what_its_holder_needs() {
        insta::assert_snapshot!(authorization(&users(), Strictness::Strict), @r#"
        # Each host answers below deploy.responses.<tier>.<host> only, so the server proves which key answered. It proves no more:
        # a host can lie about itself, and an admin key may publish everything.
        # The longest message of homelab-deploy has less than 256 KiB. On a server that serves nothing else, set at the top level:
        #   max_payload: 262144
        authorization {
          users = [
            # listener ns1, tier prod, role dns
            {
              nkey: "UCFIRY65OQE7DFP5KLNS2PF2LVZMUZYJX4OZIEQ36N2IQANUB5XVZ45L"
              permissions: {
                publish: ["deploy.responses.prod.ns1.>"]
                subscribe: ["deploy.prod.ns1", "deploy.prod.all", "deploy.prod.role.dns", "deploy.discover", "deploy.discover.prod"]
              }
            }
            # listener test1, tier test
            {
              nkey: "UCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJPJO"
              permissions: {
                publish: ["deploy.responses.test.test1.>"]
                subscribe: ["deploy.test.test1", "deploy.test.all", "deploy.discover", "deploy.discover.test"]
              }
            }
            # test deployer
            {
              nkey: "UDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2U4"
              permissions: {
                publish: ["deploy.test.>", "deploy.discover", "deploy.discover.test", "deploy.operators.test.>"]
                subscribe: ["deploy.responses.test.>", "deploy.discover", "deploy.discover.test", "deploy.operators.test.>"]
              }
            }
            # admin deployer
            {
              nkey: "UDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYREV"
              permissions: {
                publish: ["deploy.>"]
                subscribe: ["deploy.>"]
              }
            }
          ]
        }
        "#);
    }

    #[test]
    fn compatible_permissions_let_the_predecessors_deployers_work_too() {
        insta::assert_snapshot!(authorization(&users(), Strictness::Compatible), @r#"
        # Compatible with the predecessor's deployers, which wait for answers on deploy.responses.<one token>. Every host may
        # publish there, so hosts can answer such a deployer, and old-form discovery questions, in the name of another host, and
        # test deployers can read those answers. Print this block without --compatible once the predecessor is gone.
        # The longest message of homelab-deploy has less than 256 KiB. On a server that serves nothing else, set at the top level:
        #   max_payload: 262144
        authorization {
          users = [
            # listener ns1, tier prod, role dns
            {
              nkey: "UCFIRY65OQE7DFP5KLNS2PF2LVZMUZYJX4OZIEQ36N2IQANUB5XVZ45L"
              permissions: {
                publish: ["deploy.responses.prod.ns1.>", "deploy.responses.*", "deploy.discover"]
                subscribe: ["deploy.prod.ns1", "deploy.prod.all", "deploy.prod.role.dns", "deploy.discover", "deploy.discover.prod"]
              }
            }
            # listener test1, tier test
            {
              nkey: "UCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJPJO"
              permissions: {
                publish: ["deploy.responses.test.test1.>", "deploy.responses.*", "deploy.discover"]
                subscribe: ["deploy.test.test1", "deploy.test.all", "deploy.discover", "deploy.discover.test"]
              }
            }
            # test deployer
            {
              nkey: "UDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2U4"
              permissions: {
                publish: ["deploy.test.>", "deploy.discover", "deploy.discover.test", "deploy.operators.test.>"]
                subscribe: { allow: ["deploy.responses.>", "deploy.discover", "deploy.discover.test", "deploy.operators.test.>"], deny: ["deploy.responses.prod.>"] }
              }
            }
            # admin deployer
            {
              nkey: "UDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYREV"
              permissions: {
                publish: ["deploy.>"]
                subscribe: ["deploy.>"]
              }
            }
          ]
        }
        "#);
    }

    #[test]
    fn a_listener_is_named_by_tier_host_and_role() {
        let refusal = |text: &str| text.parse::<ListenerName>().unwrap_err().to_string();
        insta::assert_snapshot!(refusal("ns1"), @r#""ns1" is not a host: write <tier>.<host> or <tier>.<host>.<role>"#);
        insta::assert_snapshot!(refusal("prod.ns1.dns.x"), @r#""prod.ns1.dns.x" is not a host: write <tier>.<host> or <tier>.<host>.<role>"#);
        insta::assert_snapshot!(refusal("staging.ns1"), @r#""staging" is not a tier: the tiers are test and prod"#);
        insta::assert_snapshot!(refusal("prod.all"), @r#""all" is not a host name: it is a reserved word of the subjects"#);
        insta::assert_snapshot!(refusal("prod.ns1."), @r#""" is not a role name: it is empty"#);
    }

    #[test]
    fn only_the_public_key_of_a_user_will_do() {
        let user = pair(KeyPairType::User, 1);
        let public = user.public_key();
        assert_eq!(public.parse::<PublicKey>().unwrap().to_string(), public);

        let refusal = |text: &str| text.parse::<PublicKey>().unwrap_err().to_string();
        assert!(refusal(&user.seed().unwrap()).starts_with("this is a seed, which is secret: "));
        assert!(refusal(&pair(KeyPairType::Account, 1).public_key()).starts_with("this is not the key of a user: "));
        let mut mistyped = public.clone();
        mistyped.replace_range(5..6, if mistyped[5..].starts_with('A') { "B" } else { "A" });
        for malformed in [mistyped.as_str(), &public[..50], ""] {
            assert!(refusal(malformed).starts_with("this is not a public key: "), "{malformed}");
        }
    }

    #[test]
    fn a_quote_in_a_name_stays_within_its_string() {
        let subject = |text: &str| quoted_list(&[(Operation::Publish, text.to_owned())], Operation::Publish);
        assert_eq!(subject(r#"deploy.prod.a"b\"#), r#"["deploy.prod.a\"b\\"]"#);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,60}|[SU][A-Z2-7]{50,60}") {
            let _ = text.parse::<PublicKey>();
            let _ = text.parse::<ListenerName>();
        }

        #[test]
        fn no_name_gives_a_user_a_wildcard_of_its_own(name in "\\PC{1,12}|[a-z.*>]{1,9}", role in "[a-z*>.]{1,5}") {
            let Ok(listener) = format!("prod.{name}.{role}").parse::<ListenerName>() else { return Ok(()) };
            let permissions = listener.permissions(Strictness::Strict);
            let (publish, subscribe) = permissions.split_at(1);
            let prefix = format!("deploy.responses.prod.{}.>", listener.hostname);
            prop_assert_eq!(publish, [(Operation::Publish, prefix)]);
            let is_subscribed = |(operation, subject): &Permission| {
                *operation == Operation::Subscribe && subject.parse::<crate::protocol::Subject>().is_ok()
            };
            prop_assert!(subscribe.iter().all(is_subscribed), "{:?}", subscribe);
        }
    }
}
