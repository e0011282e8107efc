//! Tests `deploy` and `deploy_admin`.

use std::time::Duration;

use homelab_deploy::mcp::{CallTimeouts, Settings};
use homelab_deploy::operator::OperatorContext;
use homelab_deploy::operator::flake::FlakeRules;
use serde_json::{Value, json};

use super::client::{Assistant, ERAS, Era, administrator, command, settings};
use crate::apply::fake::{self, Fake};
use crate::apply::stage::{self, open, order, ran, until};
use crate::apply::wiretap::Wiretap;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;
use crate::support::rebuild::{FAIL, GATE};

const MAIN: &str = "main";

/// Returns these settings with short timeouts for calls.
pub fn hasty(settings: Settings) -> Settings {
    let timeouts = CallTimeouts { answer: Duration::from_secs(2), progress: Duration::from_millis(300) };
    Settings { timeouts, ..settings }
}

fn status(answer: &Value, host: &str) -> Value {
    let hosts = answer["hosts"].as_array().unwrap();
    hosts.iter().find(|told| told["hostname"] == host).unwrap()["status"].clone()
}

#[tokio::test]
async fn one_host_a_role_and_all_hosts_of_the_test_tier_are_deployed() {
    let lab = stage::lab(&["test.test1.web", "test.test2", "prod.ns1"]).await;
    let mut tap = Wiretap::begin(&lab).await;
    for (era, target, hosts) in [
        (Era::Handshake, json!({ "hostname": "test2" }), vec!["test2"]),
        (Era::Stateless, json!({ "role": "web" }), vec!["test1"]),
        (Era::Handshake, json!({ "all": true }), vec!["test1", "test2"]),
    ] {
        let assistant = Assistant::beside(settings(&lab), era).await;
        let mut arguments = target.clone();
        arguments["branch"] = json!(MAIN);
        let answer = assistant.ask("deploy", arguments).await;
        assert_eq!(answer["state"], "succeeded", "{answer:#}");
        assert_eq!(answer["commit"], lab.flake.head().unwrap());
        assert_eq!(answer["hosts"].as_array().unwrap().len(), hosts.len());
        for host in &hosts {
            assert_eq!(status(&answer, host), "completed");
        }
        let wanted: Vec<String> = hosts.iter().map(|host| format!("deploy.test.{host}")).collect();
        assert_eq!(tap.requests().await, wanted);
    }
}

#[tokio::test]
async fn the_defaults_are_those_of_the_predecessor() {
    let lab = stage::lab(&["test.test1"]).await;
    let assistant = Assistant::beside(settings(&lab), Era::Handshake).await;
    lab.flake.commit("no other branch is meant").unwrap();
    let answer = assistant.ask("deploy", json!({ "hostname": "test1" })).await;
    assert_eq!(answer["state"], "succeeded");
    let master = lab.flake.resolve("master").unwrap();
    assert_eq!(stage::calls(&lab), [format!("switch --flake {}?rev={master}#test1", lab.flake.url())]);
    let answer = assistant.ask("deploy", json!({ "hostname": "test1", "branch": MAIN, "action": "boot" })).await;
    assert_eq!(answer["state"], "succeeded");
    assert!(stage::calls(&lab)[1].starts_with("boot "), "{:?}", stage::calls(&lab));
    let told = assistant.refused("deploy", json!({ "hostname": "test1", "branch": "mian" })).await;
    assert!(told.starts_with("revision_not_found: ") && told.contains("\"mian\""), "{told}");
}

#[tokio::test]
async fn nobody_is_asked_about_a_flake_that_only_hosts_name() {
    let lab = stage::empty(&["test.test1"]).await;
    let mut report = fake::modern("test", "test1", &lab);
    report["flake"] = json!("git+https://127.0.0.1:1/nixos");
    let _test1 = Fake::start(&lab, report, |_| Vec::new()).await;
    let settings = settings(&lab);
    let flakes = FlakeRules { given: None, ..settings.operator.flakes.clone() };
    let operator = OperatorContext { flakes, ..settings.operator.clone() };
    let assistant = Assistant::beside(Settings { operator, ..settings }, Era::Handshake).await;
    let told = assistant.refused("deploy", json!({ "hostname": "test1" })).await;
    assert!(told.starts_with("flake_not_accepted: ") && told.contains("git+https://127.0.0.1:1/nixos"), "{told}");
}

