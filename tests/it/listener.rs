//! Tests how a listener responds to requests, and which requests it refuses.

use serde_json::{Value, json};

use crate::deployer::{Deployer, each, statuses};
use crate::host;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;
use crate::support::rebuild::GATE;

const NS1: &str = "deploy.prod.ns1";

/// Returns a lab with the single host `ns1`, which listens.
async fn lab() -> Lab {
    let mut lab = Lab::start_with(super::program(), &["prod.ns1.dns"], Permissions::Compatible).await.unwrap();
    lab.listen_all().await.unwrap();
    lab
}

/// Returns a request with one field changed.
fn with(mut request: Value, field: &str, value: impl Into<Value>) -> Value {
    request[field] = value.into();
    request
}

#[tokio::test]
async fn a_request_is_accepted_then_started_then_completed() {
    let lab = lab().await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say("deploy.prod.role.dns", &deployer.request("r-1")).await.unwrap();

    let answers = deployer.hear_out().await.unwrap();
    assert_eq!(statuses(&answers), ["accepted", "started", "completed"]);
    assert!(each(&answers, "id").iter().all(|id| id == "r-1"));
    assert!(each(&answers, "hostname").iter().all(|host| host == "ns1"));
    assert!(answers.iter().all(|answer| answer["error"].is_null()));

    let call = format!("switch --flake {}?rev={}#ns1", lab.flake.url(), lab.flake.resolve("main").unwrap());
    assert_eq!(answers.last().unwrap()["revision"], lab.flake.resolve("main").unwrap());
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")), [call]);
}

#[tokio::test]
async fn every_action_and_a_commit_reach_nixos_rebuild_as_they_are() {
    let lab = lab().await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    let commit = lab.flake.commit("another").unwrap();
    let url = lab.flake.url();
    for action in ["switch", "boot", "test", "dry-activate"] {
        let request = with(deployer.request(action), "action", action);
        deployer.say(NS1, &with(request, "revision", commit.as_str())).await.unwrap();
        assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
        let calls = lab.fleet.rebuild().calls(&host("ns1"));
        assert_eq!(calls.last().unwrap(), &format!("{action} --flake {url}?rev={commit}#ns1"));
    }
}

#[tokio::test]
async fn the_configuration_may_have_another_name_and_nixos_rebuild_more_flags() {
    let mut lab = Lab::start_with(super::program(), &["prod.ns1"], Permissions::Compatible).await.unwrap();
    let flags =
        ["--nixos-rebuild-flag", "--show-trace", "--nixos-rebuild-flag=--option", "--nixos-rebuild-flag", "cores"];
    lab.listen(&host("ns1"), &[&["--flake-attr", "web"], &flags[..]].concat()).await.unwrap();
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    let commit = lab.flake.commit("another").unwrap();
    let request = deployer.request("r-1");
    deployer.say(NS1, &with(request, "revision", commit.as_str())).await.unwrap();
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
    // The simulated nixos-rebuild names a host by its configuration.
    let calls = lab.fleet.rebuild().calls(&host("web"));
    let url = lab.flake.url();
    assert_eq!(calls, [format!("switch --flake {url}?rev={commit}#web --show-trace --option cores")]);
}

#[tokio::test]
async fn what_cannot_be_run_is_rejected_with_the_reason() {
    let lab = lab().await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    let cases = [
        ("action", "reboot", "invalid_action"),
        ("action", "", "invalid_action"),
        ("revision", "", "invalid_revision"),
        ("revision", "a..b", "invalid_revision"),
        ("expires_at", "2020-01-01T00:00:00Z", "expired"),
        ("expires_at", "tomorrow", "invalid_request"),
        ("id", "two words", "invalid_request"),
        ("action", "fetch", "invalid_request"),
        ("system", "/etc", "invalid_request"),
        // The host trusts no signing key.
        ("system", "/nix/store/0c1yv9bqqmbw3c3n5g7lq6b4rd5hfk2z-nixos-system-ns1", "untrusted"),
    ];
    for (field, value, error) in cases {
        let id = format!("{field}-{}", value.len());
        let request = with(deployer.request(&id), field, value);
        deployer.say(NS1, &request).await.unwrap();
        let answer = deployer.hear().await.unwrap();
        assert_eq!((&answer["status"], &answer["error"]), (&json!("rejected"), &json!(error)), "{request}");
        assert!(field == "id" || answer["id"] == id.as_str(), "{answer}");
        assert!(!answer["message"].as_str().unwrap().is_empty());
    }
    assert!(lab.fleet.rebuild().record().is_empty());
}

#[tokio::test]
async fn a_busy_host_says_what_it_is_busy_with_and_runs_one_thing_at_a_time() {
    let lab = lab().await;
    lab.fleet.rebuild().on(&host("ns1"), GATE).unwrap();
    let mut first = Deployer::connect(&lab).await.unwrap();
    let mut second = Deployer::connect(&lab).await.unwrap();
    first.say(NS1, &with(first.request("r-1"), "operator", "ops@desk")).await.unwrap();
    first.hear_status("accepted").await.unwrap();

    second.say("deploy.prod.all", &second.request("r-2")).await.unwrap();
    let answer = second.hear().await.unwrap();
    assert_eq!((&answer["status"], &answer["error"]), (&json!("rejected"), &json!("already_running")));
    assert_eq!(answer["holder"]["id"], "r-1");
    assert_eq!(answer["holder"]["operator"], "ops@desk");
    assert!(answer["holder"]["since"].is_string());

    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    assert_eq!(first.hear_final().await.unwrap()["status"], "completed");
    second.say(NS1, &second.request("r-3")).await.unwrap();
    assert_eq!(second.hear_final().await.unwrap()["status"], "completed");
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")).len(), 2);
}

