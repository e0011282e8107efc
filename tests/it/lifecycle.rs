//! Tests how a listener starts, what it reports, and what it does if it cannot work.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use homelab_deploy::nats_config::ListenerName;
use homelab_deploy::protocol::subject::DISCOVER;
use serde_json::{Value, json};

use crate::deployer::{Deployer, Witness};
use crate::host;
use crate::support::fleet::Fleet;
use crate::support::keys::Key;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;
use crate::support::process::Process;
use crate::support::rebuild::{FAIL, GATE};
use crate::support::wait;

const NS1: &str = "deploy.prod.ns1";

/// Returns a lab with the single host `ns1`, which does not listen yet.
async fn lab() -> Lab {
    Lab::start_with(super::program(), &["prod.ns1.dns"], Permissions::Compatible).await.unwrap()
}

/// Starts the listener of `ns1`, waits until it has exited with this code, and returns its output.
async fn gives_up(lab: &mut Lab, code: i32) -> String {
    let (name, key) = ("prod.ns1.dns".parse::<ListenerName>().unwrap(), lab.key(&host("ns1")).unwrap().clone());
    lab.fleet.start(&name, &key, &[]).unwrap();
    let listener = lab.fleet.listener(&host("ns1")).unwrap();
    let status = wait::until("the listener gives up", async || listener.status()).await.unwrap();
    assert_eq!(status.code(), Some(code), "{}", listener.output());
    listener.output()
}

/// Calls the roll, and returns the report of the lab's only host.
async fn report(lab: &Lab) -> Value {
    let mut deployer = Deployer::connect(lab).await.unwrap();
    deployer.say(DISCOVER, &json!({ "reply_to": deployer.reply_to() })).await.unwrap();
    deployer.hear().await.unwrap()
}

#[tokio::test]
async fn what_a_listener_says_of_itself_is_what_others_may_know() {
    let mut lab = lab().await;
    let flake = "git+https://user:token@git.example.com/nixos";
    lab.fleet = Fleet::new(super::program(), &lab.folder().join("others"), lab.server.url(), flake).unwrap();
    lab.listen_all().await.unwrap();
    let mut deployer = Deployer::connect(&lab).await.unwrap();

    let idle = report(&lab).await;
    assert_eq!((&idle["hostname"], &idle["tier"], &idle["role"]), (&json!("ns1"), &json!("prod"), &json!("dns")));
    assert_eq!(idle["deploy_subjects"], json!(["deploy.prod.ns1", "deploy.prod.all", "deploy.prod.role.dns"]));
    assert_eq!(idle["flake"], "git+https://git.example.com/nixos");
    assert_eq!(idle["version"], env!("CARGO_PKG_VERSION"));
    assert!(idle["busy"].is_null() && idle["last"].is_null(), "{idle}");
    assert!(!idle.to_string().contains("token"));

    lab.fleet.rebuild().on(&host("ns1"), &format!("{GATE}; {FAIL}")).unwrap();
    // A commit, since no branch can be looked up in such a flake.
    let mut request = deployer.request("r-1");
    request["revision"] = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b".into();
    deployer.say(NS1, &request).await.unwrap();
    deployer.hear_status("started").await.unwrap();
    assert_eq!(report(&lab).await["busy"]["id"], "r-1");

    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    deployer.hear_final().await.unwrap();
    let after = report(&lab).await;
    assert!(after["busy"].is_null());
    let last = &after["last"];
    assert_eq!(
        (&last["id"], &last["status"], &last["error"]),
        (&json!("r-1"), &json!("failed"), &json!("build_failed"))
    );
}

