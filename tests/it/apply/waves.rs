//! Tests that waves and hosts are deployed in order.

use super::fake::{self, Fake};
use super::stage::{self, apply, calls, expect_recap, open, order, ran, ran_sorted, recap, story, until};
use super::wiretap::Wiretap;
use crate::host;
use crate::support::rebuild::GATE;

/// The lab of the demo, and its plan.
const DEMO: [&str; 6] =
    ["test.test1", "test.test2", "prod.ns1.dns", "prod.ns2.dns", "prod.jelly.media", "prod.sonos.media"];
const DEMO_PLAN: &str = include_str!("../../../plans/demo.toml");

#[tokio::test]
async fn the_demo_rolls_one_commit_over_six_hosts_in_three_waves() {
    let lab = stage::lab(&DEMO).await;
    order(&lab, &["test1"], GATE);
    let before = lab.flake.commit("services: one").unwrap();
    let rollout = apply(&lab, DEMO_PLAN);

    // A commit is pushed while the first wave runs.
    until(&lab, "test1 start").await;
    until(&lab, "test2 end 0").await;
    let pushed = lab.flake.commit("services: one more").unwrap();
    assert_ne!(before, pushed);
    assert_eq!(ran_sorted(&lab), ["test1", "test2"], "the first wave is not over");
    open(&lab, "test1");

    let ended = rollout.ended().await.unwrap().expect(0);
    let recap = recap(&ended).replace(&before[..7], "COMMIT");
    insta::assert_snapshot!(recap, @"✔ Rollout plan: 6 hosts completed in 3 waves, main -> COMMIT");
    let mut called = calls(&lab);
    let url = lab.flake.url();
    let mut expected = ["test1", "test2", "ns1", "ns2", "jelly", "sonos"]
        .map(|host| format!("switch --flake {url}?rev={before}#{host}"));
    called.sort();
    expected.sort();
    assert_eq!(called, expected, "each host once, and all of them the same commit");

    let story = story(&lab);
    let at = |event: &str| story.iter().position(|said| said == event).unwrap();
    assert!(at("test1 end 0") < at("ns1 start"), "{story:?}");
    assert!(at("ns1 end 0") < at("ns2 start"), "{story:?}");
    assert!(at("ns2 end 0") < at("jelly start").min(at("sonos start")), "{story:?}");
}

#[tokio::test]
async fn nothing_is_sent_to_a_wave_while_a_host_of_the_one_before_is_at_it() {
    let lab = stage::lab(&["test.test1", "test.test2", "prod.ns1"]).await;
    order(&lab, &["test1", "test2", "ns1"], GATE);
    let mut tap = Wiretap::begin(&lab).await;
    let plan = r#"
        revision = "main"
        [[wave]]
        targets = ["test.test1", "test.test2"]
        [[wave]]
        targets = "prod.ns1"
    "#;
    let mut rollout = apply(&lab, plan);
    until(&lab, "test1 start").await;
    until(&lab, "test2 start").await;
    open(&lab, "test1");
    rollout.tells("test1 completed").await.unwrap();
    assert_eq!(tap.requests().await, ["deploy.test.test1", "deploy.test.test2"]);
    open(&lab, "test2");
    until(&lab, "ns1 start").await;
    assert_eq!(tap.requests().await, ["deploy.prod.ns1"]);
    open(&lab, "ns1");
    rollout.ended().await.unwrap().expect(0);
    let order: Vec<_> = story(&lab).split_off(2);
    assert_eq!(order, ["test1 end 0", "test2 end 0", "ns1 start", "ns1 end 0"]);
}

#[tokio::test]
async fn a_window_of_one_takes_one_host_after_the_other_in_the_order_of_the_plan() {
    let lab = stage::lab(&["prod.ns1", "prod.ns2", "prod.ns3"]).await;
    order(&lab, &["ns3"], GATE);
    let mut tap = Wiretap::begin(&lab).await;
    let plan = r#"
        revision = "main"
        [[wave]]
        targets      = ["prod.ns3", "prod.ns1", "prod.ns2"]
        max_parallel = 1
    "#;
    let rollout = apply(&lab, plan);
    until(&lab, "ns3 start").await;
    assert_eq!(tap.requests().await, ["deploy.prod.ns3"]);
    open(&lab, "ns3");
    rollout.ended().await.unwrap().expect(0);
    let expected = ["ns3 start", "ns3 end 0", "ns1 start", "ns1 end 0", "ns2 start", "ns2 end 0"];
    assert_eq!(story(&lab), expected);
}

