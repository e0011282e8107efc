//! What arguments look like, for programs.
//!
//! The schemas are flat: some clients drop a tool, or the whole session, when a root is a choice or a type may be null. An
//! optional property is one that may be absent. Results have no schema: their text says all that their data says.

use std::any::Any;
use std::fmt::Display;
use std::str::FromStr;

use rmcp::handler::server::tool::schema_for_type;
use rmcp::model::JsonObject;
use rmcp::schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::answer::ToolError;
use crate::protocol::Tier;

/// The schema of a tool's arguments, closed, and without what only costs room. Its description is that of the tool.
pub(super) fn input<T: JsonSchema + Any>() -> JsonObject {
    let mut schema = JsonObject::clone(&schema_for_type::<T>());
    schema.retain(|name, _| !["$schema", "title"].contains(&name.as_str()));
    schema.entry("properties").or_insert_with(|| json!({}));
    close(&mut schema);
    schema
}

/// Reads the arguments of a tool. The error says which of them is wrong, so that an assistant can correct it.
pub(super) fn arguments<T: DeserializeOwned>(arguments: &JsonObject) -> Result<T, ToolError> {
    let read = |arguments: JsonObject| {
        serde_json::from_value::<T>(Value::Object(arguments)).map_err(|error| error.to_string())
    };
    read(arguments.clone()).map_err(|error| {
        let alone = |(name, value): (&String, &Value)| JsonObject::from_iter([(name.clone(), value.clone())]);
        let wrong = arguments.iter().find(|pair| read(alone(*pair)).err().as_ref() == Some(&error));
        // These errors name the field themselves.
        let is_named = error.starts_with("unknown field") || error.starts_with("missing field");
        let named = wrong.map(|(name, _)| format!("{name}: ")).filter(|_| !is_named);
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
        // Backticks and ends of lines are for Rust.
        *told = told.replace('`', "").replace('\n', " ");
    }
    if fields.get("properties").is_some_and(Value::is_object) {
        fields.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    fields.values_mut().filter_map(Value::as_object_mut).for_each(close);
}

pub(super) fn tier(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": Tier::ALL.map(Tier::as_str) })
}

/// Reads a value in the words of its type: serde's would name what no person may ask for.
pub(super) fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use rmcp::schemars;

    use super::*;
    use crate::protocol::Action;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        /// The name.
        #[expect(dead_code, reason = "it is read to be refused")]
        name: String,
        /// The hash.
        #[expect(dead_code, reason = "it is read to be refused")]
        hash: u8,
        /// The action.
        #[serde(default, deserialize_with = "parsed")]
        #[schemars(with = "String")]
        #[expect(dead_code, reason = "it is read to be refused")]
        action: Action,
    }

    #[test]
    fn an_error_names_the_argument_that_is_wrong() {
        let refused = |value: Value| arguments::<Arguments>(value.as_object().unwrap()).unwrap_err().what;
        assert_eq!(refused(json!({"name": "x"})), "missing field `hash`");
        assert_eq!(refused(json!({"name": 1, "hash": 1})), "name: invalid type: integer `1`, expected a string");
        assert_eq!(
            refused(json!({"name": "x", "hash": 1, "has": 1})),
            "unknown field `has`, expected one of `name`, `hash`, `action`"
        );
        for action in ["reboot", "fetch"] {
            let told =
                format!("action: {action:?} is not an action: the actions are switch, boot, test and dry-activate");
            assert_eq!(refused(json!({"name": "x", "hash": 1, "action": action})), told);
        }
    }
}
