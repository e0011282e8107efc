//! Tests that a roll call ends early once every known host has answered.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::apply::fake::{self, Fake};
use crate::apply::stage::{self, ran_sorted};
use crate::host;
use crate::operator::{self, Ended};
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;

const HOSTS: [&str; 3] = ["test.test1", "test.test2.dns", "prod.ns1"];

/// The window of a roll call. A roll call that ends early takes a tenth of it.
const WINDOW: Duration = Duration::from_secs(2);

const PLAN: &str = "revision = 'main'\n[[wave]]\ntargets = 'test.all'\n[[wave]]\ntargets = 'prod.all'";

async fn run(lab: &Lab, arguments: &[&str]) -> Ended {
    operator::run(lab, arguments).await.unwrap()
}

/// Returns a lab whose operator knows all of its hosts.
async fn known() -> Lab {
    let lab = stage::lab(&HOSTS).await;
    let first = run(&lab, &["hosts"]).await.expect(0);
    assert!(first.took >= WINDOW, "nobody is known yet: {:?}", first.took);
    lab
}

fn file(lab: &Lab) -> PathBuf {
    lab.home().join("state/homelab-deploy/hosts.json")
}

#[tokio::test]
async fn a_fleet_that_is_complete_is_known_at_once() {
    let lab = known().await;
    let plan = stage::write_plan(&lab, PLAN);
    for arguments in [
        &["hosts"][..],
        &["hosts", "--tier", "prod"],
        &["plan", &plan],
        &["apply", &plan, "--yes"],
        &["deploy", "test.all"],
        &["deploy", "deploy.test.role.dns"],
    ] {
        let ended = run(&lab, arguments).await.expect(0);
        assert!(ended.took < WINDOW, "{arguments:?} took {:?}", ended.took);
    }
    let whole = run(&lab, &["hosts", "--discover-window", "1500ms"]).await.expect(0);
    assert!(whole.took >= Duration::from_millis(1500), "{:?}", whole.took);
}

#[tokio::test]
async fn a_new_host_is_found_and_expected_from_then_on() {
    let mut lab = stage::empty(&HOSTS).await;
    lab.listen(&host("test1"), &[]).await.unwrap();
    run(&lab, &["hosts"]).await.expect(0);
    lab.listen(&host("test2"), &[]).await.unwrap();
    let found = run(&lab, &["hosts"]).await.expect(0);
    assert!(found.stdout.contains("test2") && found.took < WINDOW, "{:?}\n{}", found.took, found.stdout);
    lab.fleet.kill(&host("test2"));
    assert!(run(&lab, &["hosts"]).await.expect(0).took >= WINDOW);
}

#[tokio::test]
async fn a_silent_host_of_a_group_is_asked_in_any_case_and_not_charged() {
    let mut lab = known().await;
    lab.fleet.kill(&host("test2"));
    let ended = run(&lab, &["deploy", "test.all"]).await.expect(0);
    assert!(ended.took >= WINDOW, "{:?}", ended.took);
    ended.told("1 unreachable").told("test2");
    let ended = run(&lab, &["deploy", "deploy.test.role.dns"]).await.expect(1);
    ended.told("no host answers on deploy.test.role.dns");
    // A plan is for the hosts that answer.
    let ended = stage::apply(&lab, PLAN).ended().await.unwrap().expect(0);
    ended.told("2 hosts completed");
    assert_eq!(ran_sorted(&lab), ["ns1", "test1", "test1"]);
}

#[tokio::test]
async fn a_record_that_is_damaged_or_not_ours_costs_time_and_nothing_else() {
    let lab = known().await;
    for damage in ["{", r#"{"nats://x": 7}"#] {
        fs::write(file(&lab), damage).unwrap();
        assert!(run(&lab, &["deploy", "test.all"]).await.expect(0).took >= WINDOW, "{damage}");
        assert!(run(&lab, &["deploy", "test.all"]).await.expect(0).took < WINDOW, "it is written anew");
    }
    fs::set_permissions(file(&lab), fs::Permissions::from_mode(0o666)).unwrap();
    let ended = run(&lab, &["deploy", "test.all"]).await.expect(0);
    assert!(ended.took >= WINDOW);
}

#[tokio::test]
async fn the_old_form_does_not_count_for_a_host_that_answered_as_itself() {
    let mut lab =
        Lab::start_with(crate::program(), &["test.test1", "test.test2"], Permissions::Compatible).await.unwrap();
    lab.listen_all().await.unwrap();
    run(&lab, &["hosts"]).await.expect(0);
    lab.fleet.kill(&host("test1"));
    let _forged = Fake::start(&lab, fake::bare("test", "test1"), |_| Vec::new()).await;
    let ended = run(&lab, &["hosts"]).await.expect(0);
    assert!(ended.stdout.contains("test2") && !ended.stdout.contains("test1"), "{}", ended.stdout);
}

#[tokio::test]
async fn who_answers_after_the_end_of_a_roll_call_is_named_and_expected_from_then_on() {
    let lab = stage::empty(&HOSTS).await;
    let slow = |name: &'static str| fake::modern("test", name, &lab);
    let _test1 = Fake::start(&lab, slow("test1"), |request| {
        vec![fake::says(request, "test1", "accepted"), fake::says(request, "test1", "completed")]
    })
    .await;
    run(&lab, &["hosts"]).await.expect(0);
    let client = lab.server.connect(lab.key(&host("test2")).unwrap()).await.unwrap();
    let mut questions = fake::subscribe_to_roll_call(&lab, &client).await;
    let plan = "revision = 'main'\n[[wave]]\ntargets = 'test.all'\nbake_time = '1ms'\ncheck = ['sh', '-c', 'until test -e late; do sleep 0.1; done']";
    let mut rollout = stage::apply(&lab, plan);
    let question = crate::deployer::message(&crate::deployer::next(&mut questions).await.unwrap()).unwrap();
    rollout.tells("checking").await.unwrap();
    let report = slow("test2");
    client.publish(fake::place(&question, &report).unwrap(), report.to_string().into()).await.unwrap();
    rollout.tells("test2 turned up too late for this wave").await.unwrap();
    fs::write(lab.home().join("late"), "").unwrap();
    rollout.ended().await.unwrap().expect(0).told("turned up meanwhile and not deployed: test2");
    assert!(fs::read_to_string(file(&lab)).unwrap().contains("test2"));
}
