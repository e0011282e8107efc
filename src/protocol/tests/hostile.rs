//! Tests that hostile text cannot pass through a message: control sequences, invisible characters and characters that
//! change how other text looks are tried in each text of each message.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::protocol::{DiscoveryAnswer, DiscoveryRequest, Request, Response};
use crate::text::is_invisible;

const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";

/// Returns every message, with all of its fields.
fn messages() -> Vec<Value> {
    let at = "2026-11-23T10:00:00Z";
    let holder = json!({ "id": "r-1", "operator": "ops@desk", "since": at });
    vec![
        json!({
            "action": "switch", "revision": "main", "reply_to": "deploy.responses.x", "id": "r-1", "expires_at": at,
            "operator": "ops@desk", "rollout": "sunday", "wave": "dns", "confirm_timeout_s": 5, "returns": "r-0",
            "system": "/nix/store/0c1yv9bqqmbw3c3n5g7lq6b4rd5hfk2z-nixos-system-ns1",
        }),
        json!({
            "hostname": "ns1", "status": "rejected", "error": "build_failed", "message": "one\ntwo", "id": "r-1", "at": at,
            "phase": "build", "revision": COMMIT, "previous_revision": COMMIT, "generation": 42, "system": "/nix/store/x",
            "failed_units": ["x.service"], "log_tail": ["error: it is so"], "holder": holder,
        }),
        json!({ "reply_to": "deploy.responses.x", "tier": "prod" }),
        json!({
            "hostname": "ns1", "tier": "prod", "role": "dns", "deploy_subjects": ["deploy.prod.ns1"], "version": "0.1.0",
            "features": ["id", "other"], "flake": "git+https://h/x", "machine": "6f1c", "revision": COMMIT,
            "system": "/nix/store/x", "busy": holder,
            "last": { "id": "r-0", "status": "failed", "error": "build_failed", "at": at },
        }),
        json!({ "rollout": {
            "id": "00000000-0000-0000-0000-000000000000", "name": "sunday", "operator": "ops@desk", "tiers": ["prod"],
            "wave": 1, "waves": 2, "since": at,
        } }),
    ]
}

/// Returns what each parser reads from a message, or its error. Neither may be dirty.
fn read(message: &Value) -> Vec<String> {
    let bytes = message.to_string().into_bytes();
    let mut said = Vec::new();
    let mut take = |read: Result<Vec<u8>, String>| match read {
        Ok(json) => leaves(&serde_json::from_slice(&json).unwrap(), &mut |text| said.push(text.to_owned())),
        Err(error) => said.push(error),
    };
    take(Request::parse(&bytes).map(|request| request.to_bytes()).map_err(|error| error.to_string()));
    take(Response::parse(&bytes).map(|response| response.to_bytes(usize::MAX)).map_err(|error| error.to_string()));
    take(DiscoveryAnswer::parse(&bytes).map(|answer| answer.to_bytes()).map_err(|error| error.to_string()));
    take(DiscoveryRequest::parse(&bytes).map(|question| question.to_bytes()).map_err(|error| error.to_string()));
    said
}

fn leaves(value: &Value, each: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => each(text),
        Value::Array(members) => members.iter().for_each(|member| leaves(member, each)),
        Value::Object(members) => members.values().for_each(|member| leaves(member, each)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Returns the text at this place among all texts of a message, if there is one.
fn leaf<'a>(value: &'a mut Value, place: &mut usize) -> Option<&'a mut Value> {
    match value {
        Value::String(_) if *place == 0 => Some(value),
        Value::String(_) => {
            *place -= 1;
            None
        }
        Value::Array(members) => members.iter_mut().find_map(|member| leaf(member, place)),
        Value::Object(members) => members.values_mut().find_map(|member| leaf(member, place)),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// Whether a text is clean. Only the message of a response has several lines.
fn is_clean(text: &str) -> bool {
    text.lines().all(|line| !line.chars().any(|c| c.is_control() || is_invisible(c))) && text.len() <= 64 * 1024
}

/// Puts a hostile text before or after each text of each message in turn, and returns what came through dirty.
fn come_through_dirty(hostile: &str) -> Vec<(String, String)> {
    let mut dirty = Vec::new();
    for message in messages() {
        for place in 0.. {
            let (mut changed, mut left) = (message.clone(), place);
            let Some(text) = leaf(&mut changed, &mut left) else { break };
            let was = text.as_str().unwrap().to_owned();
            *text = json!(if place % 2 == 0 { format!("{hostile}{was}") } else { format!("{was}{hostile}") });
            let said = read(&changed).into_iter().filter(|said| !is_clean(said));
            dirty.extend(said.map(|said| (was.clone(), said)));
        }
    }
    dirty
}

#[test]
fn no_text_of_a_message_is_longer_than_it_may_be() {
    assert_eq!(come_through_dirty(&"\u{202e}x".repeat(100_000)), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_text_of_a_message_comes_through_dirty(
        hostile in "(\\x1b\\[31m|\\x1b\\]0;x\\x07|\\u{9b}2J|\\u{85}|\\x00|\\x08|\\r|\\u{202e}|\\u{2066}|\\u{200b}|\\u{feff}|\\u{ad}|\\u{e0041}|a|ö| ){1,6}"
    ) {
        prop_assert_eq!(come_through_dirty(&hostile), []);
    }
}