#[tokio::test]
async fn only_hosts_of_the_tier_that_is_asked_for_answer() {
    let mut lab =
        Lab::start_with(super::program(), &["prod.ns1", "test.test1"], Permissions::Compatible).await.unwrap();
    lab.listen_all().await.unwrap();
    let deployer = Deployer::connect(&lab).await.unwrap();
    let mut witness = deployer.overhear().await.unwrap();
    for (tier, reply_to) in [("test", "deploy.responses.of-test"), ("prod", "deploy.responses.of-prod")] {
        deployer.say(DISCOVER, &json!({ "reply_to": reply_to, "tier": tier })).await.unwrap();
    }
    deployer.say(DISCOVER, &json!({ "reply_to": "deploy.responses.of-any" })).await.unwrap();

    // Each host answers its questions in order, so everything has arrived when both have answered the last one.
    let heard = until_both_answered(&mut witness, "deploy.responses.of-any").await;
    let of = |subject: &str| -> Vec<&Value> {
        heard.iter().filter(|(to, _)| to == subject).map(|(_, answer)| &answer["hostname"]).collect()
    };
    assert_eq!(of("deploy.responses.of-test"), ["test1"]);
    assert_eq!(of("deploy.responses.of-prod"), ["ns1"]);
}

async fn until_both_answered(witness: &mut Witness, subject: &str) -> Vec<(String, Value)> {
    let mut heard = Vec::new();
    while heard.iter().filter(|(to, _)| to == subject).count() < 2 {
        heard.push(witness.hear("deploy.responses.of-").await.unwrap());
    }
    heard
}

#[tokio::test]
async fn subjects_of_the_users_own_are_filled_in_and_left_out_without_a_role() {
    let mut lab =
        Lab::start_with(super::program(), &["prod.ns1.dns", "prod.nas"], Permissions::Compatible).await.unwrap();
    let own = ["--deploy-subject", "deploy.<tier>.<hostname>", "--deploy-subject", "deploy.<tier>.role.<role>"];
    lab.listen(&host("ns1"), &own).await.unwrap();
    lab.listen(&host("nas"), &own).await.unwrap();
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(DISCOVER, &json!({ "reply_to": deployer.reply_to() })).await.unwrap();
    let mut subjects = [deployer.hear().await.unwrap(), deployer.hear().await.unwrap()]
        .map(|host| host["deploy_subjects"].to_string());
    subjects.sort();
    assert_eq!(subjects, [r#"["deploy.prod.nas"]"#, r#"["deploy.prod.ns1","deploy.prod.role.dns"]"#]);

    // No listener takes the first subject: its request would be answered before the second one.
    for (subject, id) in [("deploy.prod.all", "r-1"), ("deploy.prod.role.dns", "r-2")] {
        deployer.say(subject, &deployer.request(id)).await.unwrap();
    }
    assert_eq!(deployer.hear_final().await.unwrap()["id"], "r-2");
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")).len(), 1);
    assert!(lab.fleet.rebuild().calls(&host("nas")).is_empty());
}

#[tokio::test]
async fn without_a_usable_state_directory_nothing_is_begun() {
    let mut lab = lab().await;
    // A file takes the place of the directory.
    let state = lab.folder().join("hosts/ns1/state");
    fs::create_dir_all(state.parent().unwrap()).unwrap();
    fs::write(&state, "").unwrap();
    let said = gives_up(&mut lab, 3).await;
    assert!(said.contains("cannot use the state directory") && said.contains("--state-dir"), "{said}");
}

#[tokio::test]
async fn a_run_that_cannot_be_written_down_fails_and_the_next_one_does_not() {
    let mut lab = lab().await;
    lab.listen_all().await.unwrap();
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    let runs = lab.folder().join("hosts/ns1/run/runs");
    fs::remove_dir(&runs).unwrap();
    fs::write(&runs, "").unwrap();
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["status"], &end["error"]), (&json!("failed"), &json!("build_failed")));
    assert!(end["message"].as_str().unwrap().starts_with("the run cannot be started"), "{end}");

    fs::remove_file(&runs).unwrap();
    deployer.say(NS1, &deployer.request("r-2")).await.unwrap();
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")).len(), 1);
}

