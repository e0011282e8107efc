//! The JSON Schema of a plan, for editors: they complete its keys, show what each means, and underline what is wrong.
//!
//! It refuses nothing that the parser takes. What needs more than one value to be seen is the parser's alone, such as
//! a duration that is too long or a name that two waves have.

use serde_json::{Map, Value, json};

use super::key::{Key, SETTING_KEYS, TOP_KEYS, ValueKind, WAVE_KEYS};
use super::value::MAX_RETRIES;
use super::{Rollback, Settings};
use crate::protocol::{Action, MAX_REVISION_BYTES};

/// A number with its unit, once or more: what `humantime` reads, less the units that are too long for a plan.
const DURATION: &str = r"^\s*([0-9]+(\.[0-9]+)?\s*(nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|wks?|w)\s*)+$|^0$";

/// An alias, or tokens with dots between them.
const TARGET: &str = r"^([A-Za-z0-9_-]+|[^.*>\s]+(\.[^.*>\s]+)+)$";

/// A scheme and the rest, which names no output of the flake.
const FLAKE: &str = r"^[a-z+]+:[^\s#]+$";

/// The JSON Schema of a plan (draft 7, which all editors know), as text that ends with a newline.
pub fn schema() -> String {
    let about = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Plan of homelab-deploy",
        "description": "A rollout in waves: what to deploy, and to whom first.",
    });
    format!("{:#}\n", both(about, table(&TOP_KEYS, &["wave"])))
}

/// A table that has these keys and no others.
fn table<'a>(keys: impl IntoIterator<Item = &'a Key>, required: &[&str]) -> Value {
    let default = Settings::default();
    let properties: Map<_, _> = keys.into_iter().map(|key| (key.name.to_owned(), property(key, &default))).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn property(key: &Key, default: &Settings) -> Value {
    both(json!({ "description": key.meaning, "default": (key.default)(default) }), values(key.takes))
}

/// What two objects say, less what is null.
fn both(one: Value, other: Value) -> Value {
    let fields = [one, other].into_iter().filter_map(|object| match object {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    fields.flatten().filter(|(_, value)| !value.is_null()).collect()
}

/// The values that a key can have.
fn values(takes: ValueKind) -> Value {
    match takes {
        ValueKind::Action => json!({ "enum": Action::ALL.map(Action::as_str) }),
        ValueKind::Boolean => json!({ "type": "boolean" }),
        ValueKind::Command => json!({
            "type": "array",
            "minItems": 1,
            "items": [{ "type": "string", "minLength": 1 }],
            "additionalItems": { "type": "string" },
        }),
        ValueKind::Count => json!({ "type": "integer", "minimum": 0 }),
        ValueKind::Duration => json!({ "type": "string", "pattern": DURATION }),
        ValueKind::File => json!({ "type": "string", "minLength": 1 }),
        ValueKind::Flake => json!({ "type": "string", "pattern": FLAKE }),
        ValueKind::Name => json!({ "type": "string", "pattern": "^[a-z0-9-]+$" }),
        ValueKind::Parallel => json!({
            "anyOf": [{ "type": "integer", "minimum": 1 }, { "type": "string", "pattern": "^0*(100|[1-9][0-9]?)%$" }],
        }),
        ValueKind::Retries => json!({ "type": "integer", "minimum": 0, "maximum": MAX_RETRIES }),
        ValueKind::Rollback => json!({ "enum": Rollback::ALL.map(Rollback::as_str) }),
        ValueKind::Revision => json!({
            "type": "string",
            "pattern": "^[A-Za-z0-9][A-Za-z0-9._/+-]*$",
            "maxLength": MAX_REVISION_BYTES,
        }),
        ValueKind::Texts => targets(0),
        ValueKind::SomeTexts => targets(1),
        // Some digit is not 0, so that there is time at all.
        ValueKind::ConfirmTimeout | ValueKind::Timeout => {
            json!({ "type": "string", "allOf": [{ "pattern": DURATION }, { "pattern": "[1-9]" }] })
        }
        ValueKind::Defaults => table(&SETTING_KEYS, &[]),
        ValueKind::Waves => json!({
            "type": "array",
            "minItems": 1,
            "items": table(WAVE_KEYS.iter().chain(&SETTING_KEYS), &["targets"]),
        }),
    }
}

/// One target, or a list of at least so many.
fn targets(least: usize) -> Value {
    let target = json!({ "type": "string", "pattern": TARGET });
    json!({ "anyOf": [target, { "type": "array", "items": target, "minItems": least }] })
}
