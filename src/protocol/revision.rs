//! What a host can be asked to run: a git revision, or the store path of a system that was built elsewhere.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::text::{checked_text, text_type};
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

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RevisionError {
    #[error("a revision is empty")]
    Empty,
    #[error("the revision is longer than {MAX_REVISION_BYTES} bytes")]
    TooLong,
    /// It does not begin with a letter or digit: a command would take `-…` for an option.
    #[error("the revision {0:?} does not begin with a letter or digit")]
    Start(String),
    /// The character has a meaning in a flake URL, or git does not allow it.
    #[error("the revision {0:?} contains {1:?}: only letters, digits and . _ / + - are allowed")]
    Character(String, char),
    /// git's rules for ref names forbid the sequence.
    #[error("the revision {0:?} breaks git's rules for ref names: {1}")]
    RefRule(String, &'static str),
    #[error("{0:?} is not a full commit id: 40 hexadecimal digits")]
    Commit(String),
}

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
    type Err = RevisionError;

    fn from_str(text: &str) -> Result<Self, RevisionError> {
        let Some(first) = text.chars().next() else { return Err(RevisionError::Empty) };
        if text.len() > MAX_REVISION_BYTES {
            return Err(RevisionError::TooLong);
        }
        if !first.is_ascii_alphanumeric() {
            return Err(RevisionError::Start(text.to_owned()));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '+' | '-');
        if let Some(other) = text.chars().find(|&c| !allowed(c)) {
            return Err(RevisionError::Character(text.to_owned(), other));
        }
        match broken_ref_rule(text) {
            Some(rule) => Err(RevisionError::RefRule(text.to_owned(), rule)),
            None => Ok(Self(text.into())),
        }
    }
}

/// Checks the rules of `git check-ref-format` that the allowed characters can still break.
/// Source: <https://git-scm.com/docs/git-check-ref-format>.
fn broken_ref_rule(text: &str) -> Option<&'static str> {
    if text.contains("..") {
        return Some("it contains '..'");
    }
    if text.ends_with('.') {
        return Some("it ends with '.'");
    }
    text.split('/').find_map(|component| {
        if component.is_empty() {
            Some("it contains an empty path component")
        } else if component.starts_with('.') {
            Some("a path component begins with '.'")
        } else if component.strip_suffix(".lock").is_some() {
            Some("a path component ends with '.lock'")
        } else {
            None
        }
    })
}

impl FromStr for Commit {
    type Err = RevisionError;

    fn from_str(text: &str) -> Result<Self, RevisionError> {
        match <[u8; COMMIT_DIGITS]>::try_from(text.as_bytes()) {
            Ok(mut digits) if all_bytes(text, |digit| digit.is_ascii_hexdigit()) => {
                digits.make_ascii_lowercase();
                Ok(Self(digits))
            }
            _ => Err(RevisionError::Commit(text.to_owned())),
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

/// The reason why a text is not the store path of a system.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not the store path of a system: {1}")]
pub struct SystemPathError(String, &'static str);

impl FromStr for SystemPath {
    type Err = SystemPathError;

    fn from_str(text: &str) -> Result<Self, SystemPathError> {
        match fault(text) {
            None => Ok(Self(text.into())),
            Some(fault) => Err(SystemPathError(text.chars().take(STORE.len() + HASH_DIGITS + 64).collect(), fault)),
        }
    }
}

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
    if name.is_empty() || name.len() > MAX_STORE_NAME_BYTES {
        return Some("its name has 1 to 211 characters");
    }
    if name.starts_with('.') || !name.chars().all(|c| c.is_ascii_alphanumeric() || "+-._?=".contains(c)) {
        return Some("its name has letters, digits and + - . _ ? = only, and does not begin with a dot");
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
        insta::assert_snapshot!(refusal(""), @"a revision is empty");
        insta::assert_snapshot!(refusal("--upload-pack=x"), @r#"the revision "--upload-pack=x" does not begin with a letter or digit"#);
        insta::assert_snapshot!(refusal("main&dir=sub"), @r#"the revision "main&dir=sub" contains '&': only letters, digits and . _ / + - are allowed"#);
        insta::assert_snapshot!(refusal("main#web"), @r##"the revision "main#web" contains '#': only letters, digits and . _ / + - are allowed"##);
        insta::assert_snapshot!(refusal("a..b"), @r#"the revision "a..b" breaks git's rules for ref names: it contains '..'"#);
        insta::assert_snapshot!(refusal("a//b"), @r#"the revision "a//b" breaks git's rules for ref names: it contains an empty path component"#);
        insta::assert_snapshot!(refusal("a/"), @r#"the revision "a/" breaks git's rules for ref names: it contains an empty path component"#);
        insta::assert_snapshot!(refusal("a."), @r#"the revision "a." breaks git's rules for ref names: it ends with '.'"#);
        insta::assert_snapshot!(refusal("a/.b"), @r#"the revision "a/.b" breaks git's rules for ref names: a path component begins with '.'"#);
        insta::assert_snapshot!(refusal("a.lock/b"), @r#"the revision "a.lock/b" breaks git's rules for ref names: a path component ends with '.lock'"#);
        insta::assert_snapshot!(refusal("a@{1}"), @r#"the revision "a@{1}" contains '@': only letters, digits and . _ / + - are allowed"#);
        assert_eq!(refusal(&"a".repeat(256)), "the revision is longer than 255 bytes");
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
        insta::assert_snapshot!("/run/current-system".parse::<SystemPath>().unwrap_err(), @r#""/run/current-system" is not the store path of a system: it does not begin with /nix/store/"#);
        insta::assert_snapshot!(path_refusal("abc-nixos"), @r#""/nix/store/abc-nixos" is not the store path of a system: 32 characters of a hash and a hyphen come behind /nix/store/"#);
        insta::assert_snapshot!(path_refusal(&format!("{}-x", "e".repeat(32))), @r#""/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-x" is not the store path of a system: its hash has a character that Nix does not use"#);
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
