//! What a tool answers when it did what was asked: the same as data and as text, since clients show a model one of both.

use std::fmt::Write;

use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock};
use serde_json::Value;

use super::error::ToolError;

/// The longest result, in bytes of JSON. The message around it has less than 500.
const MAX_BYTES: usize = 19_500;

/// The members that stand first in the text.
const FIRST: [&str; 3] = ["state", "summary", "next"];

/// A result: an object without members that are null.
#[derive(Debug, Clone)]
pub(super) struct Answer(Value);

impl Answer {
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
    let Value::Object(members) = value else { return value.to_string() };
    let mut text = String::new();
    let first = FIRST.iter().filter_map(|name| members.get_key_value(*name));
    let rest = members.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()));
    for (name, member) in first.chain(rest) {
        write_member(name, member, "", &mut text);
    }
    text.truncate(text.trim_end().len());
    text
}

fn write_member(name: &str, value: &Value, indent: &str, text: &mut String) {
    let deeper = format!("{indent}  ");
    let put = |text: &mut String, value: &str| {
        writeln!(text, "{indent}{name}: {value}").expect("writing to memory cannot fail");
    };
    match value {
        Value::String(line) if !line.contains('\n') => put(text, line),
        Value::String(lines) => {
            put(text, "");
            lines.lines().for_each(|line| writeln!(text, "{deeper}{line}").expect("writing to memory cannot fail"));
        }
        Value::Array(items) if items.is_empty() => put(text, "none"),
        Value::Array(items) => {
            put(text, "");
            for item in items {
                write_item(item, &deeper, text);
            }
        }
        Value::Object(members) => {
            put(text, "");
            members.iter().for_each(|(name, member)| write_member(name, member, &deeper, text));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => put(text, &value.to_string()),
    }
}

/// An item of a list, its first line behind a dash.
fn write_item(item: &Value, indent: &str, text: &mut String) {
    let begin = text.len();
    match item {
        Value::Object(members) => {
            let deeper = format!("{indent}  ");
            let first = members.get_key_value("hostname").or_else(|| members.get_key_value("name"));
            let rest = members.iter().filter(|(name, _)| first.is_none_or(|(first, _)| first != *name));
            first.into_iter().chain(rest).for_each(|(name, member)| write_member(name, member, &deeper, text));
        }
        Value::String(line) => writeln!(text, "{indent}  {line}").expect("writing to memory cannot fail"),
        other => writeln!(text, "{indent}  {other}").expect("writing to memory cannot fail"),
    }
    let dash = begin + indent.len();
    text.replace_range(dash..=dash, "-");
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
        let answer = Answer::fitting(json!({ "list": list, "more": 3, "none": null }), "list");
        assert!(answer.bytes() <= MAX_BYTES && answer.bytes() > MAX_BYTES - 1_000, "{}", answer.bytes());
        let listed = answer.0["list"].as_array().unwrap().len();
        assert_eq!(answer.0["more"], 503 - listed);
        assert_eq!(answer.0.as_object().unwrap().keys().collect::<Vec<_>>(), ["list", "more"]);
    }
}
