//! Reads and writes messages, cleans the texts in them, and says what is wrong with a text.

/// Implements display, serialization and checked deserialization of types that have `as_str` and `from_str`. Neither way
/// makes a copy: a rollout reads and writes a dozen of these texts for each host.
macro_rules! checked_text {
    ($($name:ident),+) => {$(
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::protocol::text::parsed(deserializer)
            }
        }
    )+};
}

/// Implements the same and `as_str` for types that hold a checked text and nothing else. They are debugged as that text.
macro_rules! text_type {
    ($($name:ident),+) => {$(
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(self.as_str(), f)
            }
        }

        $crate::protocol::text::checked_text!($name);
    )+};
}

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::text::safe;

pub(crate) use {checked_text, text_type};

/// The reason why a text is not a name, a subject, a revision or the like.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not {wanted}: {why}")]
pub struct ParseError {
    text: String,
    wanted: &'static str,
    why: Cow<'static, str>,
}

impl ParseError {
    /// Creates the error for a text that is not `wanted`, a noun with its article. Of a long text it keeps the beginning.
    pub(crate) fn new(text: &str, wanted: &'static str, why: impl Into<Cow<'static, str>>) -> Self {
        let (shown, rest) = text.split_at(text.floor_char_boundary(MAX_SHOWN_BYTES));
        let more = if rest.is_empty() { "" } else { "…" };
        Self { text: format!("{shown}{more}"), wanted, why: why.into() }
    }
}

/// Most messages are shorter than this, in bytes.
const USUAL_BYTES: usize = 512;

/// The longest line read from others, in bytes. The names of rollouts, operators and units are shorter.
const MAX_LINE_BYTES: usize = 1024;

/// The longest part of a text that an error repeats, in bytes.
const MAX_SHOWN_BYTES: usize = 120;

/// The longest text of several lines, in bytes.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// Returns one line of a text from others, safe to show anywhere: without control sequences, invisible characters and
/// characters that reorder visible ones, and bounded. All free text in messages passes through here or [`clean_text`].
pub(super) fn clean_line(text: &str) -> String {
    let mut line = safe(text);
    cut(&mut line, MAX_LINE_BYTES);
    line
}

pub(super) fn clean_text(text: &str) -> String {
    let mut lines = text.lines();
    let mut text = lines.next().map(safe).unwrap_or_default();
    for line in lines {
        text.push('\n');
        text.push_str(&safe(line));
    }
    cut(&mut text, MAX_TEXT_BYTES);
    text
}

fn cut(text: &mut String, bound: usize) {
    if text.len() > bound {
        text.truncate(text.floor_char_boundary(bound));
    }
}

/// A borrowed text, which `Cow` alone would copy: <https://serde.rs/lifetimes.html#borrowing-data-in-a-derived-impl>.
#[derive(Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads a text that has to be checked.
pub(crate) fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(deserializer: D) -> Result<T, D::Error> {
    Borrowed::deserialize(deserializer)?.0.parse().map_err(D::Error::custom)
}

/// Reads a message field by [`clean_line`].
pub(super) fn line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Borrowed::deserialize(deserializer).map(|Borrowed(text)| clean_line(&text))
}

/// Reads an optional message field by [`clean_line`].
pub(super) fn optional_line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<Borrowed>::deserialize(deserializer)?.map(|Borrowed(text)| clean_line(&text)))
}

/// Reads a list of message fields by [`clean_line`]; other programs write an empty list as null.
pub(super) fn lines<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let texts = Option::<Vec<Borrowed>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(texts.iter().map(|Borrowed(text)| clean_line(text)).collect())
}

/// Reads a message field by [`clean_text`]; other programs write an absent text as null.
pub(super) fn text_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::<Borrowed>::deserialize(deserializer)?.map_or_else(String::new, |Borrowed(text)| clean_text(&text)))
}

/// Reads a list; other programs write an empty one as null.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads the parsable texts of a list; other programs write an empty list as null.
pub(super) fn parsable<'de, D: Deserializer<'de>, T: FromStr>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let texts = Option::<Vec<Borrowed>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(texts.iter().filter_map(|Borrowed(text)| text.parse().ok()).collect())
}

/// Reads an optional field that other programs write as `""` when it is absent.
pub(super) fn empty_is_none<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = Option::<Borrowed>::deserialize(deserializer)?.filter(|Borrowed(text)| !text.is_empty());
    text.map(|Borrowed(text)| text.parse()).transpose().map_err(D::Error::custom)
}

/// Parses a message. It is checked as UTF-8 once, since serde would otherwise check each string in it.
pub(super) fn from_json<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, serde_json::Error> {
    let read = match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str(text),
        // The invalid bytes may be in a field that is ignored.
        Err(_) => serde_json::from_slice(bytes),
    };
    // The error repeats text of the message.
    read.map_err(|error| serde_json::Error::custom(clean_line(&error.to_string())))
}

pub(super) fn to_json(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    serde_json::to_writer(&mut bytes, message)
        .expect("messages have string keys only, so serializing one to memory cannot fail");
    bytes
}
