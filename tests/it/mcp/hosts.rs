//! Tests `list_hosts`, and what holds for every tool.

use serde_json::{Value, json};

use super::client::{Assistant, ERAS, administrator, command, settings};
use crate::apply::stage;
use crate::support::wait;

fn names(answer: &Value) -> Vec<&str> {
    answer["hosts"].as_array().unwrap().iter().map(|host| host["hostname"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn hosts_are_listed_in_both_eras_and_over_both_ways() {
    let lab = stage::lab(&["prod.ns1.dns", "test.test1"]).await;
    for era in ERAS {
        let beside = Assistant::beside(administrator(&lab), era).await;
        let admin = lab.admin.seed_file().display().to_string();
        let program = Assistant::spawn(&mut command(&lab, &["--enable-admin", "--admin-nkey-file", &admin]), era).await;
        for assistant in [beside, program] {
            let all = assistant.ask("list_hosts", json!({})).await;
            assert_eq!(names(&all), ["test1", "ns1"]);
            assert_eq!((&all["total"], &all["hosts"][1]["role"]), (&json!(2), &json!("dns")));
            assert_eq!(names(&assistant.ask("list_hosts", json!({ "role": "dns" })).await), ["ns1"]);
            assert_eq!(names(&assistant.ask("list_hosts", json!({ "hostname": "test1" })).await), ["test1"]);
            let told = assistant.refused("list_hosts", json!({ "hostname": "tset1" })).await;
            assert!(told.starts_with("unknown_host: no host \"tset1\" answers; those that do: ns1, test1"), "{told}");
            let prod = assistant.ask("list_hosts", json!({ "tier": "prod" })).await;
            assert_eq!(names(&prod), ["ns1"]);
        }
    }
    // The key of a test deployer receives messages of test hosts only, and the answer says so.
    let assistant = Assistant::beside(settings(&lab), ERAS[0]).await;
    let heard = assistant.ask("list_hosts", json!({})).await;
    assert_eq!((names(&heard), &heard["unheard"]), (vec!["test1"], &json!(["prod"])));
    let told = assistant.refused("list_hosts", json!({ "tier": "prod" })).await;
    assert!(
        told.starts_with("permission_denied: this credential may not deploy to prod, nor hear its hosts. "),
        "{told}"
    );
}

#[tokio::test]
async fn wrong_arguments_are_told_in_words() {
    let lab = stage::empty(&[]).await;
    let assistant = Assistant::beside(settings(&lab), ERAS[0]).await;
    let told = assistant.refused("list_hosts", json!({ "teir": "prod" })).await;
    assert!(told.starts_with("invalid_arguments: unknown field `teir`"), "{told}");
    let told = assistant.refused("list_hosts", json!({ "tier": "staging" })).await;
    assert!(told.starts_with("invalid_arguments: tier: "), "{told}");
}

#[tokio::test]
async fn a_bus_that_is_down_is_told_and_no_matter_once_it_is_back() {
    let mut lab = stage::lab(&["test.test1"]).await;
    let assistant = Assistant::beside(settings(&lab), ERAS[1]).await;
    lab.server.stop();
    let told = assistant.refused("list_hosts", json!({})).await;
    assert!(told.starts_with("bus_unreachable: no NATS server can be reached"), "{told}");
    lab.server.restart().await.unwrap();
    let there = async || {
        let all = assistant.ask("list_hosts", json!({})).await;
        Ok((names(&all) == ["test1"]).then_some(()))
    };
    wait::until("the host is back", there).await.unwrap();
}

#[tokio::test]
async fn a_repository_that_never_answers_does_not_hold_a_call_longer_than_a_client_waits() {
    let lab = stage::lab(&["test.test1"]).await;
    // Nothing accepts the connections.
    let repository = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let flake = format!("git+http://{}/nixos", repository.local_addr().unwrap());
    let mut settings = super::deploy::hasty(settings(&lab));
    settings.operator.flakes.given = Some(flake.parse().unwrap());
    let assistant = Assistant::beside(settings, ERAS[0]).await;
    let began = std::time::Instant::now();
    let told = assistant.refused("list_hosts", json!({ "branch": "main" })).await;
    assert!(told.starts_with("too_slow: "), "{told}");
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "a lookup may take a minute");
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_the_program_in_good_order() {
    let lab = stage::empty(&[]).await;
    for era in ERAS {
        let mut program = Assistant::spawn(&mut command(&lab, &[]), era).await.hang_up().await;
        assert!(wait::event("the program ends", program.wait()).await.unwrap().unwrap().success());
    }
    let mut unmet = command(&lab, &[]).spawn().unwrap();
    drop(unmet.stdin.take());
    assert!(wait::event("the program ends", unmet.wait()).await.unwrap().unwrap().success());
}
