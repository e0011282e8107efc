//! Passes the URL of a repository to git. Every user of a machine can read command lines, also those of git's children:
//! user name and password go through the environment, which no other user can read.

use std::process::Command;

use data_encoding::BASE64;
use percent_encoding::percent_decode_str;

/// The schemes with a user name and password. With ssh, the name is the login, which is no secret.
const WITH_PASSWORD: [&str; 2] = ["http", "https"];

/// The URL of a repository without secrets, and the secrets.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    url: String,
    /// Settings for git besides the user's configuration.
    settings: Vec<(String, String)>,
}

impl Remote {
    /// Splits a URL, which may contain a user name and password.
    pub(crate) fn at(url: &str) -> Self {
        let plain = || Self { url: url.to_owned(), settings: Vec::new() };
        let Some((scheme, rest)) = url.split_once("://") else { return plain() };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let Some((user, host)) = authority.rsplit_once('@') else { return plain() };
        if !WITH_PASSWORD.contains(&scheme) {
            let name = user.split(':').next().unwrap_or_default();
            let at = if scheme == "ssh" && !name.is_empty() { format!("{name}@") } else { String::new() };
            return Self { url: format!("{scheme}://{at}{host}{path}"), settings: Vec::new() };
        }
        let url = format!("{scheme}://{host}{path}");
        let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
        let setting = match user.split_once(':') {
            Some((name, password)) => {
                let credentials = BASE64.encode(&[&decoded(name)[..], b":", &decoded(password)].concat());
                (format!("http.{url}.extraHeader"), format!("Authorization: Basic {credentials}"))
            }
            // git asks its credential helpers for the password of this user.
            None => (format!("credential.{url}.username"), String::from_utf8_lossy(&decoded(user)).into_owned()),
        };
        Self { url, settings: vec![setting] }
    }

    /// Returns the URL without secrets, for command lines and messages.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Adds the secrets to the environment of git.
    pub(crate) fn configure_git(&self, git: &mut Command) {
        // Keeps settings that the user passes in the same way.
        let count = std::env::var_os("GIT_CONFIG_COUNT");
        let others: usize = count.and_then(|count| count.to_str()?.parse().ok()).unwrap_or_default();
        for (index, (key, value)) in (others..).zip(&self.settings) {
            git.env(format!("GIT_CONFIG_KEY_{index}"), key).env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        git.env("GIT_CONFIG_COUNT", (others + self.settings.len()).to_string());
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({})", self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(url: &str) -> (String, String) {
        let Remote { url, settings } = Remote::at(url);
        let settings: Vec<String> = settings.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        (url, settings.concat())
    }

    #[test]
    fn a_password_is_no_part_of_the_url() {
        let (url, setting) = remote("https://user:to%3Aken@git.example/x/y");
        assert_eq!(url, "https://git.example/x/y");
        let encoded = setting.strip_prefix("http.https://git.example/x/y.extraHeader=Authorization: Basic ").unwrap();
        assert_eq!(BASE64.decode(encoded.as_bytes()).unwrap(), b"user:to:ken");
        let shown = format!("{:?}", Remote::at("https://user:token@git.example/x"));
        assert_eq!(shown, "Remote(https://git.example/x)");
    }

    #[test]
    fn a_user_name_alone_is_for_the_credential_helpers() {
        let (url, setting) = remote("http://bob@git.example/x");
        assert_eq!(
            (url.as_str(), setting.as_str()),
            ("http://git.example/x", "credential.http://git.example/x.username=bob")
        );
        assert_eq!(remote("ssh://git:secret@h/x"), ("ssh://git@h/x".to_owned(), String::new()));
        assert_eq!(remote("git://bob:secret@h/x"), ("git://h/x".to_owned(), String::new()));
        assert_eq!(remote("https://h/x@y"), ("https://h/x@y".to_owned(), String::new()));
        assert_eq!(remote("file:///srv/x"), ("file:///srv/x".to_owned(), String::new()));
    }
}
