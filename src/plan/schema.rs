//! The JSON Schema of a plan, made of the types and comments of [`Plan`] and [`Settings`]. Editors use it to complete
//! and explain keys and to underline mistakes. The parser refuses keys that are not in it.
//!
//! The schema accepts all that the parser accepts. Only the parser finds some mistakes, such as a duration that is too
//! long or a name that two waves have.

use std::sync::LazyLock;

use miette::MietteDiagnostic;
use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::Value;

use super::{Plan, Settings};
use crate::text::nearest;

pub(super) static SCHEMA: LazyLock<Value> = LazyLock::new(generate);

/// The kinds of tables in a plan, which have different keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Top,
    Defaults,
    Wave,
}

/// Returns the JSON Schema of a plan (draft 7, which all editors support), ending with a newline.
pub fn schema() -> String {
    format!("{:#}\n", *SCHEMA)
}

fn generate() -> Value {
    let draft = SchemaSettings::draft07().with(|draft| draft.inline_subschemas = true);
    let mut generator = draft.with_transform(RecursiveTransform(simplify)).into_generator();
    let mut defaults = generator.root_schema_for::<Settings>();
    let mut plan = generator.into_root_schema_for::<Plan>();
    defaults.remove("$schema");
    defaults.remove("title");
    // What all waves start from is written at the top, and is in the waves of a plan.
    if let Some(Value::Object(properties)) = plan.get_mut("properties") {
        let action = defaults.pointer("/properties/action").cloned().unwrap_or_default();
        properties.insert("action".to_owned(), action);
        properties.insert("defaults".to_owned(), defaults.to_value());
    }
    plan.to_value()
}

/// Joins the lines of a comment to one, and removes what TOML does not have: null, and formats of numbers.
fn simplify(schema: &mut Schema) {
    schema.remove("format");
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    if let Some(Value::Array(types)) = schema.get("type") {
        let written = types.first().cloned().unwrap_or_default();
        schema.insert("type".to_owned(), written);
    }
}

impl Table {
    /// Returns the keys of this table, sorted.
    pub(super) fn keys(self) -> impl Iterator<Item = &'static str> {
        let properties = match self {
            Self::Top => "/properties",
            Self::Defaults => "/properties/defaults/properties",
            Self::Wave => "/properties/wave/items/properties",
        };
        let properties = SCHEMA.pointer(properties).and_then(Value::as_object);
        properties.into_iter().flat_map(|properties| properties.keys()).map(String::as_str)
    }

    pub(super) fn has(self, key: &str) -> bool {
        self.keys().any(|known| known == key)
    }

    /// The label for a key in this table.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Top => "at the top of the file",
            Self::Defaults => "in [defaults]",
            Self::Wave => "in this wave",
        }
    }

    /// Creates the error for an unknown key: names the right table, or a similar key.
    pub(super) fn refuse(self, key: &str) -> MietteDiagnostic {
        let unknown = MietteDiagnostic::new(format!("unknown key `{key}`"));
        // This table comes first: `nearest` returns the first of equally similar keys.
        let known = [self, Self::Top, Self::Wave].into_iter().flat_map(Self::keys);
        let Some(near) = nearest(key, known) else {
            let keys: Vec<_> = self.keys().collect();
            return unknown.with_help(format!("the keys here are {}", keys.join(", ")));
        };
        match home(near) {
            Some(home) if near == key => {
                MietteDiagnostic::new(format!("`{key}` does not belong here")).with_help(format!("it belongs {home}"))
            }
            Some(home) if !self.has(near) => unknown.with_help(format!("did you mean `{near}`? It belongs {home}")),
            _ => unknown.with_help(format!("did you mean `{near}`?")),
        }
    }
}

/// Returns the right table of a key, if the key exists.
fn home(key: &str) -> Option<&'static str> {
    if Table::Defaults.has(key) {
        Some("in [defaults], for every wave, or in the [[wave]] that it is for")
    } else if Table::Wave.has(key) {
        Some("in a [[wave]]")
    } else {
        Table::Top.has(key).then_some("at the top of the file, before [defaults] and the first [[wave]]")
    }
}
