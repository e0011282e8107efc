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
use serde_json::{Value, json};

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

/// The schema of a result that another tool has as well and explains. All tools together have to fit into what clients read.
pub(super) fn same_as<T: JsonSchema + Any>(explained_by: &str) -> Arc<JsonObject> {
    let mut schema = JsonObject::clone(&output::<T>());
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties.into_iter().flat_map(serde_json::Map::values_mut) {
        if let Value::Object(fields) = property {
            fields.remove("description");
            if fields.contains_key("items") {
                fields.insert("items".to_owned(), json!({ "type": "object" }));
            }
        }
    }
    schema.insert("description".to_owned(), format!("As {explained_by} explains it.").into());
    Arc::new(schema)
}

/// Reads the arguments of a tool. What they are not is said in words, so that an assistant can correct itself.
pub(super) fn arguments<T: DeserializeOwned>(arguments: JsonObject) -> Result<T, ToolError> {
    serde_json::from_value(Value::Object(arguments)).map_err(|error| {
        ToolError::new("invalid_arguments", error.to_string()).next("correct the arguments and call again")
    })
}

/// The same, closed, and without what only costs room: the dialect, formats such as `uint64` that validators do not know,
/// that numbers are not negative, and that what may be absent is.
fn plain(schema: &Arc<JsonObject>) -> Arc<JsonObject> {
    let mut schema = JsonObject::clone(schema);
    schema.remove("$schema");
    let mut schema = Value::Object(schema);
    close(&mut schema);
    match schema {
        Value::Object(schema) => Arc::new(schema),
        _ => unreachable!("it was an object"),
    }
}

/// Every object has the properties that it names and no others.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.retain(|key, value| match key.as_str() {
                "format" | "minimum" => value.is_object(),
                "default" => !value.is_null(),
                _ => true,
            });
            if let Some(Value::String(told)) = fields.get_mut("description") {
                // They are Rust's.
                *told = told.replace('`', "");
            }
            if fields.get("properties").is_some_and(Value::is_object) {
                fields.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// One of the tiers.
pub(super) fn tier(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": Tier::ALL.map(Tier::as_str) })
}
