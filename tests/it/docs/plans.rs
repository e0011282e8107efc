//! Tests that the reference of plans matches the schema.

use std::fmt::Write;
use std::process::Command;

use serde_json::{Map, Value};

const PAGE: &str = include_str!("../../../docs/plans.md");

/// The tables of the page, and the places of their keys in the schema.
const TABLES: [(&str, &str); 3] = [
    ("top", "/properties"),
    ("wave", "/properties/wave/items/properties"),
    ("defaults", "/properties/defaults/properties"),
];

#[test]
fn the_reference_of_plans_is_made_of_the_schema() {
    let schema = Command::new(crate::program()).args(["plan", "--schema"]).output().unwrap().stdout;
    let schema: Value = serde_json::from_slice(&schema).unwrap();
    let keys = |pointer: &str| schema.pointer(pointer).unwrap().as_object().unwrap().clone();
    let shared = keys(TABLES[2].1);
    for (name, pointer) in TABLES {
        // Keys that a wave shares with the defaults are in the table of the defaults.
        let is_in_table = |key: &str| name == "defaults" || !shared.contains_key(key);
        let expected = table(&keys(pointer), is_in_table);
        let begin = format!("<!-- {name} -->\n");
        let (_, found) = PAGE.split_once(&begin).unwrap_or_else(|| panic!("{begin} is not on the page"));
        let found = found.split("\n\n").next().unwrap();
        assert_eq!(
            found.trim_end(),
            expected.trim_end(),
            "docs/plans.md, below {begin}: replace the table by\n{expected}"
        );
    }
}

fn table(keys: &Map<String, Value>, is_in_table: impl Fn(&str) -> bool) -> String {
    let mut table = "| key | takes | default | |\n| --- | --- | --- | --- |\n".to_owned();
    for (key, property) in keys.iter().filter(|(key, _)| is_in_table(key)) {
        let default = property.get("default").map(|default| format!("`{default}`")).unwrap_or_default();
        let meaning = property["description"].as_str().unwrap().replace('<', "&lt;").replace('|', "\\|");
        writeln!(table, "| `{key}` | {} | {default} | {meaning} |", takes(property)).unwrap();
    }
    table
}

/// Describes the values of a key.
fn takes(property: &Value) -> String {
    if let Some(values) = property["enum"].as_array() {
        return values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    }
    if let Some(either) = property["anyOf"].as_array() {
        return either.iter().map(takes).collect::<Vec<_>>().join(", or ");
    }
    let pattern = |value: &Value| value["pattern"].as_str().unwrap_or_default().to_owned();
    let patterns = property["allOf"].as_array().map(|all| all.iter().map(pattern).collect::<String>());
    let pattern = patterns.unwrap_or_else(|| pattern(property));
    match property["type"].as_str() {
        Some("boolean") => "`true` or `false`".to_owned(),
        Some("integer") => match (property["minimum"].as_u64(), property["maximum"].as_u64()) {
            (Some(least @ 1..), None) => format!("number from {least}"),
            (least, Some(most)) => format!("number from {} to {most}", least.unwrap_or_default()),
            (Some(0) | None, None) => "number".to_owned(),
        },
        Some("array") if property["items"].is_object() && property["items"]["properties"].is_object() => {
            "tables".to_owned()
        }
        Some("array") => "list of texts".to_owned(),
        Some("object") => "table".to_owned(),
        _ if pattern.contains("hrs") => "duration".to_owned(),
        _ if pattern.contains('%') => "share".to_owned(),
        _ => "text".to_owned(),
    }
}
