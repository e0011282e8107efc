//! What a tool answers when it did what was asked: the same as data and as text, since clients show a model one of both.

use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock, JsonObject};
use serde_json::Value;

use super::error::ToolError;

/// The longest result, in bytes of JSON. The message around it has less than 500.
const MAX_BYTES: usize = 19_500;

/// The members that stand first in the text.
const FIRST: [&str; 3] = ["state", "summary", "next"];

/// A result: an object without members that are null.
#[derive(Debug, Clone)]
pub(super) struct ToolAnswer(Value);

impl ToolAnswer {
    pub(super) fn of(mut data: Value) -> Self {
        remove_empty(&mut data);
        Self(data)
    }

    /// A result with a list that is cut until the whole is small enough. `more` counts what is left out.
    pub(super) fn fitting(data: Value, list: &str) -> Self {
        let mut answer = Self::of(data);
        let mut more = answer.0.get("more").and_then(Value::as_u64).unwrap_or_default();
        while answer.bytes() > MAX_BYTES
            && answer.0.get_mut(list).and_then(Value::as_array_mut).is_some_and(|items| items.pop().is_some())
        {
            more += 1;
            if let Some(counted) = answer.0.get_mut("more") {
                *counted = more.into();
            }
        }
        answer
    }

    pub(super) fn into_response(self) -> CallToolResponse {
        let bytes = self.bytes();
        if bytes > MAX_BYTES {
            let error = ToolError::new("too_large", format!("the result has {bytes} bytes, more than clients take"));
            return error.next("what was asked for was done; ask for less, such as one host").into_response();
        }
        self.result().into()
    }

    fn bytes(&self) -> usize {
        serde_json::to_vec(&self.result()).map_or(0, |json| json.len())
    }

    fn result(&self) -> CallToolResult {
        let mut result = CallToolResult::structured(self.0.clone());
        result.content = vec![ContentBlock::text(text(&self.0))];
        result
    }
}

/// Takes out what is null, and lists without items below the lists of the result.
fn remove_empty(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(remove_empty);
            members.retain(|_, member| !member.is_null());
        }
        Value::Array(items) => {
            for item in items {
                remove_empty(item);
                if let Value::Object(members) = item {
                    members.retain(|_, member| member.as_array().is_none_or(|list| !list.is_empty()));
                }
            }
        }
        _ => {}
    }
}

/// The data as text that can be read aloud.
fn text(value: &Value) -> String {
    match value {
        Value::Object(fields) => members(fields, &FIRST, "").trim_end().to_owned(),
        _ => value.to_string(),
    }
}

fn members(fields: &JsonObject, first: &[&str], indent: &str) -> String {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(name, _)| first.iter().position(|first| first == name).unwrap_or(first.len()));
    fields.into_iter().map(|(name, value)| member(name, value, indent)).collect()
}

/// A member in a line of its own, with what it has below it.
fn member(name: &str, value: &Value, indent: &str) -> String {
    let deeper = format!("{indent}  ");
    let line = |line| format!("{deeper}{line}\n");
    let below: String = match value {
        Value::String(text) if text.contains('\n') => text.lines().map(line).collect(),
        Value::Array(items) if !items.is_empty() => items.iter().map(|value| item(value, &deeper)).collect(),
        Value::Object(fields) => members(fields, &[], &deeper),
        Value::Array(_) => return format!("{indent}{name}: none\n"),
        Value::String(line) => return format!("{indent}{name}: {line}\n"),
        other => return format!("{indent}{name}: {other}\n"),
    };
    format!("{indent}{name}: \n{below}")
}

/// An item of a list, its first line behind a dash.
fn item(value: &Value, indent: &str) -> String {
    let deeper = format!("{indent}  ");
    let mut text = match value {
        Value::Object(fields) => members(fields, &["hostname", "name"], &deeper),
        Value::String(line) => format!("{deeper}{line}\n"),
        other => format!("{deeper}{other}\n"),
    };
    text.replace_range(indent.len()..=indent.len(), "-");
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_text_has_everything_that_the_data_has() {
        let value = json!({
            "commit": "8c1f0e2", "hosts": [{ "error": "build_failed", "hostname": "ns1", "log": "one\ntwo" }, { "hostname": "ns2" }],
            "more": 0, "state": "failed", "summary": "it failed", "warnings": ["a", "b"],
        });
        insta::assert_snapshot!(text(&value), @"
        state: failed
        summary: it failed
        commit: 8c1f0e2
        hosts: 
          - hostname: ns1
            error: build_failed
            log: 
              one
              two
          - hostname: ns2
        more: 0
        warnings: 
          - a
          - b
        ");
    }

    #[test]
    fn a_list_is_cut_until_the_whole_fits() {
        let list: Vec<String> = (0..500).map(|number| format!("{number:0>100}")).collect();
        let answer = ToolAnswer::fitting(json!({ "list": list, "more": 3, "none": null }), "list");
        assert!(answer.bytes() <= MAX_BYTES && answer.bytes() > MAX_BYTES - 1_000, "{}", answer.bytes());
        let listed = answer.0["list"].as_array().unwrap().len();
        assert_eq!(answer.0["more"], 503 - listed);
        assert_eq!(answer.0.as_object().unwrap().keys().collect::<Vec<_>>(), ["list", "more"]);
    }
}