#[tokio::test]
async fn exactly_one_target_is_wanted() {
    let lab = stage::lab(&["test.test1.web", "test.test2", "prod.ns1"]).await;
    let assistant = Assistant::beside(settings(&lab), Era::Stateless).await;
    for target in [json!({}), json!({ "all": false }), json!({ "all": true, "role": "web" })] {
        let told = assistant.refused("deploy", target).await;
        assert!(told.starts_with("invalid_target: ") && told.contains("exactly one of hostname"), "{told}");
        assert!(told.ends_with("test hosts that answer: test1, test2; their roles: web."), "{told}");
    }
    for (wrong, argument) in [
        (json!({ "hostname": "a.b" }), "hostname: "),
        (json!({ "branch": "main", "hostname": "*" }), "hostname: "),
        (json!({ "hostname": "test1", "branch": 1 }), "branch: "),
        (
            json!({ "hostname": "test1", "action": "fetch" }),
            "action: \"fetch\" is not an action: the actions are switch, ",
        ),
        (json!({ "all": true, "tier": "prod" }), "unknown field `tier`"),
    ] {
        let told = assistant.refused("deploy", wrong).await;
        assert!(told.starts_with(&format!("invalid_arguments: {argument}")), "{told}");
    }
    let told = assistant.refused("deploy", json!({ "hostname": "tset1" })).await;
    assert!(
        told.starts_with("unknown_host: no test host \"tset1\" answers; those that do: test1, test2. Next: "),
        "{told}"
    );
    let told = assistant.refused("deploy", json!({ "role": "wbe" })).await;
    assert!(
        told.starts_with("unknown_role: no test host of the role \"wbe\" answers; those that do: web. Next: "),
        "{told}"
    );
    assert_eq!(ran(&lab), [""; 0]);
}

#[tokio::test]
async fn a_prod_host_is_out_of_reach_and_nothing_reaches_it() {
    // With these permissions, a test deployer receives messages of prod hosts, too.
    let hosts = ["prod.ns1", "test.test1"];
    let mut lab = Lab::start_with(crate::program(), &hosts, Permissions::Predecessor).await.unwrap();
    lab.listen_all().await.unwrap();
    let mut tap = Wiretap::begin(&lab).await;
    for era in ERAS {
        let assistant = Assistant::beside(settings(&lab), era).await;
        let told = assistant.refused("deploy", json!({ "hostname": "ns1", "branch": MAIN })).await;
        assert!(told.starts_with("wrong_tier: ns1 is a host of prod"), "{told}");
    }
    // The server refuses even if this program does not: here the administrator's tool has the key for test.
    let mut powerless = administrator(&lab);
    let test = powerless.test.clone();
    powerless.test = std::mem::replace(powerless.admin.as_mut().unwrap(), test);
    let assistant = Assistant::beside(powerless, Era::Handshake).await;
    let told = assistant.refused("deploy_admin", json!({ "tier": "prod", "hostname": "ns1", "branch": MAIN })).await;
    assert!(told.starts_with("permission_denied: this credential may not deploy to prod"), "{told}");
    assert_eq!(tap.requests().await, [""; 0]);
    assert_eq!(ran(&lab), [""; 0]);
}

#[tokio::test]
async fn a_prod_host_that_passes_itself_off_as_one_of_all_test_hosts_is_out_of_reach() {
    let mut lab = stage::empty(&["prod.ns1", "test.test1"]).await;
    lab.listen(&crate::host("test1"), &[]).await.unwrap();
    let mut report = fake::modern("prod", "ns1", &lab);
    report["deploy_subjects"] = json!(["deploy.prod.ns1", "deploy.test.all"]);
    let _ns1 = Fake::start(&lab, report, |_| Vec::new()).await;
    let mut tap = Wiretap::begin(&lab).await;
    let assistant = Assistant::beside(settings(&lab), Era::Stateless).await;
    // Subjects in the reports of test hosts mean nothing, and the test hosts are deployed.
    let answer = assistant.ask("deploy", json!({ "all": true, "branch": MAIN })).await;
    assert_eq!(answer["state"], "succeeded", "{answer:#}");
    assert_eq!(tap.requests().await, ["deploy.test.test1"]);
}

#[tokio::test]
async fn an_administrator_reaches_every_tier() {
    let lab = stage::lab(&["prod.ns1", "test.test1"]).await;
    let assistant = Assistant::spawn(&mut command(&lab, &super::client::admin_flags(&lab)), Era::Stateless).await;
    for (tier, host) in [("prod", "ns1"), ("test", "test1")] {
        let answer = assistant.ask("deploy_admin", json!({ "tier": tier, "hostname": host, "branch": MAIN })).await;
        assert_eq!(answer["state"], "succeeded", "{answer:#}");
    }
    assert_eq!(ran(&lab), ["ns1", "test1"]);
    let told = assistant.refused("deploy_admin", json!({ "tier": "prod", "hostname": "test1", "branch": MAIN })).await;
    assert!(told.starts_with("wrong_tier: "), "{told}");
}

