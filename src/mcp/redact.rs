//! What leaves this server, without secrets and without anything that a terminal obeys. Pure.
//!
//! Nothing that is said here should hold a secret in the first place. This is the one gate behind all those places: the
//! output of git, the log of a host and the arguments of an assistant are written by others. A text is cleaned before it is
//! cut: half a seed is no longer recognised, and is still most of a secret.

use std::sync::LazyLock;

use regex::Regex;
use rmcp::ErrorData;
use rmcp::model::{CallToolResponse, ContentBlock};
use serde_json::Value;

use crate::text;

/// Anything like a seed: `S`, the letter of a kind of key, and base32. The beginning of one is a secret too.
static SEED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("S[UANOC][A-Z2-7]{16,}").expect("it is written as regular expressions are"));

/// What of a query may be a secret: the ends of its keys.
const SECRET_KEYS: [&str; 4] = ["token", "password", "secret", "key"];

#[derive(Debug, Clone, Default)]
pub struct Redactor {
    /// The paths of key files: where a key lies is the first thing that a thief needs to know.
    key_files: Vec<String>,
}

impl Redactor {
    /// Hides the paths of these files, besides what is a secret anywhere.
    pub fn new(key_files: impl IntoIterator<Item = String>) -> Self {
        Self { key_files: key_files.into_iter().filter(|path| !path.is_empty()).collect() }
    }

    /// The text as it may be shown: every line [safe](text::safe), without seeds, passwords of URLs and paths of keys.
    pub fn clean(&self, text: &str) -> String {
        let lines: Vec<String> = text.lines().map(text::safe).collect();
        let mut clean = lines.join("\n").trim_end().to_owned();
        for path in &self.key_files {
            clean = clean.replace(path, "<key file>");
        }
        SEED.replace_all(&without_url_secrets(&clean), "<seed>").into_owned()
    }

    /// The beginning of a text as it may be shown.
    pub(super) fn first(&self, text: &str, bytes: usize) -> String {
        let clean = self.clean(text);
        match clean.get(..clean.floor_char_boundary(bytes)) {
            Some(first) if first.len() < clean.len() => format!("{first}…"),
            Some(_) | None => clean,
        }
    }

    /// The end of a text as it may be shown.
    pub(super) fn last(&self, text: &str, bytes: usize) -> String {
        let clean = self.clean(text);
        let from = clean.ceil_char_boundary(clean.len().saturating_sub(bytes));
        clean.get(from..).unwrap_or_default().to_owned()
    }

    /// Cleans every string in a JSON value, the names of its members too.
    #[must_use]
    pub fn clean_value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.clean(&text)),
            Value::Array(values) => values.into_iter().map(|value| self.clean_value(value)).collect(),
            Value::Object(members) => {
                members.into_iter().map(|(name, value)| (self.clean(&name), self.clean_value(value))).collect()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        }
    }

    /// What a call is answered, as it may be shown. A question is cleaned where it is put together: its sealed part must stay
    /// as it is.
    pub(super) fn clean_answer(&self, answer: &mut Result<CallToolResponse, ErrorData>) {
        match answer {
            Ok(CallToolResponse::Complete(result)) => {
                for block in &mut result.content {
                    if let ContentBlock::Text(text) = block {
                        text.text = self.clean(&text.text);
                    }
                }
                result.structured_content = result.structured_content.take().map(|value| self.clean_value(value));
            }
            Ok(_) => {}
            Err(error) => {
                error.message = self.clean(&error.message).into();
                error.data = error.data.take().map(|data| self.clean_value(data));
            }
        }
    }
}

/// The text with URLs that have lost their user and password, and the values of telling keys in their queries.
fn without_url_secrets(text: &str) -> String {
    let clean = |piece: &str| {
        let (url, after) = piece.split_at(piece.find(ends_url).unwrap_or(piece.len()));
        format!("{}{after}", public(url))
    };
    let mut pieces = text.split("://");
    let before = pieces.next().unwrap_or_default().to_owned();
    std::iter::once(before).chain(pieces.map(clean)).collect::<Vec<_>>().join("://")
}

fn ends_url(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`')
}

/// What follows the scheme of a URL, as far as it may be told.
fn public(url: &str) -> String {
    let (authority, path) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let Some((path, query)) = path.split_once('?') else { return format!("{host}{path}") };
    let public = |pair: &str| match pair.split_once('=') {
        Some((key, _)) if SECRET_KEYS.iter().any(|secret| key.to_ascii_lowercase().ends_with(secret)) => {
            format!("{key}=hidden")
        }
        _ => pair.to_owned(),
    };
    format!("{host}{path}?{}", query.split('&').map(public).collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn redactor() -> Redactor {
        Redactor::new(["/run/secrets/admin.seed".to_owned()])
    }

    #[test]
    fn secrets_are_hidden_and_the_rest_stays() {
        let seed = nkeys::KeyPair::new_user().seed().unwrap();
        // One of six has within it what looks like the beginning of a seed, and is cut there.
        let public = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
        let clean = |text: &str| redactor().clean(text).replace(public, "PUBLIC");
        insta::assert_snapshot!(clean(&format!("the seed {seed}, of {public}")), @"the seed <seed>, of PUBLIC");
        insta::assert_snapshot!(clean(&format!("{}\u{200b}{}", &seed[..20], &seed[20..])), @"<seed>");
        insta::assert_snapshot!(clean("cannot read /run/secrets/admin.seed: no"), @"cannot read <key file>: no");
        insta::assert_snapshot!(clean("git ls-remote -- https://bob:s3cr@t@git.example/x?dir=a&private_token=abc failed"), @"git ls-remote -- https://git.example/x?dir=a&private_token=hidden failed");
        insta::assert_snapshot!(clean("nats://u:p@a:4222,nats://v:q@b 'ssh://git@h/x'"), @"nats://a:4222,nats://b 'ssh://h/x'");
        insta::assert_snapshot!(clean("mail bob@example.com, https://h/x@y?ref=main#ns1"), @"mail bob@example.com, https://h/x@y?ref=main#ns1");
        insta::assert_snapshot!(clean("\x1b[31mred\x1b[0m\nsecond \u{202e}line\r\n"), @"
        red
        second line
        ");
    }

    #[test]
    fn every_string_of_a_value_is_cleaned() {
        let value = json!({"a": ["x\x1b[2J", {"https://u:p@h\u{7}": 1}], "n": null, "b": true});
        assert_eq!(redactor().clean_value(value), json!({"a": ["x", {"https://h": 1}], "n": null, "b": true}));
    }

    proptest! {
        #[test]
        fn what_is_clean_stays_so(text in "(\\PC|\n|\\x1b\\[|://|@|\\?a_token=|&|[A-Z2-7]{20}){0,12}") {
            let once = redactor().clean(&text);
            prop_assert_eq!(redactor().clean(&once), once);
        }

        #[test]
        fn no_password_survives(user in "[a-z:@]{0,6}", before in "\\PC{0,5}", after in "[ /?a-z]{0,8}") {
            let clean = redactor().clean(&format!("{before}https://{user}:s3cret@host{after}"));
            prop_assert!(!clean.contains("s3cret"), "{}", clean);
        }
    }
}
