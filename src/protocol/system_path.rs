//! Store paths of systems: the only thing that a request may say about a system that was built elsewhere.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::text::checked_text;

/// The Nix store. A hash covers the folder too, so another store has no path in common with this one.
const STORE: &str = "/nix/store/";

/// The length of the hash in a store path.
const HASH_DIGITS: usize = 32;

/// The digits of Nix's base 32: all but the letters `eotu`.
const DIGITS: &str = "0123456789abcdfghijklmnpqrsvwxyz";

/// The longest name in a store path, in bytes.
const MAX_NAME_BYTES: usize = 211;

/// The store path of a system, such as `/nix/store/<hash>-nixos-system-ns1-26.05`: the path itself and nothing below
/// it. A derivation is refused, since it would be an order to build.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemPath(Arc<str>);

/// The reason why a text is not the store path of a system.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not the store path of a system: {1}")]
pub struct SystemPathError(String, &'static str);

impl SystemPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SystemPath {
    type Err = SystemPathError;

    fn from_str(text: &str) -> Result<Self, SystemPathError> {
        match fault(text) {
            None => Ok(Self(text.into())),
            Some(fault) => Err(SystemPathError(text.chars().take(STORE.len() + HASH_DIGITS + 64).collect(), fault)),
        }
    }
}

/// Returns what is wrong with a text as the store path of a system.
fn fault(text: &str) -> Option<&'static str> {
    let Some(base) = text.strip_prefix(STORE) else {
        return Some("it does not begin with /nix/store/");
    };
    let Some((hash, name)) = base.split_once('-').filter(|(hash, _)| hash.len() == HASH_DIGITS) else {
        return Some("32 characters of a hash and a hyphen come behind /nix/store/");
    };
    if !hash.chars().all(|c| DIGITS.contains(c)) {
        return Some("its hash has a character that Nix does not use");
    }
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Some("its name has 1 to 211 characters");
    }
    if name.starts_with('.') || !name.chars().all(|c| c.is_ascii_alphanumeric() || "+-._?=".contains(c)) {
        return Some("its name has letters, digits and + - . _ ? = only, and does not begin with a dot");
    }
    let is_derivation = name.strip_suffix(".drv").is_some();
    is_derivation.then_some("it is a derivation, which is yet to be built")
}

checked_text!(SystemPath);

impl fmt::Debug for SystemPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "0c1yv9bqqmbw3c3n5g7lq6b4rd5hfk2z";

    fn refusal(base: &str) -> String {
        format!("/nix/store/{base}").parse::<SystemPath>().unwrap_err().to_string()
    }

    #[test]
    fn a_refused_path_says_why() {
        let named = |name: &str| refusal(&format!("{HASH}-{name}"));
        insta::assert_snapshot!("/run/current-system".parse::<SystemPath>().unwrap_err(), @r#""/run/current-system" is not the store path of a system: it does not begin with /nix/store/"#);
        insta::assert_snapshot!(refusal("abc-nixos"), @r#""/nix/store/abc-nixos" is not the store path of a system: 32 characters of a hash and a hyphen come behind /nix/store/"#);
        insta::assert_snapshot!(refusal(&format!("{}-x", "e".repeat(32))), @r#""/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-x" is not the store path of a system: its hash has a character that Nix does not use"#);
        insta::assert_snapshot!(named(""), @r#""/nix/store/0c1yv9bqqmbw3c3n5g7lq6b4rd5hfk2z-" is not the store path of a system: its name has 1 to 211 characters"#);
        insta::assert_snapshot!(named("nixos/bin/sh"), @r#""/nix/store/0c1yv9bqqmbw3c3n5g7lq6b4rd5hfk2z-nixos/bin/sh" is not the store path of a system: its name has letters, digits and + - . _ ? = only, and does not begin with a dot"#);
        insta::assert_snapshot!(named("nixos.drv"), @r#""/nix/store/0c1yv9bqqmbw3c3n5g7lq6b4rd5hfk2z-nixos.drv" is not the store path of a system: it is a derivation, which is yet to be built"#);
        for name in [".", "..", ".hidden", "a b", "a\n", "a^out", "a!out", "ö", &"x".repeat(212)] {
            assert!(format!("/nix/store/{HASH}-{name}").parse::<SystemPath>().is_err(), "{name}");
        }
        assert!(named(&"ö".repeat(100_000)).len() < 1_000, "an error is short, whatever it repeats");
    }

    #[test]
    fn the_path_of_a_system_is_taken_as_it_is() {
        for name in ["nixos-system-ns1-26.05.20261123.8c1f0e2", "x", "a+b-c._d?e=f", &"x".repeat(211)] {
            let text = format!("/nix/store/{HASH}-{name}");
            let path = text.parse::<SystemPath>().unwrap();
            assert_eq!(serde_json::to_string(&path).unwrap(), format!("{text:?}"));
            assert_eq!(serde_json::from_str::<SystemPath>(&format!("{text:?}")).unwrap(), path);
        }
    }

    proptest! {
        #[test]
        fn an_accepted_path_is_one_place_in_the_store(rest in "[0-9a-z]{31,33}-[-a-z0-9./^! ~$'\"*\\n]{0,12}|\\PC{0,20}") {
            if let Ok(path) = format!("/nix/store/{rest}").parse::<SystemPath>() {
                let base = path.as_str().strip_prefix("/nix/store/").unwrap();
                prop_assert_eq!(base, &rest);
                prop_assert!(!base.contains(|c: char| !c.is_ascii_graphic() || "/^!~$'\"*".contains(c)));
            }
        }
    }
}
