//! The JSON schemas of the values in a plan that are written otherwise than their types. `value` reads them.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;

/// Numbers with units, as `humantime` parses them, without the units that are too long for a plan.
const DURATION: &str = r"^\s*([0-9]+(\.[0-9]+)?\s*(nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|wks?|w)\s*)+$|^0$";

/// An alias, or tokens with dots between them.
const TARGET: &str = r"^([A-Za-z0-9_-]+|[^.*>\s]+(\.[^.*>\s]+)+)$";

pub(super) const NAME: &str = "^[a-z0-9-]+$";

pub(super) const REVISION: &str = "^[A-Za-z0-9][A-Za-z0-9._/+-]*$";

/// A URL with a scheme and without an output of the flake.
pub(super) const FLAKE: &str = r"^[a-z+]+:[^\s#]+$";

pub(super) fn command(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "items": [{ "type": "string", "minLength": 1 }],
        "additionalItems": { "type": "string" },
    })
}

pub(super) fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": DURATION })
}

/// A duration with a digit other than 0, since a timeout is not empty.
pub(super) fn timeout(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "allOf": [{ "pattern": DURATION }, { "pattern": "[1-9]" }] })
}

pub(super) fn parallel(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [{ "type": "integer", "minimum": 1 }, { "type": "string", "pattern": "^0*(100|[1-9][0-9]?)%$" }],
    })
}

pub(super) fn targets(_: &mut SchemaGenerator) -> Schema {
    one_or_list(0)
}

pub(super) fn some_targets(_: &mut SchemaGenerator) -> Schema {
    one_or_list(1)
}

/// Returns the schema of one target, or a list of at least `least`.
fn one_or_list(least: usize) -> Schema {
    let target = json!({ "type": "string", "pattern": TARGET });
    json_schema!({ "anyOf": [target, { "type": "array", "items": target, "minItems": least }] })
}

/// The keys of the hooks.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct Hooks {
    /// A program that is told when the rollout begins, or goes on: the program and its arguments, which no shell reads.
    /// It finds the rollout on its standard input as JSON, has 30 seconds, and changes nothing.
    #[schemars(rename = "on_start", schema_with = "command", default)]
    start: (),
    /// The same for when a wave fails.
    #[schemars(rename = "on_halt", schema_with = "command", default)]
    halt: (),
    /// The same for when the rollout is over, however it ended.
    #[schemars(rename = "on_finish", schema_with = "command", default)]
    finish: (),
}
