//! A client that nobody here wrote: the one of the Python package `mcp`, which checks results against their schemas itself.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::apply::stage::{self, ran_sorted};
use crate::support::wait;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What `scripts/mcp-client` has made, where it was called. Here nothing is fetched.
fn python() -> Option<PathBuf> {
    let python = Path::new(ROOT).join("target/mcp-client/bin/python");
    python.exists().then_some(python)
}

#[tokio::test]
async fn a_client_in_python_finds_its_way_in_both_eras() {
    let Some(python) = python() else {
        return eprintln!("left out: there is no Python with the package `mcp`; scripts/mcp-client makes one");
    };
    for (mode, version) in [("legacy", "2025-11-25"), ("auto", "2026-07-28")] {
        let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
        stage::write_plan(&lab, "revision = 'main'\n[[wave]]\ntargets = 'test.all'\n[[wave]]\ntargets = 'prod.all'\n");
        let [test, admin, home] =
            [lab.test_deployer.seed_file(), lab.admin.seed_file(), &lab.home()].map(Path::to_owned);
        let mut client = Command::new(&python);
        client.arg(Path::new(ROOT).join("tests/it/mcp/client.py")).arg(mode).arg(crate::program());
        client.args(["mcp", "--enable-admin", "--discover-window", "500ms", "--nats-url", lab.server.url()]);
        client.arg("--nkey-file").arg(test).arg("--admin-nkey-file").arg(admin);
        client.args(["--flake", &lab.flake.url()]);
        client.arg("--plans-dir").arg(home.join("plans")).arg("--state-dir").arg(home.join("state"));
        client.stdin(Stdio::null()).kill_on_drop(true);
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
}
