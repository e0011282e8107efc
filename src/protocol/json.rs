//! How messages are read and written.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use super::text::clean_line;

/// Most messages are shorter than this, in bytes.
const USUAL_BYTES: usize = 512;

/// Reads a message. The text is checked once as a whole, as serde would otherwise check each string in it by itself.
pub(super) fn from_json<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, serde_json::Error> {
    let read = match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str(text),
        // What is wrong may be in a field that nobody reads.
        Err(_) => serde_json::from_slice(bytes),
    };
    // What is wrong is told with the words of the message.
    read.map_err(|error| serde::de::Error::custom(clean_line(&error.to_string())))
}

pub(super) fn to_json(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    serde_json::to_writer(&mut bytes, message)
        .expect("messages have string keys only, so serializing one to memory cannot fail");
    bytes
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
pub(super) const fn is_false(value: &bool) -> bool {
    !*value
}

/// Other programs write an absent text as `""`.
pub(super) fn empty_is_none<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = Option::<Cow<'de, str>>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    text.map(|text| text.parse()).transpose().map_err(serde::de::Error::custom)
}
