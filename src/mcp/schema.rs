//! What arguments and results look like, for programs.
//!
//! The schemas are flat, since some clients drop a tool, or the whole session, over a root that is a choice or a type that
//! may be null: an optional property is one that may be absent.

use std::any::Any;
use std::sync::Arc;

use rmcp::handler::server::tool::{schema_for_input, schema_for_output};
use rmcp::model::JsonObject;
use rmcp::schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ToolError;
use crate::protocol::Tier;

/// The schema of a tool's arguments.
pub(super) fn input<T: JsonSchema + Any>() -> Arc<JsonObject> {
    let schema = schema_for_input::<T>().expect("the arguments of every tool are a struct");
    plain(&schema)
}

/// The schema of a tool's result.
pub(super) fn output<T: JsonSchema + Any>() -> Arc<JsonObject> {
    plain(&schema_for_output::<T>())
}

/// Reads the arguments of a tool. What they are not is said in words, so that an assistant can correct itself.
pub(super) fn arguments<T: DeserializeOwned>(arguments: JsonObject) -> Result<T, ToolError> {
    serde_json::from_value(Value::Object(arguments)).map_err(|error| {
        ToolError::new("invalid_arguments", error.to_string()).next("correct the arguments and call again")
    })
}

/// The same without what only costs room: the dialect, and formats such as `uint64` that validators do not know.
fn plain(schema: &Arc<JsonObject>) -> Arc<JsonObject> {
    let mut schema = JsonObject::clone(schema);
    schema.remove("$schema");
    let mut schema = Value::Object(schema);
    drop_formats(&mut schema);
    match schema {
        Value::Object(schema) => Arc::new(schema),
        _ => unreachable!("it was an object"),
    }
}

fn drop_formats(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("format").is_some_and(Value::is_string) {
                fields.remove("format");
            }
            fields.values_mut().for_each(drop_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_formats),
        _ => {}
    }
}

/// One of the tiers.
pub(super) fn tier(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": Tier::ALL.map(Tier::as_str) })
}
