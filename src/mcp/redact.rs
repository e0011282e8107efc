//! Removes secrets and control characters from all texts that leave this server. Pure.
//!
//! No text should hold a secret in the first place. This is the last gate: git, hosts and assistants write texts that pass
//! through here. A text is cleaned before it is cut, since half a seed is not recognised and is still most of a secret.

use std::sync::LazyLock;

use regex::Regex;
use rmcp::ErrorData;
use rmcp::model::{CallToolResponse, ContentBlock};
use serde_json::Value;

use crate::text;

/// Matches seeds: `S`, the letter of a kind of key, and base32. The beginning of a seed is a secret too.
static SEED: LazyLock<Regex> = LazyLock::new(|| pattern("S[UANOC][A-Z2-7]{16,}"));

/// Matches the user and password of a URL, also of one that was cut in the middle of them.
static USER: LazyLock<Regex> = LazyLock::new(|| pattern(r#"://[^/?\#\s"'<>`]*[@…]"#));

/// Matches a parameter of a URL with a secret value.
static SECRET: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"(?i)([?&][^=&\s"'<>`]*(?:token|password|secret|key)=)[^&\s"'<>`]*"#));

pub(super) fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("it is written as regular expressions are")
}

#[derive(Debug, Clone, Default)]
pub struct Redactor {
    /// The paths of key files. The path of a key is the first thing that a thief needs.
    key_files: Vec<String>,
}

impl Redactor {
    /// Hides these paths besides seeds, passwords and tokens.
    pub fn new(key_files: impl IntoIterator<Item = String>) -> Self {
        Self { key_files: key_files.into_iter().filter(|path| !path.is_empty()).collect() }
    }

    /// Makes every line [safe](text::safe), and hides seeds, secrets in URLs and the paths of keys.
    pub fn clean(&self, text: &str) -> String {
        let lines: Vec<String> = text.lines().map(text::safe).collect();
        let mut clean = lines.join("\n").trim_end().to_owned();
        for path in &self.key_files {
            clean = clean.replace(path, "<key file>");
        }
        let without_users = USER.replace_all(&clean, "://");
        SEED.replace_all(&SECRET.replace_all(&without_users, "${1}hidden"), "<seed>").into_owned()
    }

    /// Cleans a text and cuts its end.
    pub(super) fn first(&self, text: &str, bytes: usize) -> String {
        let clean = self.clean(text);
        match clean.get(..clean.floor_char_boundary(bytes)) {
            Some(first) if first.len() < clean.len() => format!("{first}…"),
            Some(_) | None => clean,
        }
    }

    /// Cleans a text and cuts its beginning.
    pub(super) fn last(&self, text: &str, bytes: usize) -> String {
        let clean = self.clean(text);
        let from = clean.ceil_char_boundary(clean.len().saturating_sub(bytes));
        clean.get(from..).unwrap_or_default().to_owned()
    }

    /// Cleans every string in a JSON value, also the names of members.
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

    /// Cleans the response to a call. A question is cleaned when it is built: its sealed part must stay as it is.
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
        // One public key in six contains the beginning of a seed, and would be cut there.
        let public = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
        let clean = |text: &str| redactor().clean(text).replace(public, "PUBLIC");
        insta::assert_snapshot!(clean(&format!("the seed {seed}, of {public}")), @"the seed <seed>, of PUBLIC");
        insta::assert_snapshot!(clean(&format!("{}\u{200b}{}", &seed[..20], &seed[20..])), @"<seed>");
        insta::assert_snapshot!(clean("cannot read /run/secrets/admin.seed: no"), @"cannot read <key file>: no");
        insta::assert_snapshot!(clean("git ls-remote -- https://bob:s3cr@t@git.example/x?dir=a&private_token=abc failed"), @"git ls-remote -- https://git.example/x?dir=a&private_token=hidden failed");
        insta::assert_snapshot!(clean("nats://u:p@a:4222,nats://v:q@b 'ssh://git@h/x'"), @"nats://a:4222,nats://b 'ssh://h/x'");
        insta::assert_snapshot!(clean("its check says: git pull https://bob:s3cr…"), @"its check says: git pull https://");
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
