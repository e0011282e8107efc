//! Flake URLs, and how a revision is added to one.

use std::borrow::Cow;
use std::str::FromStr;

use super::revision::Revision;
use super::text::{ParseError, text_type};

/// The URL of a versioned flake, without a revision: each request brings its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlakeUrl(String);

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
        let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        // A nested GitLab group is escaped so that it is one part of the path.
        Some(format!("https://{host}/{}{ending}", path.join("/").replace("%2F", "/")))
    }
}

fn without_credentials(url: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    let (mut authority, mut path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !has_numeric_port(authority) {
        // The rest of a password with a `/` or `?` that was not escaped.
        (authority, path) = (rest, "");
    }
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{path}").into(),
        None => url.into(),
    }
}

/// Whether an authority has a number as its port, or none.
fn has_numeric_port(authority: &str) -> bool {
    let host = authority.rsplit('@').next().unwrap_or_default();
    let port = host.rsplit_once(':').map_or("", |(_, port)| port);
    host.ends_with(']') || port.bytes().all(|digit| digit.is_ascii_digit())
}

impl FromStr for FlakeUrl {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match fault(text) {
            // The error repeats the URL, and must not repeat a password.
            Some(fault) => Err(ParseError::new(&without_credentials(text), "a usable flake URL", fault)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

fn fault(text: &str) -> Option<&'static str> {
    const UNFIT: &str = "it cannot carry a revision: use git+https://, git+ssh://, git+file:///, github: or gitlab:";
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some("it is empty or has characters that no URL has: write them as % and two digits, as in %20");
    }
    if text.contains('#') {
        return Some("leave off the output after '#': the host name goes there");
    }
    let (location, query) = text.split_once('?').unwrap_or((text, ""));
    if query.split('&').any(|pair| matches!(pair.split('=').next(), Some("ref" | "rev"))) {
        return Some("leave off its ref or rev: every request brings its revision");
    }
    let Some((scheme, path)) = location.split_once(':') else { return Some(UNFIT) };
    if REPOSITORIES.contains(&scheme)
        && let Some(rest) = path.strip_prefix("//").filter(|rest| !rest.is_empty())
    {
        let authority = rest.split('/').next().unwrap_or_default();
        // ssh or Mercurial would take the host for an option.
        if authority.starts_with('-') || authority.contains("@-") {
            return Some("its host begins with '-'");
        }
        let why = "its port is not a number; a '/', '?' or ':' in a password is written as %2F, %3F or %3A";
        return (!has_numeric_port(authority)).then_some(why);
    }
    if !FORGES.contains(&scheme) {
        return Some(UNFIT);
    }
    match path.split('/').filter(|segment| !segment.is_empty()).count() {
        2 => None,
        // Nix does not accept it beside `ref` or `rev`.
        3.. => Some("leave off the branch after the repository: every request brings its revision"),
        _ => Some(UNFIT),
    }
}

/// The name of a configuration in `nixosConfigurations`, if it is not the host name. It may have dots, and nothing that
/// Nix or `nixos-rebuild` would take for more than a name.
#[derive(Clone, PartialEq, Eq)]
pub struct FlakeAttr(String);

impl FromStr for FlakeAttr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if text.starts_with(is_word) && text.chars().all(|c| is_word(c) || ".+-".contains(c)) {
            Ok(Self(text.to_owned()))
        } else {
            let why = "it consists of letters, digits, '_', '.', '+' and '-', and begins with none of the last three";
            Err(ParseError::new(text, "a name in nixosConfigurations", why))
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
        insta::assert_snapshot!(refusal("git+https://h/x#web"), @r#""git+https://h/x#web" is not a usable flake URL: leave off the output after '#': the host name goes there"#);
        insta::assert_snapshot!(refusal("git+https://h/x?dir=a&ref=main"), @r#""git+https://h/x?dir=a&ref=main" is not a usable flake URL: leave off its ref or rev: every request brings its revision"#);
        insta::assert_snapshot!(refusal("github:o/r/main"), @r#""github:o/r/main" is not a usable flake URL: leave off the branch after the repository: every request brings its revision"#);
        insta::assert_snapshot!(refusal("/etc/nixos"), @r#""/etc/nixos" is not a usable flake URL: it cannot carry a revision: use git+https://, git+ssh://, git+file:///, github: or gitlab:"#);
        insta::assert_snapshot!(refusal("path:/etc/nixos"), @r#""path:/etc/nixos" is not a usable flake URL: it cannot carry a revision: use git+https://, git+ssh://, git+file:///, github: or gitlab:"#);
        insta::assert_snapshot!(refusal("git+ssh://h/x y"), @r#""git+ssh://h/x y" is not a usable flake URL: it is empty or has characters that no URL has: write them as % and two digits, as in %20"#);
        insta::assert_snapshot!(refusal("git+https://bob:s3cret@h/x#web"), @r#""git+https://h/x#web" is not a usable flake URL: leave off the output after '#': the host name goes there"#);
        insta::assert_snapshot!(refusal("git+ssh://-oProxyCommand=id/x"), @r#""git+ssh://-oProxyCommand=id/x" is not a usable flake URL: its host begins with '-'"#);
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
        assert_eq!(public("git+ssh://git@[::1]:22/x"), "git+ssh://[::1]:22/x");
        for unescaped in ["git+https://bob:s3c/ret@h.example/x", "git+https://bob:s3c?ret@h.example/x"] {
            let error = unescaped.parse::<FlakeUrl>().unwrap_err().to_string();
            assert!(!error.contains("s3c") && !error.contains("ret@") && error.contains("%2F"), "{error}");
        }
    }

    #[test]
    fn a_configuration_may_be_called_like_a_domain_and_not_like_an_expression() {
        let name = |text: &str| text.parse::<FlakeAttr>().map(|name| name.as_str().to_owned());
        assert_eq!(name("ns1.example.com").unwrap(), "ns1.example.com");
        assert_eq!(name("web+v2_x-1").unwrap(), "web+v2_x-1");
        for text in ["", "-v", "a b", "a\"b", "a'b", "a\\b", "${a}", "a#b", "a?ref=x", "a^*", "a\nb"] {
            assert!(name(text).is_err(), "{text:?}");
        }
        insta::assert_snapshot!(name("a\"b").unwrap_err(), @r#""a\"b" is not a name in nixosConfigurations: it consists of letters, digits, '_', '.', '+' and '-', and begins with none of the last three"#);
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
        assert_eq!(repository("github:o/r/").as_deref(), Some("https://github.com/o/r.git"));
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
