//! What a host can be asked to run: a git revision, or the store path of a system that was built elsewhere.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::text::{ParseError, checked_text, text_type};
use crate::text::all_bytes;

/// The longest revision, in bytes.
pub const MAX_REVISION_BYTES: usize = 255;

const COMMIT_DIGITS: usize = 40;

/// A branch, tag or full commit id that is safe in a flake URL and on a command line.
///
/// git itself allows far more in a ref name, such as `& # = % ; ' " $ ( ) |`: `main&dir=sub` would deploy another
/// flake, and git would take a leading `-` for an option. A revision accepted here can do neither.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(Arc<str>);

/// A full commit id: forty lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Commit([u8; COMMIT_DIGITS]);

impl Revision {
    pub fn is_commit(&self) -> bool {
        self.commit().is_some()
    }

    pub fn commit(&self) -> Option<Commit> {
        self.0.parse().ok()
    }

    /// Whether this looks like the beginning of a commit id, which neither git servers nor Nix can look up.
    pub fn looks_like_short_commit(&self) -> bool {
        (7..40).contains(&self.0.len()) && self.0.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

impl Commit {
    #[expect(clippy::missing_panics_doc, reason = "only ASCII digits were taken, so it cannot")]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("these are ASCII digits")
    }

    /// Returns the first seven digits, for people.
    pub fn short(&self) -> &str {
        self.as_str().get(..7).unwrap_or_default()
    }
}

impl FromStr for Revision {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match fault_of_revision(text) {
            Some(fault) => Err(ParseError::new(text, "a revision", fault)),
            None => Ok(Self(text.into())),
        }
    }
}

fn fault_of_revision(text: &str) -> Option<Cow<'static, str>> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '+' | '-');
    // Rules of `git check-ref-format` that the allowed characters can still break:
    // <https://git-scm.com/docs/git-check-ref-format>.
    let is_broken = |part: &str| part.is_empty() || part.starts_with('.') || part.strip_suffix(".lock").is_some();
    let fault = if text.len() > MAX_REVISION_BYTES {
        "it is longer than 255 bytes"
    } else if !text.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        "it does not begin with a letter or digit"
    } else if let Some(other) = text.chars().find(|&c| !is_allowed(c)) {
        return Some(format!("it contains {other:?}: only letters, digits and . _ / + - are allowed").into());
    } else if text.contains("..") || text.ends_with('.') || text.split('/').any(is_broken) {
        "git allows no '..', no '.' at the end, and no part that is empty, begins with '.' or ends with '.lock'"
    } else {
        return None;
    };
    Some(fault.into())
}

impl FromStr for Commit {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match <[u8; COMMIT_DIGITS]>::try_from(text.as_bytes()) {
            Ok(mut digits) if all_bytes(text, |digit| digit.is_ascii_hexdigit()) => {
                digits.make_ascii_lowercase();
                Ok(Self(digits))
            }
            _ => Err(ParseError::new(text, "a full commit id", "that has 40 hexadecimal digits")),
        }
    }
}

impl From<Commit> for Revision {
    fn from(commit: Commit) -> Self {
        Self(commit.as_str().into())
    }
}

/// The Nix store. A hash covers the folder too, so another store has no path in common with this one.
const STORE: &str = "/nix/store/";

/// The length of the hash in a store path.
const HASH_DIGITS: usize = 32;

/// The digits of Nix's base 32: all but the letters `eotu`.
const DIGITS: &str = "0123456789abcdfghijklmnpqrsvwxyz";

/// The longest name in a store path, in bytes.
const MAX_STORE_NAME_BYTES: usize = 211;

/// The store path of a system, such as `/nix/store/<hash>-nixos-system-ns1-26.05`: the path itself and nothing below
/// it. A derivation is refused, since it would be an order to build.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemPath(Arc<str>);

impl FromStr for SystemPath {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match fault_of_system(text) {
            Some(fault) => Err(ParseError::new(text, "the store path of a system", fault)),
            None => Ok(Self(text.into())),
        }
    }
}

fn fault_of_system(text: &str) -> Option<&'static str> {
    let base = text.strip_prefix(STORE).and_then(|base| base.split_once('-'));
    let Some((_, name)) =
        base.filter(|(hash, _)| hash.len() == HASH_DIGITS && hash.chars().all(|c| DIGITS.contains(c)))
    else {
        return Some("one begins with /nix/store/, 32 characters of a hash and a hyphen");
    };
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "+-._?=".contains(c);
    if !(1..=MAX_STORE_NAME_BYTES).contains(&name.len()) || name.starts_with('.') || !name.chars().all(is_allowed) {
        return Some("its name has 1 to 211 letters, digits and + - . _ ? =, and does not begin with a dot");
    }
    let is_derivation = name.strip_suffix(".drv").is_some();
    is_derivation.then_some("it is a derivation, which is yet to be built")
}

