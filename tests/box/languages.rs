//! Hosts that speak other languages than English: what they say is read all the same.

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

/// A commit need not be looked up, so that it is Nix whose git is refused.
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
