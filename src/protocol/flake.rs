//! Flake URLs, and how a revision is added to one.

use std::borrow::Cow;
use std::str::FromStr;

use thiserror::Error;

use super::revision::Revision;
use super::text::text_type;

/// The URL of a versioned flake, without a revision: each request brings its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlakeUrl(String);

/// The reason why a text is not a flake URL that a revision can be added to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FlakeUrlError {
    #[error(
        "the flake URL {0:?} is empty or contains characters that no URL has: write them as % and two digits, as in %20"
    )]
    Text(String),
    #[error("the flake URL {0:?} already names an output after '#': leave it off, the host name goes there")]
    Fragment(String),
    #[error("the flake URL {0:?} already has a '{1}': leave it off, every request brings its revision")]
    Pinned(String, String),
    /// The path of a forge URL names a branch, which Nix does not accept beside `ref` or `rev`.
    #[error(
        "the flake URL {0:?} already names a branch after the repository: leave it off, every request brings its own"
    )]
    ForgeBranch(String),
    /// ssh or Mercurial would take the host for an option.
    #[error("the flake URL {0:?} has a host that begins with '-'")]
    Host(String),
    /// A flake of this kind has no revisions, or none that can be asked for.
    #[error(
        "the flake URL {0:?} cannot carry a revision: use git+https://, git+ssh://, git+file:///, github: or gitlab:"
    )]
    Scheme(String),
}

/// The URL schemes whose path is `owner/repository`. An optional branch after it is refused.
const FORGES: [&str; 3] = ["github", "gitlab", "sourcehut"];

/// The URL schemes of repositories: Nix takes `ref` and `rev` for each.
const REPOSITORIES: [&str; 9] =
    ["git", "git+https", "git+http", "git+ssh", "git+file", "git+git", "hg+https", "hg+http", "hg+ssh"];

impl FlakeUrl {
    /// Returns the URL with the revision: 40 hexadecimal digits as `rev=`, everything else as `ref=`, since a commit
    /// given as `ref=` fails on Nix 2.8 and 2.34.
    pub fn at(&self, revision: &Revision) -> String {
        self.with(&match revision.commit() {
            Some(commit) => format!("rev={commit}"),
            None => format!("ref={revision}"),
        })
    }

    /// Returns the URL that makes Nix fetch all refs of the repository; `None` for URLs that git does not fetch. That
    /// costs more, but finds a commit on a server that serves only the tips of branches by id.
    pub fn with_all_refs(&self) -> Option<Self> {
        self.git_remote()?;
        Some(Self(self.with("allRefs=1")))
    }

    fn with(&self, parameter: &str) -> String {
        let separator = if self.0.contains('?') { '&' } else { '?' };
        format!("{self}{separator}{parameter}")
    }

    /// Returns the argument of `nixos-rebuild --flake` for one configuration in `nixosConfigurations`.
    pub fn installable(&self, revision: &Revision, configuration: &str) -> String {
        format!("{}#{configuration}", self.at(revision))
    }

    /// Returns the URL without user name and password, to show it to others.
    #[must_use]
    pub fn public(&self) -> Self {
        Self(without_credentials(&self.0).into_owned())
    }

    /// Whether it is a path on the reader's own disk.
    pub fn is_local(&self) -> bool {
        self.0.starts_with("git+file:")
    }

    /// Returns the repository as `git ls-remote` takes it, for URLs that git can read.
    pub fn git_remote(&self) -> Option<&str> {
        let url = self.0.strip_prefix("git+").or_else(|| self.0.starts_with("git://").then_some(self.as_str()))?;
        Some(url.split('?').next().unwrap_or(url))
    }

    /// Returns the same flake at another repository URL, such as the same one without a password.
    #[must_use]
    pub fn from_git_remote(&self, remote: &str) -> Self {
        match self.git_remote() {
            Some(own) => Self(self.0.replacen(own, remote, 1)),
            None => self.clone(),
        }
    }

    /// Returns the repository for `git fetch`: [`git_remote`](Self::git_remote), or the https address at a forge.
    pub fn repository(&self) -> Option<String> {
        if let Some(remote) = self.git_remote() {
            return Some(remote.to_owned());
        }
        let (location, query) = self.0.split_once('?').unwrap_or((&self.0, ""));
        let (forge, path) = location.split_once(':')?;
        let (usual, ending) = match forge {
            "github" => ("github.com", ".git"),
            "gitlab" => ("gitlab.com", ".git"),
            "sourcehut" => ("git.sr.ht", ""),
            _ => return None,
        };
        let host = query.split('&').find_map(|pair| pair.strip_prefix("host=")).unwrap_or(usual);
        // A nested GitLab group is escaped so that it is one part of the path.
        Some(format!("https://{host}/{}{ending}", path.replace("%2F", "/")))
    }
}

fn without_credentials(url: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{path}").into(),
        None => url.into(),
    }
}

impl FromStr for FlakeUrl {
    type Err = FlakeUrlError;

