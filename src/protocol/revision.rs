//! Git revisions that a request may carry.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::text::checked_text;
use crate::text::all_bytes;

/// The longest revision, in bytes.
pub const MAX_REVISION_BYTES: usize = 255;

const COMMIT_DIGITS: usize = 40;

/// A branch, tag or full commit id that is safe in a flake URL and on a command line.
///
/// git itself allows far more in a ref name, such as `& # = % ; ' " $ ( ) |`: `main&dir=sub` would deploy another
/// flake, and git would take a leading `-` for an option. A revision accepted here can do neither.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    text: Arc<str>,
    is_commit: bool,
}

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
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub const fn is_commit(&self) -> bool {
        self.is_commit
    }

    /// Returns the commit if the revision is a full commit id.
    pub fn commit(&self) -> Option<Commit> {
        self.is_commit.then(|| self.text.parse().ok()).flatten()
    }

    /// Whether this looks like the beginning of a commit id, which neither git servers nor Nix can look up.
    pub fn looks_like_short_commit(&self) -> bool {
        (7..40).contains(&self.text.len()) && self.text.bytes().all(|b| b.is_ascii_hexdigit())
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
            None => Ok(Self { text: text.into(), is_commit: text.parse::<Commit>().is_ok() }),
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
        Self { text: commit.as_str().into(), is_commit: true }
    }
}

checked_text!(Revision, Commit);

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
    }
}
