//! Tests third-party clients: the official SDKs for Python and TypeScript, in both eras of the protocol.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::apply::stage::{self, ran_sorted};
use crate::support::lab::Lab;
use crate::support::skip::skip;
use crate::support::wait;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The protocol version that each mode of both clients negotiates.
const MODES: [(&str, &str); 2] = [("legacy", "2025-11-25"), ("auto", "2026-07-28")];

/// Returns a file that `scripts/mcp-client` made, if it was called. This test fetches nothing.
fn made(file: &str) -> Option<PathBuf> {
    let file = Path::new(ROOT).join("target/mcp-client").join(file);
    file.exists().then_some(file)
}

#[tokio::test]
async fn a_client_in_python_finds_its_way_in_both_eras() {
    let Some(python) = made("bin/python") else {
        return skip("there is no Python with the package `mcp`; scripts/mcp-client makes one");
    };
    for (mode, version) in MODES {
        let script = Path::new(ROOT).join("tests/it/mcp/client.py");
        finds_its_way(&python, &[script.as_os_str(), mode.as_ref()], version).await;
    }
}

#[tokio::test]
async fn a_client_in_typescript_finds_its_way_in_both_eras() {
    let Some(folder) = made("node_modules") else {
        return skip("there is no TypeScript SDK; scripts/mcp-client fetches it where npm is at hand");
    };
    for (mode, version) in MODES {
        let script = Path::new(ROOT).join("tests/it/mcp/client.mjs");
        finds_its_way(Path::new("node"), &[script.as_os_str(), folder.as_os_str(), mode.as_ref()], version).await;
    }
}

/// Adds the flags of a server to the command of a client.
fn server(lab: &Lab, client: &mut Command) {
    let [test, admin, home] = [lab.test_deployer.seed_file(), lab.admin.seed_file(), &lab.home()].map(Path::to_owned);
    client.arg(crate::program());
    client.args(["mcp", "--enable-admin", "--discover-window", "500ms", "--nats-url", lab.server.url()]);
    client.arg("--nkey-file").arg(test).arg("--admin-nkey-file").arg(admin);
    client.args(["--flake", &lab.flake.url()]);
    client.arg("--plans-dir").arg(home.join("plans")).arg("--state-dir").arg(home.join("state"));
}

async fn finds_its_way(program: &Path, arguments: &[&OsStr], version: &str) {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    stage::write_plan(&lab, "revision = 'main'\n[[wave]]\ntargets = 'test.all'\n[[wave]]\ntargets = 'prod.all'\n");
    let mut client = Command::new(program);
    server(&lab, client.args(arguments).stdin(Stdio::null()).kill_on_drop(true));
    let output = wait::event("the client has asked everything", client.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();

    assert_eq!(said["version"], version);
    assert!(said["tools"].as_array().unwrap().contains(&json!("deploy_admin")), "{said:#}");
    assert_eq!(said["hosts"]["structuredContent"]["total"], 2);
    for tool in ["deploy", "deploy_admin", "apply_plan"] {
        assert_eq!(said[tool]["structuredContent"]["state"], "succeeded", "{said:#}");
    }
    let refused = said["wrong_tier"]["content"][0]["text"].as_str().unwrap();
    assert!(refused.starts_with("wrong_tier: ") && said["wrong_tier"]["isError"] == true, "{said:#}");
    assert_eq!(said["questions"].as_array().unwrap().len(), 2, "{said:#}");
    assert_eq!(ran_sorted(&lab), ["ns1", "ns1", "test1", "test1"]);
}
