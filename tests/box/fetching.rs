//! What is deployed is what the server of the flake has at that time; and trouble with it is told apart.

use serde_json::json;

use crate::deployer::Deployer;
use crate::git::Mood;
use crate::stage::{CURRENT, Stage, ask};

#[tokio::test]
async fn a_server_in_trouble_is_no_branch_that_does_not_exist() {
    let patience = "services.homelab-deploy.listener.timeout = 3;";
    let Some(mut stage) = Stage::set(patience).await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let before = stage.commit_of(CURRENT);
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    for (id, branch, mood, error, words) in [
        ("r-3", "main", Mood::Hanging, "timeout", "3 s"),
        ("r-4", "main", Mood::Distrustful, "build_failed", ""),
        ("r-5", "main", Mood::Gone, "build_failed", ""),
    ] {
        stage.git.set(mood);
        ask(&deployer, id, branch).await;
        let end = deployer.hear_final().await.unwrap();
        assert_eq!((&end["status"], &end["error"]), (&json!("failed"), &json!(error)), "{end}");
        assert!(end["message"].as_str().unwrap().contains(words), "{end}");
    }
    assert_eq!(stage.commit_of(CURRENT), before);
    assert_eq!(stage.finals(&mut wire).await.len(), 3);
    stage.machine.run("! pgrep --exact git").unwrap();
}
