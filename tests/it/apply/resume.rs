//! Tests `apply --resume`: which rollout it selects, and what remains to be done.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use super::crowd::{Course, Crowd};
use super::fake;
use super::stage::{self, apply, expect_recap, open, order, ran, until, write_plan};
use super::wiretap::Wiretap;
use crate::operator::{self, Ended};
use crate::support::lab::Lab;
use crate::support::rebuild::GATE;

/// Two waves of real hosts.
const PLAN: &str = r#"
    revision = "main"
    [[wave]]
    targets      = ["test.test1", "test.test2"]
    max_parallel = 1
    [[wave]]
    targets = "prod.ns1"
"#;

/// Returns the journals of a lab's operator, ordered by name.
pub fn journals(lab: &Lab) -> Vec<PathBuf> {
    let folder = fs::read_dir(lab.home().join("state/homelab-deploy/rollouts")).unwrap();
    let mut paths: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort();
    paths
}

/// Returns the id of the only rollout of a lab.
pub fn only_id(lab: &Lab) -> String {
    let [path] = journals(lab).try_into().unwrap();
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// Returns the lines of `rollouts`, without the header.
pub async fn listed(lab: &Lab) -> Vec<String> {
    let ended = operator::run(lab, &["rollouts"]).await.unwrap().expect(0);
    ended.stdout.lines().skip(1).map(str::to_owned).collect()
}

/// Resumes the rollout with this id, or the latest.
pub async fn resume(lab: &Lab, id: &[&str]) -> Ended {
    operator::run(lab, &[&["apply", "--resume"], id].concat()).await.unwrap()
}

/// Returns a lab whose operator was killed while the first host ran. That run has ended since.
pub async fn cut_off() -> Lab {
    let lab = stage::lab(&["test.test1", "test.test2", "prod.ns1"]).await;
    order(&lab, &["test1"], GATE);
    let mut operator = apply(&lab, PLAN);
    until(&lab, "test1 start").await;
    operator.tells("test1").await.unwrap();
    operator.signal(Signal::KILL).unwrap();
    operator.ended().await.unwrap();
    open(&lab, "test1");
    until(&lab, "test1 end 0").await;
    lab
}

#[tokio::test]
async fn a_rollout_that_waited_for_a_host_to_find_its_commit_is_to_be_started_anew() {
    let lab = cut_off().await;
    let [journal] = journals(&lab).try_into().unwrap();
    let text = fs::read_to_string(&journal).unwrap();
    let commit = text.split_once("\"revision\":\"").unwrap().1.get(..40).unwrap().to_owned();
    fs::write(&journal, text.replace(&commit, "main")).unwrap();
    let ran_before = ran(&lab);
    let ended = resume(&lab, &[&only_id(&lab)]).await.expect(3);
    ended.told("has no commit").told("start anew");
    assert_eq!(ran(&lab), ran_before);
}

#[tokio::test]
async fn a_host_that_was_done_meanwhile_is_believed_and_the_others_follow() {
    let lab = cut_off().await;
    assert!(listed(&lab).await[0].contains("cut off"));
    expect_recap(&resume(&lab, &[]).await.expect(0), "3 hosts completed in 2 waves");
    assert_eq!(ran(&lab), ["test1", "test2", "ns1"]);
}

#[tokio::test]
async fn one_that_was_cut_off_shows_how_it_goes_on_and_one_without_a_record_that_there_is_none() {
    let lab = cut_off().await;
    let (id, [journal]) = (only_id(&lab), journals(&lab).try_into().unwrap());
    let status = operator::run(&lab, &["status"]).await.unwrap().expect(130);
    let resume = format!("homelab-deploy apply --resume {}", &id[..8]);
    status.told("Rollout plan was cut off").told(&resume);
    let found = operator::run(&lab, &["doctor"]).await.unwrap().stdout;
    assert!(found.contains("the rollout plan was cut off") && found.contains(&resume), "{found}");
    File::create(&journal).unwrap();
    for command in ["status", "report"] {
        operator::run(&lab, &[command, &id]).await.unwrap().expect(3).told("has no record");
    }
}

#[tokio::test]
async fn an_older_rollout_is_not_taken_up_without_its_id() {
    let lab = cut_off().await;
    let older = only_id(&lab);
    apply(&lab, "revision = 'main'\n[[wave]]\ntargets = 'prod.ns1'\n").ended().await.unwrap().expect(0);
    let ran_before = ran(&lab);
    resume(&lab, &[]).await.expect(3).told("the latest rollout is done");
    assert_eq!(ran(&lab), ran_before, "nothing was sent");
    resume(&lab, &[&older]).await.expect(0);
}

#[tokio::test]
async fn a_host_that_went_ahead_meanwhile_is_not_brought_back_without_a_question() {
    let lab = cut_off().await;
    let older = only_id(&lab);
    lab.flake.commit("services: one more").unwrap();
    let newer = format!("flake = '{}'\nrevision = 'main'\n[[wave]]\ntargets = 'prod.ns1'\n", lab.flake.url());
    apply(&lab, &newer).ended().await.unwrap().expect(0);
    let ran_before = ran(&lab);
    let flake = lab.flake.url();
    let again = [older.as_str(), "--flake", &flake];
    resume(&lab, &again).await.expect(3).told("ns1 would go back in history");
    assert_eq!(ran(&lab), ran_before, "nothing was sent");
    resume(&lab, &[&again[..], &["--allow-downgrade"]].concat()).await.expect(0);
}

#[tokio::test]
async fn a_plan_that_was_changed_meanwhile_is_named_and_not_used() {
    let lab = cut_off().await;
    write_plan(&lab, "revision = 'nowhere'\n[[wave]]\ntargets = 'prod.ns1'\n");
    let ended = resume(&lab, &[]).await.expect(0);
    expect_recap(&ended, "3 hosts completed in 2 waves");
    ended.told("plan.toml has changed since; the rollout continues with the plan as it was.");
    assert_eq!(ran(&lab), ["test1", "test2", "ns1"]);
}

#[tokio::test]
async fn a_plan_that_is_as_it_was_is_not_talked_about() {
    let lab = cut_off().await;
    resume(&lab, &[]).await.expect(0).not_told("has changed since");
}

#[tokio::test]
async fn the_branch_may_have_moved_on_and_the_commit_stays() {
    let lab = cut_off().await;
    let pushed = lab.flake.commit("services: one more").unwrap();
    resume(&lab, &[]).await.expect(0);
    let calls = stage::calls(&lab);
    assert!(calls.iter().all(|call| !call.contains(&pushed)), "{calls:?}");
}

#[tokio::test]
async fn a_power_cut_in_the_middle_of_a_line_costs_no_more_than_that_line() {
    let lab = cut_off().await;
    let [path] = journals(&lab).try_into().unwrap();
    let length = path.metadata().unwrap().len();
    File::options().write(true).open(&path).unwrap().set_len(length - 7).unwrap();
    expect_recap(&resume(&lab, &[]).await.expect(0), "3 hosts completed in 2 waves");
    assert_eq!(ran(&lab), ["test1", "test2", "ns1"]);
    assert!(listed(&lab).await[0].contains("succeeded"));
}

#[tokio::test]
async fn the_beginning_of_an_id_is_enough_as_long_as_it_is_the_only_one() {
    let lab = cut_off().await;
    let [path] = journals(&lab).try_into().unwrap();
    let id = only_id(&lab);
    let last = if id.ends_with('0') { "1" } else { "0" };
    let twin = path.with_file_name(format!("{}{last}.jsonl", &id[..id.len() - 1]));
    fs::copy(&path, &twin).unwrap();
    resume(&lab, &[&id[..8]]).await.expect(3).told("several rollouts begin with").told(&id);
    fs::remove_file(twin).unwrap();
    resume(&lab, &["nothing-like-it"]).await.expect(3).told("there is no rollout \"nothing-like-it\" here");
    assert_eq!(ran(&lab), ["test1"], "nothing was sent so far");
    resume(&lab, &[&id[..8]]).await.expect(0);
    assert_eq!(ran(&lab), ["test1", "test2", "ns1"]);
}

#[tokio::test]
async fn what_is_running_is_not_resumed() {
    let lab = stage::lab(&["test.test1", "test.test2", "prod.ns1"]).await;
    order(&lab, &["test1"], GATE);
    let operator = apply(&lab, PLAN);
    until(&lab, "test1 start").await;
    let id = only_id(&lab);
    resume(&lab, &[&id]).await.expect(3).told(&format!("rollout {id} is running"));
    open(&lab, "test1");
    operator.ended().await.unwrap().expect(0);
    assert_eq!(ran(&lab), ["test1", "test2", "ns1"]);
}

#[tokio::test]
async fn without_any_rollout_there_is_nothing_to_resume() {
    let lab = stage::empty(&[]).await;
    resume(&lab, &[]).await.expect(3).told("there is no rollout to resume");
}

#[tokio::test]
async fn what_is_done_is_done() {
    let lab = stage::lab(&["test.test1", "test.test2", "prod.ns1"]).await;
    apply(&lab, PLAN).ended().await.unwrap().expect(0);
    let mut tap = Wiretap::begin(&lab).await;
    expect_recap(&resume(&lab, &[&only_id(&lab)]).await.expect(0), "3 hosts completed in 2 waves");
    assert!(tap.heard().await.is_empty(), "nobody is asked for anything");
}

#[tokio::test]
async fn a_host_that_failed_is_asked_anew_and_one_that_completed_is_not() {
    let lab = stage::empty(&[]).await;
    let hosts = ["ns1", "ns2", "ns3", "ns4"];
    let reports = hosts.iter().map(|host| fake::modern("prod", host, &lab)).collect();
    let mut breaks = true;
    let course = move |host: &str| {
        let status = if host == "ns2" && std::mem::take(&mut breaks) { "failed" } else { "completed" };
        Course { takes: Duration::ZERO, status }
    };
    let mut crowd = Crowd::start(&lab, reports, course).await;
    let plan = r#"
        revision = "main"
        [[wave]]
        targets      = ["prod.ns1", "prod.ns2", "prod.ns3"]
        max_parallel = 1
        [[wave]]
        targets = "prod.ns4"
    "#;
    apply(&lab, plan).ended().await.unwrap().expect(1);
    assert_eq!(crowd.ran(), ["ns1", "ns2"]);
    let asked = crowd.story().len();

    let ended = resume(&lab, &[]).await.expect(0);
    expect_recap(&ended, "4 hosts completed in 2 waves");
    assert_eq!(crowd.ran(), ["ns1", "ns2", "ns2", "ns3", "ns4"]);
    let since = format!("{:?}", &crowd.story()[asked..]);
    assert!(!since.contains("ns1"), "it was done: {since}");
    let ids = crowd.ids();
    assert_eq!(hosts.map(|host| ids[host].len()), [1, 2, 1, 1], "{ids:?}");
}
