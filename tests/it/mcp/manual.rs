//! Tests that the commands of `docs/mcp.md` start a server.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use homelab_deploy::protocol::HostName;
use serde_json::{Value, json};
use tokio::process::Command;

use super::client::{Assistant, ERAS};
use crate::apply::stage;
use crate::support::keys::Key;
use crate::support::lab::Lab;

/// The variables that some clients pass on.
const ENVIRONMENT: [(&str, &str); 4] = [("LOGNAME", "you"), ("SHELL", "/bin/sh"), ("TERM", "dumb"), ("USER", "you")];

/// Returns the blocks of JSON in the manual.
fn blocks() -> Vec<Value> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/mcp.md")).unwrap();
    let blocks = text.split("```json\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    blocks.map(|block| serde_json::from_str(block).unwrap_or_else(|error| panic!("{error} in\n{block}"))).collect()
}

/// Returns the only server in a block, under any client's name for its servers.
fn server(block: &Value) -> &Value {
    let servers = ["mcpServers", "servers", "context_servers"].iter().find_map(|name| block.get(name));
    &servers.unwrap_or_else(|| panic!("no client knows {block:#}"))["homelab-deploy"]
}

/// Returns the command that a client would start, with this lab's paths in place of the manual's.
fn command(lab: &Lab, server: &Value) -> Command {
    assert_eq!(server["command"], "homelab-deploy");
    let home = lab.home();
    let here = |text: &str| {
        text.replace("/home/you", home.to_str().unwrap()).replace("nats://nats.example.com:4222", lab.server.url())
    };
    let mut command = Command::new(crate::program());
    command.args(server["args"].as_array().unwrap().iter().map(|argument| here(argument.as_str().unwrap())));
    command.env_clear().envs(ENVIRONMENT).env("HOME", &home).env("PATH", std::env::var_os("PATH").unwrap());
    // Clients start the program in any folder.
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

/// Copies the keys to the paths in the manual.
fn move_in(lab: &Lab) {
    let folder = lab.home().join(".config/homelab-deploy");
    fs::create_dir_all(folder.join("plans")).unwrap();
    let copy = |key: &Key, name: &str| fs::copy(key.seed_file(), folder.join(name)).unwrap();
    copy(&lab.test_deployer, "assistant.seed");
    copy(&lab.admin, "admin.seed");
}

#[tokio::test]
async fn what_the_manual_tells_clients_to_start_does_start() {
    let lab = stage::lab(&["test.test1"]).await;
    move_in(&lab);
    let blocks = blocks();
    assert!(blocks.len() >= 6, "the manual has lost its recipes");
    for (block, era) in blocks.iter().zip(ERAS.into_iter().cycle()) {
        let server = server(block);
        let assistant = Assistant::spawn(&mut command(&lab, server), era).await;
        let hosts = assistant.ask("list_hosts", json!({})).await;
        let host: HostName = serde_json::from_value(hosts["hosts"][0]["hostname"].clone()).unwrap();
        assert_eq!(host, crate::host("test1"));
        let tools: Vec<String> = assistant.tools().await.iter().map(|tool| tool.name.to_string()).collect();
        let has = |name: &str| server["args"].as_array().unwrap().contains(&json!(name));
        assert_eq!(tools.contains(&"deploy_admin".to_owned()), has("--enable-admin"), "{tools:?}");
        assert_eq!(tools.contains(&"deploy".to_owned()), !has("--read-only"), "{tools:?}");
    }
}