    fn from_str(text: &str) -> Result<Self, FlakeUrlError> {
        // The error repeats the URL, and must not repeat a password.
        let whole = || without_credentials(text).into_owned();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(FlakeUrlError::Text(whole()));
        }
        if text.contains('#') {
            return Err(FlakeUrlError::Fragment(whole()));
        }
        let (location, query) = text.split_once('?').unwrap_or((text, ""));
        let mut keys = query.split('&').filter_map(|pair| pair.split('=').next());
        if let Some(key) = keys.find(|key| matches!(*key, "ref" | "rev")) {
            return Err(FlakeUrlError::Pinned(whole(), key.to_owned()));
        }
        let Some((scheme, path)) = location.split_once(':') else { return Err(FlakeUrlError::Scheme(whole())) };
        if REPOSITORIES.contains(&scheme)
            && let Some(rest) = path.strip_prefix("//").filter(|rest| !rest.is_empty())
        {
            let authority = rest.split('/').next().unwrap_or_default();
            let is_option = authority.starts_with('-') || authority.contains("@-");
            return if is_option { Err(FlakeUrlError::Host(whole())) } else { Ok(Self(text.to_owned())) };
        }
        if !FORGES.contains(&scheme) {
            return Err(FlakeUrlError::Scheme(whole()));
        }
        match path.split('/').filter(|segment| !segment.is_empty()).count() {
            2 => Ok(Self(text.to_owned())),
            3.. => Err(FlakeUrlError::ForgeBranch(whole())),
            _ => Err(FlakeUrlError::Scheme(whole())),
        }
    }
}

/// The name of a configuration in `nixosConfigurations`, if it is not the host name. It may have dots.
#[derive(Clone, PartialEq, Eq)]
pub struct FlakeAttr(String);

/// The text would mean more than the name of a configuration to Nix or `nixos-rebuild`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no name in nixosConfigurations: it consists of letters, digits, '_', '.', '+' and '-', and begins with none of the last three"
)]
pub struct FlakeAttrError(String);

impl FromStr for FlakeAttr {
    type Err = FlakeAttrError;

    fn from_str(text: &str) -> Result<Self, FlakeAttrError> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if text.starts_with(is_word) && text.chars().all(|c| is_word(c) || ".+-".contains(c)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(FlakeAttrError(text.to_owned()))
        }
    }
}

