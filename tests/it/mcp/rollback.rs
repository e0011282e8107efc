//! Tests `rollback` and `allow_downgrade`.

use serde_json::{Value, json};

use super::client::{Assistant, ERAS, Era, administrator, over, settings};
use crate::apply::stage::{self, calls, open, order, ran_sorted, until};
use crate::operator;
use crate::support::lab::Lab;
use crate::support::rebuild::{FAIL, GATE};

/// Returns the commit of the last run on a host, from the call of `nixos-rebuild`.
fn last(lab: &Lab, host: &str) -> String {
    let calls = calls(lab);
    let call = calls.iter().rfind(|call| call.ends_with(&format!("#{host}"))).unwrap();
    call.split_once("?rev=").unwrap().1.split_once('#').unwrap().0.to_owned()
}

/// Deploys two commits one after the other, and returns both.
async fn two_commits(lab: &Lab, assistant: &Assistant, target: &Value) -> (String, String, Value) {
    let mut target = target.clone();
    target["branch"] = json!("main");
    assistant.ask("deploy", target.clone()).await;
    let first = lab.flake.head().unwrap();
    let second = lab.flake.commit("dns: a new zone").unwrap();
    let answer = assistant.ask("deploy", target).await;
    assert_eq!((&answer["state"], &answer["commit"]), (&json!("succeeded"), &json!(second)), "{answer:#}");
    (first, second, answer)
}

#[tokio::test]
async fn a_host_returns_to_what_it_ran_before() {
    let lab = stage::lab(&["test.test1"]).await;
    for era in ERAS {
        let assistant = Assistant::beside(settings(&lab), era).await;
        let (first, second, told) = two_commits(&lab, &assistant, &json!({ "hostname": "test1" })).await;
        let host = &told["hosts"][0];
        assert_eq!((&host["ran_before"], &host["runs_now"]), (&json!(first), &json!(second)), "{host:#}");

        let told = assistant.refused("deploy", json!({ "hostname": "test1", "branch": first })).await;
        assert!(told.starts_with("downgrade: test1 would go back in history"), "{told}");
        assert!(told.contains("allow_downgrade: true or rollback"), "{told}");
        let dry = json!({ "hostname": "test1", "branch": first, "action": "dry-activate" });
        let dry = assistant.ask("deploy", dry).await;
        assert_eq!((&dry["state"], &dry["hosts"][0]["runs_now"]), (&json!("succeeded"), &json!(second)), "{dry:#}");

        let back = assistant.ask("rollback", json!({ "hostname": "test1" })).await;
        assert_eq!((&back["state"], &back["commit"]), (&json!("succeeded"), &json!(first)), "{back:#}");
        assert_eq!((&back["hosts"][0]["ran_before"], &back["hosts"][0]["runs_now"]), (&json!(second), &json!(first)));
        assert_eq!(last(&lab, "test1"), first);
        let forth = json!({ "hostname": "test1", "branch": second });
        assert_eq!(assistant.ask("deploy", forth).await["state"], "succeeded");
        let again = json!({ "hostname": "test1", "branch": first, "allow_downgrade": true });
        assert_eq!(assistant.ask("deploy", again).await["state"], "succeeded");
        assert_eq!(last(&lab, "test1"), first);
    }
}