text_type!(Revision, SystemPath);
checked_text!(Commit);

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "0c1yv9bqqmbw3c3n5g7lq6b4rd5hfk2z";

    fn refusal(text: &str) -> String {
        text.parse::<Revision>().unwrap_err().to_string()
    }

    #[test]
    fn a_refused_revision_says_why() {
        insta::assert_snapshot!(refusal(""), @r#""" is not a revision: it does not begin with a letter or digit"#);
        insta::assert_snapshot!(refusal("--upload-pack=x"), @r#""--upload-pack=x" is not a revision: it does not begin with a letter or digit"#);
        insta::assert_snapshot!(refusal("main&dir=sub"), @r#""main&dir=sub" is not a revision: it contains '&': only letters, digits and . _ / + - are allowed"#);
        insta::assert_snapshot!(refusal("main#web"), @r#""main#web" is not a revision: it contains '#': only letters, digits and . _ / + - are allowed"#);
        insta::assert_snapshot!(refusal("a..b"), @r#""a..b" is not a revision: git allows no '..', no '.' at the end, and no part that is empty, begins with '.' or ends with '.lock'"#);
        insta::assert_snapshot!(refusal("a//b"), @r#""a//b" is not a revision: git allows no '..', no '.' at the end, and no part that is empty, begins with '.' or ends with '.lock'"#);
        insta::assert_snapshot!(refusal("a/"), @r#""a/" is not a revision: git allows no '..', no '.' at the end, and no part that is empty, begins with '.' or ends with '.lock'"#);
        insta::assert_snapshot!(refusal("a."), @r#""a." is not a revision: git allows no '..', no '.' at the end, and no part that is empty, begins with '.' or ends with '.lock'"#);
        insta::assert_snapshot!(refusal("a/.b"), @r#""a/.b" is not a revision: git allows no '..', no '.' at the end, and no part that is empty, begins with '.' or ends with '.lock'"#);
        insta::assert_snapshot!(refusal("a.lock/b"), @r#""a.lock/b" is not a revision: git allows no '..', no '.' at the end, and no part that is empty, begins with '.' or ends with '.lock'"#);
        insta::assert_snapshot!(refusal("a@{1}"), @r#""a@{1}" is not a revision: it contains '@': only letters, digits and . _ / + - are allowed"#);
        let long = refusal(&"a".repeat(256));
        assert!(long.ends_with("aaa…\" is not a revision: it is longer than 255 bytes") && long.len() < 200, "{long}");
    }

    #[test]
    fn only_forty_hexadecimal_digits_are_a_commit() {
        let commit = "8C1F0E2B8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b".parse::<Revision>().unwrap().commit().unwrap();
        assert_eq!(commit.as_str(), "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b");
        assert_eq!(commit.short(), "8c1f0e2");
        let short = "8c1f0e2b".parse::<Revision>().unwrap();
        assert!(short.commit().is_none() && short.looks_like_short_commit());
        assert!(!"main".parse::<Revision>().unwrap().looks_like_short_commit());
    }

    fn path_refusal(base: &str) -> String {
        format!("/nix/store/{base}").parse::<SystemPath>().unwrap_err().to_string()
    }

    #[test]
    fn a_refused_path_says_why() {
        let named = |name: &str| path_refusal(&format!("{HASH}-{name}"));
        insta::assert_snapshot!("/run/current-system".parse::<SystemPath>().unwrap_err(), @r#""/run/current-system" is not the store path of a system: one begins with /nix/store/, 32 characters of a hash and a hyphen"#);
        insta::assert_snapshot!(path_refusal("abc-nixos"), @r#""/nix/store/abc-nixos" is not the store path of a system: one begins with /nix/store/, 32 characters of a hash and a hyphen"#);
        insta::assert_snapshot!(path_refusal(&format!("{}-x", "e".repeat(32))), @r#""/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-x" is not the store path of a system: one begins with /nix/store/, 32 characters of a hash and a hyphen"#);
        insta::assert_snapshot!(named(""), @r#""/nix/store/0c1yv9bqqmbw3c3n5g7lq6b4rd5hfk2z-" is not the store path of a system: its name has 1 to 211 letters, digits and + - . _ ? =, and does not begin with a dot"#);
        insta::assert_snapshot!(named("nixos/bin/sh"), @r#""/nix/store/0c1yv9bqqmbw3c3n5g7lq6b4rd5hfk2z-nixos/bin/sh" is not the store path of a system: its name has 1 to 211 letters, digits and + - . _ ? =, and does not begin with a dot"#);
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
        fn an_accepted_revision_is_inert(text in "\\PC{0,20}|[-a-z0-9./_+&#=%;'\"$()| @{}\\\\]{0,12}") {
            if let Ok(revision) = text.parse::<Revision>() {
                prop_assert_eq!(revision.as_str(), &text);
                prop_assert!(text.starts_with(|c: char| c.is_ascii_alphanumeric()));
                let dangerous = text.contains(|c: char| "&#=%;'\"$()|?@{}~^:\\ *[".contains(c) || c.is_control());
                prop_assert!(!dangerous);
                prop_assert!(!text.contains("..") && !text.contains("//") && !text.ends_with(['/', '.']));
            }
        }

        #[test]
        fn an_ordinary_revision_is_accepted(text in "[a-z0-9][a-z0-9_-]{0,10}(/[a-z0-9][a-z0-9_+-]{0,10}){0,3}(\\.[0-9]{1,3})?") {
            prop_assert!(text.parse::<Revision>().is_ok());
        }

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
