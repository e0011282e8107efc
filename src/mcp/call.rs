//! Passes a call through the server: its arguments with their schemas, and its progress.
//!
//! The schemas are flat: some clients drop a tool, or the whole session, when a root has alternatives or a type may be null.
//! An optional property may be absent. Results have no schema: their text has all of their data.

use std::any::Any;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use rmcp::RoleServer;
use rmcp::handler::server::tool::schema_for_type;
use rmcp::model::{CallToolRequestParams, JsonObject, ProgressNotificationParam, ProgressToken};
use rmcp::schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use rmcp::service::RequestContext;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::ToolError;
use super::audit::AuditEntry;
use crate::protocol::Tier;

#[derive(Clone, Copy)]
pub(super) struct ToolCall<'a> {
    pub(super) request: &'a CallToolRequestParams,
    pub(super) arguments: &'a JsonObject,
    pub(super) context: &'a RequestContext<RoleServer>,
    pub(super) audit: &'a AuditEntry<'a>,
}

/// Progress notifications, for a client that asked for them.
pub(super) struct Progress<'a> {
    context: &'a RequestContext<RoleServer>,
    token: ProgressToken,
    /// The longest silence.
    pub(super) every: Duration,
    said_at: Instant,
    /// The last progress value. The protocol wants it to grow with each message, even while nothing happens.
    reached: f64,
}

impl<'a> Progress<'a> {
    /// Returns `None` for a client that did not ask for progress.
    pub(super) fn towards(context: &'a RequestContext<RoleServer>, every: Duration) -> Option<Self> {
        let token = context.meta.get_progress_token()?;
        Some(Self { context, token, every, said_at: Instant::now(), reached: 0.0 })
    }

    /// Whether the longest silence is over.
    pub(super) fn is_due(&self) -> bool {
        self.said_at.elapsed() >= self.every
    }

    /// Sends a message with the number of finished hosts.
    pub(super) async fn say(&mut self, message: String, done: usize, total: usize) {
        let count = |hosts| f64::from(u32::try_from(hosts).unwrap_or(u32::MAX));
        self.said_at = Instant::now();
        self.reached = count(done).max(self.reached + 0.001);
        let progress = ProgressNotificationParam::new(self.token.clone(), self.reached);
        let progress = progress.with_total(count(total).max(self.reached)).with_message(message);
        // The transport notices when the client is gone.
        self.context.peer.notify_progress(progress).await.ok();
    }
}

/// Returns the schema of a tool's arguments, without members that only cost room. Its description is that of the tool.
pub(super) fn input<T: JsonSchema + Any>() -> JsonObject {
    let mut schema = JsonObject::clone(&schema_for_type::<T>());
    schema.retain(|name, _| !["$schema", "title"].contains(&name.as_str()));
    schema.entry("properties").or_insert_with(|| json!({}));
    close(&mut schema);
    schema
}

/// Returns the schema of a tool that takes the arguments of another one, without this required field.
pub(super) fn input_without<T: JsonSchema + Any>(field: &str, description: &str) -> JsonObject {
    let mut schema = input::<T>();
    schema.insert("description".to_owned(), description.into());
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.remove(field);
    }
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|name| name != field);
    }
    schema.retain(|_, member| *member != json!([]));
    schema
}

/// Reads the arguments of such a tool. The field has this value.
pub(super) fn arguments_with<T: DeserializeOwned>(
    given: &JsonObject,
    field: &'static str,
    value: &str,
) -> Result<T, ToolError> {
    let mut given = given.clone();
    match given.insert(field.to_owned(), value.into()) {
        None => arguments(&given),
        Some(_) => Err(ToolError::new("invalid_arguments", format!("unknown field `{field}`"))
            .next("leave it out, or call the tool that takes it, where this server offers that")),
    }
}

/// Reads the arguments of a tool. The error names the wrong one, so that an assistant can correct it.
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

/// Refuses other properties than the named ones in every object. Removes formats that validators do not know, such as
/// `uint64`, and defaults that are false, zero or empty.
fn close(fields: &mut JsonObject) {
    fields.retain(|key, value| match key.as_str() {
        "format" | "minimum" => value.is_object(),
        "default" => ![Value::Null, json!(false), json!([]), json!(0)].contains(value),
        _ => true,
    });
    if let Some(Value::String(text)) = fields.get_mut("description") {
        // Backticks and ends of lines are for Rust.
        *text = text.replace('`', "").replace('\n', " ");
    }
    if fields.get("properties").is_some_and(Value::is_object) {
        fields.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    fields.values_mut().filter_map(Value::as_object_mut).for_each(close);
}

pub(super) fn tier(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": Tier::ALL.map(Tier::as_str) })
}

/// Reads a value with `FromStr`, whose error names only the values that a person may ask for.
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
