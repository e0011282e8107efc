//! What arguments look like, for programs.
//!
//! The schemas are flat: some clients drop a tool, or the whole session, when a root is a choice or a type may be null. An
//! optional property is one that may be absent. Results have no schema: their text says all that their data says.

use std::any::Any;
use std::sync::Arc;

use rmcp::handler::server::tool::schema_for_input;
use rmcp::model::JsonObject;
use rmcp::schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::ToolError;
use crate::protocol::Tier;

pub(super) fn input<T: JsonSchema + Any>() -> Arc<JsonObject> {
    let schema = schema_for_input::<T>().expect("the arguments of every tool are a struct");
    plain(&schema)
}

/// The same without one of them.
pub(super) fn input_without<T: JsonSchema + Any>(name: &str) -> Arc<JsonObject> {
    let mut schema = JsonObject::clone(&input::<T>());
    for member in ["properties", "required"] {
        match schema.get_mut(member) {
            Some(Value::Object(properties)) => drop(properties.remove(name)),
            Some(Value::Array(required)) => required.retain(|known| known != name),
            _ => {}
        }
    }
    schema.retain(|_, member| member.as_array().is_none_or(|list| !list.is_empty()));
    Arc::new(schema)
}

/// Reads the arguments of a tool. The error says which of them is wrong, so that an assistant can correct it.
pub(super) fn arguments<T: DeserializeOwned>(arguments: &JsonObject) -> Result<T, ToolError> {
    let read = |arguments: JsonObject| {
        serde_json::from_value::<T>(Value::Object(arguments)).map_err(|error| error.to_string())
    };
    read(arguments.clone()).map_err(|error| {
        let alone = |(name, value): (&String, &Value)| JsonObject::from_iter([(name.clone(), value.clone())]);
        let wrong = arguments.iter().find(|pair| read(alone(*pair)).err().as_ref() == Some(&error));
        let named = wrong.map(|(name, _)| format!("{name}: ")).filter(|_| !error.starts_with("unknown field"));
        ToolError::new("invalid_arguments", format!("{}{error}", named.unwrap_or_default()))
            .next("correct the arguments and call again")
    })
}

/// The same, closed, and without what only costs room: the dialect, the title, formats such as `uint64` that validators do
/// not know, and defaults of what may be absent.
fn plain(schema: &Arc<JsonObject>) -> Arc<JsonObject> {
    let mut schema = JsonObject::clone(schema);
    for name in ["$schema", "title", "description"] {
        schema.remove(name);
    }
    schema.entry("properties").or_insert_with(|| json!({}));
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
                "default" => !(value.is_null() || *value == json!(false) || *value == json!([]) || *value == json!(0)),
                _ => true,
            });
            if let Some(Value::String(told)) = fields.get_mut("description") {
                // The backticks are for Rust.
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

pub(super) fn tier(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": Tier::ALL.map(Tier::as_str) })
}
