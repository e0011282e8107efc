//! Tests that the documentation matches the program.

mod commands;
mod plans;

use homelab_deploy::protocol::{DiscoveryAnswer, DiscoveryRequest, LogAnswer, LogRequest, Request, Response};
use serde_json::Value;

const PAGE: &str = include_str!("../../docs/protocol.md");

/// Returns the examples of one kind: the word after `json` at a fence says which kind it is.
fn examples(kind: &str) -> Vec<Value> {
    let fence = format!("```json {kind}\n");
    let blocks = PAGE.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap());
    let examples: Vec<Value> = blocks.map(|block| serde_json::from_str(block).unwrap()).collect();
    assert!(!examples.is_empty(), "the page shows no {kind}");
    examples
}

/// Asserts that each example is the same when it is read and written again: no field is unknown, misspelt or lost.
fn assert_read(kind: &str, read: impl Fn(&[u8]) -> Vec<u8>) {
    for example in examples(kind) {
        let again: Value = serde_json::from_slice(&read(example.to_string().as_bytes())).unwrap();
        assert_eq!(again, example, "{kind}");
    }
}

#[test]
fn the_examples_of_the_protocol_are_read_as_they_are_meant() {
    assert_read("request", |bytes| Request::parse(bytes).unwrap().to_bytes());
    assert_read("response", |bytes| Response::parse(bytes).unwrap().to_bytes(usize::MAX));
    assert_read("question", |bytes| serde_json::from_slice::<DiscoveryRequest>(bytes).unwrap().to_bytes());
    assert_read("answer", |bytes| DiscoveryAnswer::parse(bytes).unwrap().to_bytes());
    assert_read("log", |bytes| LogRequest::parse(bytes).unwrap().to_bytes());
    assert_read("page", |bytes| LogAnswer::parse(bytes).unwrap().to_bytes());
    let fences = PAGE.matches("```json").count();
    let kinds = ["request", "response", "question", "answer", "log", "page"];
    assert_eq!(kinds.map(|kind| examples(kind).len()).iter().sum::<usize>(), fences, "an example of another kind");
}

#[test]
fn the_page_names_every_problem_that_a_listener_tells() {
    let source = include_str!("../../src/listener/service/discovery.rs");
    let codes = source.lines().filter_map(|line| line.trim().strip_prefix("Self::")?.split('"').nth(1));
    let codes: Vec<&str> = codes.collect();
    assert!(codes.len() >= 8, "{codes:?}");
    for code in codes {
        assert!(PAGE.contains(&format!("`{code}`")), "{code}");
    }
}
