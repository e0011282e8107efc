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

/// The schema of a tool's arguments, closed, and without what only costs room.
pub(super) fn input<T: JsonSchema + Any>() -> Arc<JsonObject> {
    let schema = schema_for_input::<T>().expect("the arguments of every tool are a struct");
    let mut schema = JsonObject::clone(&schema);
    schema.retain(|name, _| !["$schema", "title", "description"].contains(&name.as_str()));
    schema.entry("properties").or_insert_with(|| json!({}));
    close(&mut schema);
    Arc::new(schema)
}

/// The same without the only one that is required.
pub(super) fn input_without<T: JsonSchema + Any>(name: &str) -> Arc<JsonObject> {
    let mut schema = JsonObject::clone(&input::<T>());
    schema.remove("required");
    schema.get_mut("properties").and_then(|properties| properties.as_object_mut()?.remove(name));
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

/// Every object has the properties that it names and no others. Formats such as `uint64` are what validators do not know,
/// and defaults are said only where they are not what leaving a property out suggests.
fn close(fields: &mut JsonObject) {
    fields.retain(|key, value| match key.as_str() {
        "format" | "minimum" => value.is_object(),
        "default" => ![Value::Null, json!(false), json!([]), json!(0)].contains(value),
        _ => true,
    });
    if let Some(Value::String(told)) = fields.get_mut("description") {
        // The backticks are for Rust.
        *told = told.replace('`', "");
    }
    if fields.get("properties").is_some_and(Value::is_object) {
        fields.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    fields.values_mut().filter_map(Value::as_object_mut).for_each(close);
}

pub(super) fn tier(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": Tier::ALL.map(Tier::as_str) })
}