#[tokio::test]
async fn a_seed_that_others_can_read_is_not_used() {
    let mut lab = lab().await;
    let seed = lab.key(&host("ns1")).unwrap().seed_file().to_owned();
    fs::set_permissions(&seed, fs::Permissions::from_mode(0o644)).unwrap();
    let said = gives_up(&mut lab, 3).await;
    assert!(said.contains("everyone on this machine can read the key") && said.contains("chmod 600"), "{said}");
    assert!(!said.contains(fs::read_to_string(&seed).unwrap().trim()));
}

#[tokio::test]
async fn a_listener_that_the_server_does_not_know_says_so_and_keeps_trying() {
    let mut lab = lab().await;
    let stranger = Key::generate(lab.folder(), "stranger").unwrap();
    lab.fleet.start(&"prod.ns1.dns".parse().unwrap(), &stranger, &[]).unwrap();
    let listener = lab.fleet.listener(&host("ns1")).unwrap();
    let twice = async || {
        let said = listener.output();
        let complaints = said.lines().filter(|line| line.contains("refuses this key") && line.contains("trying again"));
        Ok((complaints.count() >= 2).then_some(said))
    };
    let said = wait::until("it has tried twice", twice).await.unwrap();
    assert!(said.contains("add its public key"), "{said}");
    assert!(listener.status().unwrap().is_none());
}

#[tokio::test]
async fn a_subject_that_a_listener_may_not_hear_is_in_its_log_and_it_serves_the_others() {
    let mut lab = lab().await;
    lab.listen(&host("ns1"), &["--deploy-subject", "deploy.test.all,deploy.<tier>.<hostname>"]).await.unwrap();
    let listener = lab.fleet.listener(&host("ns1")).unwrap();
    let complaint = "this credential may not subscribe to deploy.test.all";
    let told = async || Ok(listener.output().contains(complaint).then_some(()));
    wait::until("the log tells of the subject", told).await.unwrap();

    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
}

#[tokio::test]
async fn a_listener_outlives_its_server_and_answers_when_it_is_back() {
    let mut lab = lab().await;
    lab.listen_all().await.unwrap();
    lab.server.stop();
    let listener = lab.fleet.listener(&host("ns1")).unwrap();
    let lost = async || Ok(listener.output().contains("connection lost").then_some(()));
    wait::until("the listener notices", lost).await.unwrap();
    lab.server.restart().await.unwrap();
    let listener = lab.fleet.listener(&host("ns1")).unwrap();
    let back = async || Ok(listener.output().contains("connected again").then_some(()));
    wait::until("the listener is back", back).await.unwrap();

    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
}

#[tokio::test]
async fn a_listener_waits_for_its_server() {
    let mut lab = lab().await;
    start_without_server(&mut lab).await;
    lab.server.restart().await.unwrap();
    let listener = lab.fleet.listener(&host("ns1")).unwrap();
    let listens = async || Ok(listener.output().contains("listening on deploy.prod.ns1").then_some(()));
    wait::until("the listener listens", listens).await.unwrap();

    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
}

#[tokio::test]
async fn a_listener_that_waits_for_its_server_can_be_stopped() {
    let mut lab = lab().await;
    let listener = start_without_server(&mut lab).await;
    listener.terminate().unwrap();
    let status = wait::until("the listener ends", async || listener.status()).await.unwrap();
    assert!(status.success(), "{status}: {}", listener.output());
}

/// Starts the listener of `ns1`, and waits until it has found no server.
async fn start_without_server(lab: &mut Lab) -> &mut Process {
    lab.server.stop();
    let (name, key) = ("prod.ns1.dns".parse().unwrap(), lab.key(&host("ns1")).unwrap().clone());
    lab.fleet.start(&name, &key, &[]).unwrap();
    let listener = lab.fleet.listener(&host("ns1")).unwrap();
    let waits = async || Ok(listener.output().contains("no NATS server can be reached").then_some(()));
    wait::until("the listener waits for a server", waits).await.unwrap();
    listener
}