#[tokio::test]
async fn no_revision_becomes_an_option_or_changes_the_url() {
    let lab = lab().await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    let revisions = [
        "--upload-pack=touch /tmp/x",
        "-h",
        "--",
        "main&dir=x",
        "main#y",
        "main?dir=x",
        "main%23y",
        "main;id",
        "$(id)",
        "`id`",
        "main x",
        "main\nid",
        "main\0",
        "../main",
        "main@{1}",
        "8c1f0e2b&rev=x",
    ];
    for (index, revision) in revisions.into_iter().enumerate() {
        let request = with(deployer.request(&format!("r-{index}")), "revision", revision);
        deployer.say(NS1, &request).await.unwrap();
        let answer = deployer.hear().await.unwrap();
        assert_eq!(
            (&answer["status"], &answer["error"]),
            (&json!("rejected"), &json!("invalid_revision")),
            "{request}"
        );
    }
    let commit = lab.flake.branch("feature/x-1.0").unwrap();
    deployer.say(NS1, &with(deployer.request("good"), "revision", "feature/x-1.0")).await.unwrap();
    deployer.hear_final().await.unwrap();
    let call = format!("switch --flake {}?rev={commit}#ns1", lab.flake.url());
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")), [call]);
}

#[tokio::test]
async fn nothing_is_said_outside_of_the_responses_nor_run_for_who_asks_for_it() {
    let mut lab = lab().await;
    let deployer = Deployer::connect(&lab).await.unwrap();
    let mut witness = deployer.overhear().await.unwrap();
    let foreign = [
        "deploy.prod.all",
        "deploy.test.test1",
        "_INBOX.x",
        "deploy.responses.*",
        "deploy.responses.>",
        "deploy.responses.",
        "",
    ];
    for reply_to in foreign {
        deployer.say(NS1, &with(deployer.request("bad"), "reply_to", reply_to)).await.unwrap();
        deployer.say("deploy.discover", &json!({ "reply_to": reply_to })).await.unwrap();
    }
    deployer.say(NS1, &json!({ "action": "switch", "revision": "main" })).await.unwrap();
    // The listener processes messages in order, so its responses to the earlier ones come before this one.
    deployer.say(NS1, &deployer.request("good")).await.unwrap();

    let heard = witness.subjects_until_final("good").await.unwrap();
    let ours = foreign.len() + 2;
    let theirs = heard.iter().filter(|subject| !["deploy.discover", NS1].contains(&subject.as_str()));
    assert!(theirs.clone().all(|subject| subject == deployer.reply_to()), "{heard:?}");
    assert_eq!(heard.iter().filter(|subject| *subject == NS1).count(), ours);
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")).len(), 1);
    // An attempt that the server refuses would be no better.
    let log = lab.fleet.listener(&host("ns1")).unwrap().output();
    assert!(!log.contains("may not publish"), "{log}");
}

#[tokio::test]
async fn nonsense_and_too_much_of_it_do_no_harm() {
    let mut lab = lab().await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    let padded = with(deployer.request("big"), "operator", "x".repeat(64 * 1024));
    let nonsense = [
        Vec::new(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"[1, 2]".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        vec![b'['; 60_000],
        br#"{"action": 7, "revision": {}, "reply_to": []}"#.to_vec(),
        padded.to_string().into_bytes(),
        vec![b' '; 1_000_000],
    ];
    for bytes in nonsense {
        deployer.say_bytes(NS1, bytes.clone()).await.unwrap();
        deployer.say_bytes("deploy.discover", bytes).await.unwrap();
    }
    deployer.say(NS1, &deployer.request("good")).await.unwrap();
    let answers = deployer.hear_out().await.unwrap();
    assert!(each(&answers, "id").iter().all(|id| id == "good"));
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")).len(), 1);
    lab.fleet.check_alive().unwrap();
}

#[tokio::test]
async fn the_same_request_runs_once_and_is_answered_as_often_as_it_is_asked() {
    let mut lab = lab().await;
    lab.fleet.rebuild().on(&host("ns1"), GATE).unwrap();
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    let mut impatient = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    deployer.hear_status("started").await.unwrap();

    impatient.say(NS1, &impatient.request("r-1")).await.unwrap();
    assert_eq!(impatient.hear().await.unwrap()["status"], "started");
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!(end["status"], "completed");

    impatient.say("deploy.prod.all", &impatient.request("r-1")).await.unwrap();
    assert_eq!(impatient.hear().await.unwrap(), end);
    lab.listen(&host("ns1"), &[]).await.unwrap();
    impatient.say(NS1, &impatient.request("r-1")).await.unwrap();
    assert_eq!(impatient.hear().await.unwrap(), end);
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")).len(), 1);
}