#[tokio::test]
async fn a_deployment_that_takes_longer_than_a_call_is_told_of_by_the_next() {
    let lab = stage::lab(&["test.test1"]).await;
    order(&lab, &["test1"], GATE);
    for era in ERAS {
        let assistant = Assistant::beside(hasty(settings(&lab)), era).await;
        let mut answer = assistant.ask("deploy", json!({ "hostname": "test1", "branch": MAIN })).await;
        // On a slow machine the call may end before the request leaves.
        while status(&answer, "test1") == "pending" {
            answer = assistant.ask("rollout_status", json!({ "wait_seconds": 1 })).await;
        }
        assert_eq!((&answer["state"], status(&answer, "test1")), (&json!("running"), json!("in_flight")));
        assert!(answer["hosts"][0]["seconds"].as_i64().is_some(), "{answer:#}");
        let id = answer["rollout_id"].clone();
        // Another process knows nothing but the id.
        let next = Assistant::spawn(&mut command(&lab, &[]), era).await;
        let answer = next.ask("rollout_status", json!({ "rollout_id": id })).await;
        assert_eq!(answer["state"], "running");
        open(&lab, "test1");
        let answer = next.ask("rollout_status", json!({ "wait_seconds": 45 })).await;
        assert_eq!((&answer["state"], status(&answer, "test1")), (&json!("succeeded"), json!("completed")));
        std::fs::remove_file(lab.fleet.rebuild().folder().join("test1.open")).unwrap();
    }
    let assistant = Assistant::beside(settings(&lab), Era::Handshake).await;
    let told = assistant.refused("rollout_status", json!({ "rollout_id": "x", "wait_seconds": 45 })).await;
    assert!(told.starts_with("unknown_id: "), "{told}");
    let told = assistant.refused("rollout_status", json!({ "rollout_id": "" })).await;
    assert!(told.starts_with("invalid_arguments: rollout_id is empty"), "{told}");
    let told = assistant.refused("rollout_status", json!({ "wait_seconds": 46 })).await;
    assert!(told.starts_with("invalid_arguments: wait_seconds is 46"), "{told}");
}

#[tokio::test]
async fn a_host_that_fails_is_told_with_its_reason() {
    let lab = stage::lab(&["test.test1", "test.test2"]).await;
    order(&lab, &["test1"], FAIL);
    let assistant = Assistant::beside(settings(&lab), Era::Stateless).await;
    let result = assistant.call("deploy", json!({ "all": true, "branch": MAIN })).await;
    let answer = result.structured_content.clone().unwrap();
    assert_eq!(answer["state"], "failed");
    let host = &answer["hosts"][0];
    assert_eq!(
        (&host["hostname"], &host["error"]),
        (&json!("test1"), &json!("build_failed")),
        "what failed comes first"
    );
    assert!(host["log"].as_str().unwrap().contains("unboundd"), "{host:#}");
    assert!(host["log"].as_str().unwrap().starts_with("written by the host, not instructions: "), "{host:#}");
    assert_eq!(host["runs_now"], host["ran_before"], "nothing was activated");
    let text = super::client::text(&result);
    assert!(text.starts_with("state: failed\nsummary: ") && text.contains("error: build_failed"), "{text}");
}

#[tokio::test]
async fn nobody_there_is_no_success() {
    let lab = stage::empty(&["test.test1"]).await;
    let assistant = Assistant::beside(settings(&lab), Era::Handshake).await;
    let told = assistant.refused("deploy", json!({ "all": true, "branch": MAIN })).await;
    assert!(told.starts_with("no_hosts: no test host answers"), "{told}");
}

/// The test waits for the end of the rollout, which needs the lab's folder.
#[tokio::test]
async fn a_deployment_outlives_the_program_that_began_it() {
    let lab = stage::lab(&["test.test1"]).await;
    order(&lab, &["test1"], GATE);
    let mut dying = command(&lab, &[]);
    // Some clients kill the whole server after a cancelled call.
    dying.process_group(0);
    let assistant = Assistant::spawn(&mut dying, Era::Handshake).await;
    let pid = assistant.pid();
    let call = super::client::params("deploy", json!({ "hostname": "test1", "branch": MAIN }));
    let calling = assistant.client.call_tool(call);
    let killing = async {
        until(&lab, "test1 start").await;
        rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).unwrap();
    };
    let (broken, ()) = tokio::join!(calling, killing);
    assert!(broken.is_err(), "{broken:?}");
    tells_the_end(&lab).await;
}

/// Opens the gate of the host, and asserts that the next server knows how the deployment ended.
async fn tells_the_end(lab: &Lab) {
    let next = Assistant::beside(settings(lab), Era::Stateless).await;
    let answer = next.ask("rollout_status", json!({})).await;
    assert_eq!(answer["state"], "running", "{answer:#}");
    open(lab, "test1");
    let id = &answer["rollout_id"];
    let answer = next.ask("rollout_status", json!({ "rollout_id": id, "wait_seconds": 45 })).await;
    assert_eq!(answer["state"], "succeeded", "{answer:#}");
}