#[tokio::test]
async fn a_window_slides_when_a_host_is_done() {
    let lab = stage::lab(&["prod.ns1", "prod.ns2", "prod.ns3", "prod.ns4"]).await;
    order(&lab, &["ns1", "ns2", "ns3", "ns4"], GATE);
    let mut tap = Wiretap::begin(&lab).await;
    let plan = r#"
        revision = "main"
        [[wave]]
        targets      = ["prod.ns1", "prod.ns2", "prod.ns3", "prod.ns4"]
        max_parallel = "50%"
    "#;
    let rollout = apply(&lab, plan);
    until(&lab, "ns1 start").await;
    until(&lab, "ns2 start").await;
    assert_eq!(tap.requests().await, ["deploy.prod.ns1", "deploy.prod.ns2"]);
    open(&lab, "ns2");
    until(&lab, "ns3 start").await;
    assert_eq!(tap.requests().await, ["deploy.prod.ns3"]);
    for host in ["ns1", "ns3", "ns4"] {
        open(&lab, host);
    }
    rollout.ended().await.unwrap().expect(0);
    assert_eq!(ran_sorted(&lab), ["ns1", "ns2", "ns3", "ns4"]);
}

#[tokio::test]
async fn sixty_hosts_at_once_are_no_trouble() {
    let names: Vec<String> = (1..=60).map(|number| format!("node{number}")).collect();
    let hosts: Vec<String> = names.iter().map(|name| format!("prod.{name}")).collect();
    let lab = stage::empty(&hosts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut fakes = Vec::new();
    for name in names {
        let report = fake::modern("prod", &name, &lab);
        let course = ["accepted", "started", "completed"];
        let answer =
            move |request: &serde_json::Value| course.map(|status| fake::says(request, &name, status)).to_vec();
        fakes.push(Fake::start(&lab, report, answer).await);
    }
    let plan = r#"
        revision = "main"
        [[wave]]
        targets        = "prod.all"
        min_hosts      = 60
        accept_timeout = "5s"
        timeout        = "6s"
    "#;
    let ended = apply(&lab, plan).ended().await.unwrap().expect(0);
    expect_recap(&ended, "60 hosts completed in 1 wave");
    assert!(ended.took.as_secs() < 10, "it took {:?}", ended.took);
}

#[tokio::test]
async fn a_target_may_be_an_alias_and_a_plan_a_name() {
    let lab = stage::lab(&["test.test1", "prod.ns1.dns", "prod.ns2.dns"]).await;
    let folder = lab.folder().join("shared-plans");
    std::fs::create_dir(&folder).unwrap();
    let plan =
        "revision = 'main'\n[[wave]]\ntargets = 'canary'\n[[wave]]\ntargets = 'name-servers'\nmax_parallel = 1\n";
    std::fs::write(folder.join("weekly.toml"), plan).unwrap();
    let mut command = lab.operator(&lab.admin).unwrap();
    command.args(["apply", "weekly", "--yes", "--plans-dir"]).arg(folder);
    command.env("HOMELAB_DEPLOY_ALIAS_CANARY", "deploy.test.test1");
    command.env("HOMELAB_DEPLOY_ALIAS_NAME_SERVERS", "deploy.prod.role.dns");
    let ended = stage::start(command).ended().await.unwrap().expect(0);
    expect_recap(&ended, "Rollout weekly: 3 hosts completed in 2 waves");
    assert_eq!(ran(&lab), ["test1", "ns1", "ns2"]);
}

#[tokio::test]
async fn a_host_that_turns_up_meanwhile_is_named_and_not_deployed() {
    let mut lab = stage::empty(&["test.test1", "prod.ns1", "prod.late"]).await;
    for name in ["test1", "ns1"] {
        lab.listen(&host(name), &[]).await.unwrap();
    }
    order(&lab, &["test1", "ns1"], GATE);
    let plan = "revision = 'main'\n[[wave]]\ntargets = 'test.all'\n[[wave]]\nname = 'rest'\ntargets = 'prod.all'\n";
    let mut rollout = apply(&lab, plan);
    until(&lab, "test1 start").await;
    lab.listen(&host("late"), &[]).await.unwrap();
    open(&lab, "test1");
    rollout.tells("2/2 rest       late turned up too late for this wave, and is not deployed").await.unwrap();
    open(&lab, "ns1");
    let ended = rollout.ended().await.unwrap().expect(0);
    expect_recap(&ended, "turned up meanwhile and not deployed: late");
    assert_eq!(ran(&lab), ["test1", "ns1"]);
}
