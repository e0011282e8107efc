//! Tests that messages of hosts in other languages than English are understood.

use crate::stage::{Stage, assert_failed, deploy};
use crate::support::git::Mood;

#[tokio::test]
async fn a_german_host_says_why_it_cannot_fetch() {
    says_why_it_cannot_fetch("de_DE.UTF-8").await;
}

#[tokio::test]
async fn a_french_host_says_why_it_cannot_fetch() {
    says_why_it_cannot_fetch("fr_FR.UTF-8").await;
}

/// Deploys a commit, which needs no lookup, so that the git of Nix is the one that is refused.
async fn says_why_it_cannot_fetch(language: &str) {
    let speaks = format!(
        r#"services.homelab-deploy.listener.environment = {{ LANG = "{language}"; LANGUAGE = "{language}"; }};"#
    );
    let Some(mut stage) = Stage::set(&speaks).await else { return };
    let said = stage.machine.run(&format!("LANG={language} git -C / log 2>&1 || true")).unwrap();
    assert!(!said.contains("fatal:") && !said.is_empty(), "{said}");
    let commit = stage.push(&speaks);
    stage.git.set(Mood::Distrustful);
    assert_failed(&deploy(&stage, "r-1", &commit).await, "build_failed", &["git: ", "Username"]);
}