#[tokio::test]
async fn the_hosts_of_a_rollout_return_and_others_do_not() {
    let lab = stage::lab(&["test.test1", "test.test2"]).await;
    let assistant = Assistant::beside(settings(&lab), Era::Stateless).await;
    let (first, second, _) = two_commits(&lab, &assistant, &json!({ "all": true })).await;
    let third = lab.flake.commit("web: something that does not build").unwrap();
    order(&lab, &["test2"], FAIL);
    let failed = assistant.ask("deploy", json!({ "all": true, "branch": "main" })).await;
    assert_eq!(failed["state"], "failed");
    order(&lab, &["test2"], "true");
    let before = ran_sorted(&lab).len();
    let back = assistant.ask("rollback", json!({ "rollout_id": failed["rollout_id"] })).await;
    assert_eq!((&back["state"], &back["commit"]), (&json!("succeeded"), &json!(second)), "{back:#}");
    assert_eq!(back["hosts"].as_array().unwrap().len(), 1, "test2 still runs what it ran: {back:#}");
    assert_eq!((last(&lab, "test1"), ran_sorted(&lab).len()), (second, before + 1));
    assert_eq!(last(&lab, "test2"), third, "it was not asked again");

    let told = assistant.refused("rollback", json!({})).await;
    assert!(told.starts_with("invalid_target: give exactly one of hostname and rollout_id"), "{told}");
    let told = assistant.refused("rollback", json!({ "rollout_id": "x" })).await;
    assert!(told.starts_with("unknown_id: "), "{told}");
    assert_ne!(first, third);
}

#[tokio::test]
async fn a_host_of_prod_may_return_to_a_commit_that_no_rule_allows() {
    let lab = stage::lab(&["prod.ns1"]).await;
    let open_settings = administrator(&lab);
    let rules = ["prod=release"].map(|rule| rule.parse().unwrap());
    let strict = homelab_deploy::mcp::Settings {
        revisions: homelab_deploy::mcp::RevisionPolicy::new(&rules),
        ..administrator(&lab)
    };
    let free = Assistant::beside(open_settings, Era::Handshake).await;
    let ns1 = json!({ "tier": "prod", "hostname": "ns1", "branch": "main" });
    free.ask("deploy_admin", ns1.clone()).await;
    let first = lab.flake.head().unwrap();
    lab.flake.commit("another").unwrap();
    free.ask("deploy_admin", ns1.clone()).await;
    let assistant = Assistant::beside(strict, Era::Stateless).await;
    let told = assistant.refused("deploy_admin", ns1).await;
    assert!(told.starts_with("revision_not_allowed: "), "{told}");
    assert_eq!(assistant.ask("rollback", json!({ "hostname": "ns1" })).await["state"], "succeeded");
    assert_eq!(last(&lab, "ns1"), first);
    // A server without the administrator's key knows nothing to undo on this host.
    let weak = Assistant::beside(settings(&lab), Era::Handshake).await;
    let told = weak.refused("rollback", json!({ "hostname": "ns1" })).await;
    assert!(told.starts_with("nothing_to_undo: "), "{told}");
}

#[tokio::test]
async fn what_somebody_else_deployed_since_stays() {
    let lab = stage::lab(&["test.test1"]).await;
    let assistant = Assistant::beside(settings(&lab), Era::Stateless).await;
    let (_, second, _) = two_commits(&lab, &assistant, &json!({ "hostname": "test1" })).await;
    let elsewhere = lab.folder().join("elsewhere");
    let third = lab.flake.commit("by somebody else").unwrap();
    let by_hand = ["deploy", "test.test1", "--branch", "main", "--state-dir", elsewhere.to_str().unwrap()];
    operator::run(&lab, &by_hand).await.unwrap().expect(0);
    let told = assistant.refused("rollback", json!({ "hostname": "test1" })).await;
    assert!(told.starts_with("not_the_last_run: test1 ran something else since"), "{told}");
    assert_eq!(last(&lab, "test1"), third);
    assert_ne!(second, third);
}

#[tokio::test]
async fn what_runs_is_not_rolled_back() {
    let lab = stage::lab(&["test.test1"]).await;
    let assistant = Assistant::beside(super::deploy::hasty(settings(&lab)), Era::Handshake).await;
    order(&lab, &["test1"], GATE);
    let running = assistant.ask("deploy", json!({ "hostname": "test1", "branch": "main" })).await;
    until(&lab, "test1 start").await;
    let told = assistant.refused("rollback", json!({ "rollout_id": running["rollout_id"] })).await;
    assert!(told.starts_with("still_running: "), "{told}");
    open(&lab, "test1");
    over(&lab).await;
}