text_type!(FlakeUrl, FlakeAttr);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(url: &str, revision: &str) -> String {
        let url: FlakeUrl = url.parse().unwrap();
        url.installable(&revision.parse().unwrap(), "ns1")
    }

    fn refusal(url: &str) -> String {
        url.parse::<FlakeUrl>().unwrap_err().to_string()
    }

    const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";

    #[test]
    fn a_revision_becomes_ref_or_rev() {
        insta::assert_snapshot!(at("git+https://git.example.com/nixos", "main"), @"git+https://git.example.com/nixos?ref=main#ns1");
        insta::assert_snapshot!(at("git+https://git.example.com/nixos?dir=fleet", "main"), @"git+https://git.example.com/nixos?dir=fleet&ref=main#ns1");
        insta::assert_snapshot!(at("github:o/r", COMMIT), @"github:o/r?rev=8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b#ns1");
    }

    #[test]
    fn a_refused_url_says_why() {
        insta::assert_snapshot!(refusal("git+https://h/x#web"), @r##"the flake URL "git+https://h/x#web" already names an output after '#': leave it off, the host name goes there"##);
        insta::assert_snapshot!(refusal("git+https://h/x?dir=a&ref=main"), @r#"the flake URL "git+https://h/x?dir=a&ref=main" already has a 'ref': leave it off, every request brings its revision"#);
        insta::assert_snapshot!(refusal("github:o/r/main"), @r#"the flake URL "github:o/r/main" already names a branch after the repository: leave it off, every request brings its own"#);
        insta::assert_snapshot!(refusal("/etc/nixos"), @r#"the flake URL "/etc/nixos" cannot carry a revision: use git+https://, git+ssh://, git+file:///, github: or gitlab:"#);
        insta::assert_snapshot!(refusal("path:/etc/nixos"), @r#"the flake URL "path:/etc/nixos" cannot carry a revision: use git+https://, git+ssh://, git+file:///, github: or gitlab:"#);
        insta::assert_snapshot!(refusal("git+ssh://h/x y"), @r#"the flake URL "git+ssh://h/x y" is empty or contains characters that no URL has: write them as % and two digits, as in %20"#);
        insta::assert_snapshot!(refusal("git+https://bob:s3cret@h/x#web"), @r##"the flake URL "git+https://h/x#web" already names an output after '#': leave it off, the host name goes there"##);
        insta::assert_snapshot!(refusal("git+ssh://-oProxyCommand=id/x"), @r#"the flake URL "git+ssh://-oProxyCommand=id/x" has a host that begins with '-'"#);
        for dangerous in [
            "git+ssh://git@-oProxyCommand=id/x",
            "hg+ssh://-oProxyCommand=id/x",
            "ext::sh -c id",
            "git+ext::id",
            "--upload-pack=id",
            "-c",
            "file:///x",
            "path:.",
            "./x",
            "git+https://h/\u{202e}x",
            "tarball+file:///x",
        ] {
            assert!(dangerous.parse::<FlakeUrl>().is_err(), "{dangerous}");
        }
    }

    #[test]
    fn credentials_stay_at_home() {
        let public = |url: &str| url.parse::<FlakeUrl>().unwrap().public().to_string();
        assert_eq!(public("git+https://bob:s3cret@h.example/x?dir=a"), "git+https://h.example/x?dir=a");
        assert_eq!(public("git+https://t@ken@h.example"), "git+https://h.example");
        assert_eq!(public("git+https://h.example/x@y"), "git+https://h.example/x@y");
        assert_eq!(public("github:o/r"), "github:o/r");
    }

    #[test]
    fn a_configuration_may_be_called_like_a_domain_and_not_like_an_expression() {
        let name = |text: &str| text.parse::<FlakeAttr>().map(|name| name.as_str().to_owned());
        assert_eq!(name("ns1.example.com").unwrap(), "ns1.example.com");
        assert_eq!(name("web+v2_x-1").unwrap(), "web+v2_x-1");
        for text in ["", "-v", "a b", "a\"b", "a'b", "a\\b", "${a}", "a#b", "a?ref=x", "a^*", "a\nb"] {
            assert!(name(text).is_err(), "{text:?}");
        }
        insta::assert_snapshot!(name("a\"b").unwrap_err(), @r#""a\"b" is no name in nixosConfigurations: it consists of letters, digits, '_', '.', '+' and '-', and begins with none of the last three"#);
    }

    #[test]
    fn git_is_asked_where_it_can_be() {
        let remote = |url: &str| url.parse::<FlakeUrl>().unwrap().git_remote().map(str::to_owned);
        assert_eq!(remote("git+https://h/x?dir=a").as_deref(), Some("https://h/x"));
        assert_eq!(remote("git://h/x").as_deref(), Some("git://h/x"));
        assert_eq!(remote("github:o/r"), None);
    }

    #[test]
    fn all_refs_are_fetched_where_git_fetches() {
        let all =
            |url: &str| url.parse::<FlakeUrl>().unwrap().with_all_refs().map(|url| url.at(&COMMIT.parse().unwrap()));
        insta::assert_snapshot!(all("git+ssh://git@h/x").unwrap(), @"git+ssh://git@h/x?allRefs=1&rev=8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b");
        insta::assert_snapshot!(all("git+https://h/x?dir=a").unwrap(), @"git+https://h/x?dir=a&allRefs=1&rev=8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b");
        assert_eq!((all("github:o/r"), all("hg+https://h/x")), (None, None));
    }

    #[test]
    fn the_repository_can_be_another_one() {
        let url: FlakeUrl = "git+https://bob:s3cret@h/x?dir=a".parse().unwrap();
        assert_eq!(url.from_git_remote("https://h/x").as_str(), "git+https://h/x?dir=a");
        let url: FlakeUrl = "github:o/r".parse().unwrap();
        assert_eq!(url.from_git_remote("https://h/x"), url);
    }

    #[test]
    fn forges_are_fetched_from_over_https() {
        let repository = |url: &str| url.parse::<FlakeUrl>().unwrap().repository();
        assert_eq!(repository("github:o/r?dir=a").as_deref(), Some("https://github.com/o/r.git"));
        assert_eq!(repository("gitlab:o%2Fg/r").as_deref(), Some("https://gitlab.com/o/g/r.git"));
        assert_eq!(repository("gitlab:o/r?host=git.example").as_deref(), Some("https://git.example/o/r.git"));
        assert_eq!(repository("sourcehut:~o/r").as_deref(), Some("https://git.sr.ht/~o/r"));
        assert_eq!(repository("git+ssh://git@h/r?dir=a").as_deref(), Some("ssh://git@h/r"));
        assert_eq!(repository("hg+https://h/r"), None);
    }

    proptest! {
        #[test]
        fn nothing_in_a_revision_changes_what_the_url_means(
            text in "\\PC{0,16}|[-a-z0-9./_+&#=%;'\"$()| @{}]{0,12}|[0-9a-f]{40}",
            url in prop::sample::select(vec!["git+https://h/x", "git+https://h/x?dir=a", "github:o/r", "git+file:///srv/x"]),
        ) {
            let Ok(revision) = text.parse::<Revision>() else { return Ok(()) };
            let url: FlakeUrl = url.parse().unwrap();
            let whole = url.installable(&revision, "ns1");
            let (before, host) = whole.split_once('#').unwrap();
            prop_assert_eq!(host, "ns1");
            let added = before.strip_prefix(url.as_str()).unwrap();
            let expected = if revision.commit().is_some() { "rev" } else { "ref" };
            prop_assert_eq!(added.get(1..).unwrap(), format!("{expected}={text}"));
            prop_assert_eq!(before.matches('?').count(), 1);
            prop_assert_eq!(before.matches('&').count(), url.as_str().matches('?').count());
        }
    }
}
