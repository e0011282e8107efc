//! Names that become part of a subject. Each is checked once, where it enters the program.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::text::{ParseError, text_type};
use crate::text::{is_invisible, words};

/// The longest host or role name, in bytes. DNS allows 253; every subject stays well under the server's limit.
pub const MAX_NAME_BYTES: usize = 253;

/// Words that have a meaning in subjects, so no host or role may have these names.
pub const RESERVED: [&str; 5] = ["all", "role", "responses", "discover", "operators"];

fn check_name(wanted: &'static str, text: &str) -> Result<Arc<str>, ParseError> {
    let refused = |why: Cow<'static, str>| Err(ParseError::new(text, wanted, why));
    if text.is_empty() {
        return refused("it is empty".into());
    }
    if text.len() > MAX_NAME_BYTES {
        return refused(format!("it is longer than {MAX_NAME_BYTES} bytes").into());
    }
    // Such a character would end the NATS token, or match other subjects.
    if let Some(character) = text.chars().find(|&c| !is_token_character(c)) {
        return refused(format!("it contains {character:?}").into());
    }
    if RESERVED.contains(&text) {
        return refused("it is a reserved word of the subjects".into());
    }
    Ok(text.into())
}

/// Whether a character may be part of a subject token. An invisible one would make two names look the same.
pub(super) fn is_token_character(c: char) -> bool {
    match c {
        '.' | '*' | '>' => false,
        _ if c.is_ascii() => c.is_ascii_graphic(),
        _ => !c.is_whitespace() && !c.is_control() && !is_invisible(c),
    }
}

/// The name of a host: one token of a NATS subject, and by default its name in `nixosConfigurations`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

/// The role of a host, such as `dns`: one token of a NATS subject.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Role(Arc<str>);

/// The importance of a host: `test` hosts are there to fail, `prod` hosts are relied upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    Test,
    Prod,
}

impl Tier {
    /// All tiers, in the order in which a careful rollout visits them.
    pub const ALL: [Self; 2] = [Self::Test, Self::Prod];
}

/// What a host does with the requested system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Activate it now and make it the default for the next boot.
    #[default]
    Switch,
    /// Make it the default for the next boot only.
    Boot,
    /// Activate it now; the next boot starts the old one.
    Test,
    /// Report what an activation would do.
    DryActivate,
    /// Fetch a system that was built elsewhere into the store, and change nothing. A deployer requests it before
    /// another action; people cannot ask for it.
    Fetch,
}

impl Action {
    /// All actions that a person may ask for.
    pub const ALL: [Self; 4] = [Self::Switch, Self::Boot, Self::Test, Self::DryActivate];

    /// Whether the system runs from then on.
    pub const fn activates(self) -> bool {
        matches!(self, Self::Switch | Self::Test)
    }

    /// Whether the system is the one that boots next.
    pub const fn sets_next_boot(self) -> bool {
        matches!(self, Self::Switch | Self::Boot)
    }
}

impl FromStr for HostName {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        check_name("a host name", text).map(Self)
    }
}

impl FromStr for Role {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        check_name("a role name", text).map(Self)
    }
}

text_type!(HostName, Role);

impl FromStr for Tier {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let tier = Self::ALL.into_iter().find(|tier| tier.as_str() == text);
        tier.ok_or_else(|| ParseError::new(text, "a tier", "the tiers are test and prod"))
    }
}

impl FromStr for Action {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let action = Self::ALL.into_iter().find(|action| action.as_str() == text);
        action.ok_or_else(|| ParseError::new(text, "an action", "the actions are switch, boot, test and dry-activate"))
    }
}

words!(Tier: Test = "test", Prod = "prod");
words!(Action: Switch = "switch", Boot = "boot", Test = "test", DryActivate = "dry-activate", Fetch = "fetch");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(text: &str) -> String {
        text.parse::<HostName>().unwrap_err().to_string()
    }

    #[test]
    fn a_refused_name_says_why() {
        insta::assert_snapshot!(refusal(""), @r#""" is not a host name: it is empty"#);
        insta::assert_snapshot!(refusal("ns1.lan"), @r#""ns1.lan" is not a host name: it contains '.'"#);
        insta::assert_snapshot!(refusal("ns*"), @r#""ns*" is not a host name: it contains '*'"#);
        insta::assert_snapshot!(refusal("a b"), @r#""a b" is not a host name: it contains ' '"#);
        insta::assert_snapshot!(refusal("ns\u{200b}1"), @r#""ns\u{200b}1" is not a host name: it contains '\u{200b}'"#);
        for blank in ['\u{3164}', '\u{ffa0}', '\u{115f}', '\u{2800}', '\u{fe0f}', '\u{e0101}'] {
            assert!(format!("ns1{blank}").parse::<HostName>().is_err(), "{blank:?} would make two names look the same");
        }
        insta::assert_snapshot!(refusal("all"), @r#""all" is not a host name: it is a reserved word of the subjects"#);
        insta::assert_snapshot!("staging".parse::<Tier>().unwrap_err(), @r#""staging" is not a tier: the tiers are test and prod"#);
        insta::assert_snapshot!("reboot".parse::<Action>().unwrap_err(), @r#""reboot" is not an action: the actions are switch, boot, test and dry-activate"#);
    }

    proptest! {
        #[test]
        fn a_name_is_one_token_or_refused(text in "\\PC{0,12}|[a-z.*> \\t\\n]{0,6}") {
            if let Ok(name) = text.parse::<HostName>() {
                prop_assert_eq!(name.as_str(), &text);
                prop_assert!(!text.is_empty() && text.split(['.', '*', '>', ' ', '\t', '\n']).count() == 1);
                prop_assert!(!RESERVED.contains(&text.as_str()));
            }
        }

        #[test]
        fn an_ordinary_name_is_accepted(text in "[a-z][a-z0-9-]{0,30}") {
            prop_assume!(!RESERVED.contains(&text.as_str()));
            prop_assert!(text.parse::<HostName>().is_ok() && text.parse::<Role>().is_ok());
        }
    }
}
