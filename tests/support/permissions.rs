//! The server's permissions for each key.

use homelab_deploy::nats_config::{Principal, Strictness, User, authorization};
use homelab_deploy::protocol::Tier;

/// The permissions that a server grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permissions {
    /// As printed by `nats-config`.
    Strict,
    /// As printed by `nats-config --compatible`.
    Compatible,
    /// The example in the predecessor's documentation, which is in use.
    Predecessor,
}

impl Default for Permissions {
    /// The permissions of most tests.
    fn default() -> Self {
        Self::Strict
    }
}

impl Permissions {
    /// Returns the server's `authorization` block.
    pub fn authorization(self, users: &[User]) -> String {
        match self {
            Self::Strict => authorization(users, Strictness::Strict),
            Self::Compatible => authorization(users, Strictness::Compatible),
            Self::Predecessor => predecessor(users),
        }
    }
}

/// Formats the predecessor's example for these users.
fn predecessor(users: &[User]) -> String {
    let users = users.iter().map(|User { holder, key }| {
        let (publish, subscribe) = match holder {
            Principal::Listener(name) => {
                let own = format!("deploy.{0}.{1} deploy.{0}.all deploy.discover", name.tier, name.hostname);
                // The example is more generous to hosts of the test tier.
                let role = match (&name.role, name.tier) {
                    (_, Tier::Test) => " deploy.test.role.>".to_owned(),
                    (Some(role), Tier::Prod) => format!(" deploy.prod.role.{role}"),
                    (None, Tier::Prod) => String::new(),
                };
                ("deploy.responses.> deploy.discover", own + &role)
            }
            Principal::TestDeployer => {
                ("deploy.test.> deploy.discover", "deploy.responses.> deploy.discover".to_owned())
            }
            Principal::Admin => ("deploy.>", "deploy.>".to_owned()),
        };
        let list = |subjects: &str| format!("{:?}", subjects.split(' ').collect::<Vec<_>>());
        let (publish, subscribe) = (list(publish), list(&subscribe));
        format!("{{ nkey: \"{key}\", permissions: {{ publish: {publish}, subscribe: {subscribe} }} }}\n")
    });
    format!("authorization {{ users = [\n{}] }}\n", users.collect::<String>())
}
