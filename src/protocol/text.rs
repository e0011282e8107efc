//! What all types have in common whose values are checked texts.

/// Shows a checked text as it is, writes it into JSON as it is, and checks it when it is read. Neither way makes a copy of
/// it on the side: a rollout reads and writes a dozen of these for each host.
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
                deserializer.deserialize_str($crate::protocol::text::Checked::new())
            }
        }
    )+};
}

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use crate::text::safe;

pub(super) use checked_text;

/// The longest line that is read of what others wrote, in bytes. The names of rollouts, operators and units are shorter.
const MAX_LINE_BYTES: usize = 1024;

/// The longest text of several lines, in bytes.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// One line of what others wrote, as it may be shown anywhere: without anything that a terminal obeys, that cannot be seen
/// or that reorders what can, and not too long. All free text of a message comes through here or through [`clean_text`].
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

/// For fields of messages: [`clean_line`].
pub(super) fn line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Cow::<'de, str>::deserialize(deserializer).map(|text| clean_line(&text))
}

/// For fields of messages: [`clean_line`], where there is one.
pub(super) fn optional_line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<Cow<'de, str>>::deserialize(deserializer)?.map(|text| clean_line(&text)))
}

/// For fields of messages: [`clean_line`] for each.
pub(super) fn lines<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<Cow<'de, str>>::deserialize(deserializer)?.iter().map(|text| clean_line(text)).collect())
}

/// For fields of messages: [`clean_text`]; other programs write an absent text as null.
pub(super) fn text_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::<Cow<'de, str>>::deserialize(deserializer)?.map_or_else(String::new, |text| clean_text(&text)))
}

pub(super) struct Checked<T>(PhantomData<T>);

impl<T> Checked<T> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Checked<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}
