//! More than a host can read.

use std::fs;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use super::{Attacker, lab};
use crate::apply::stage::ran;
use crate::host;
use crate::operator;
use crate::support::lab::Lab;
use crate::support::wait;

/// The largest that a listener may have been at any moment, in KiB.
const LARGEST: u64 = 32 * 1024;

/// How many long questions are asked, and how long they are.
const LONG: (usize, usize) = (300, 1_000_000);

/// Asks who is there with the key of a test deployer, as fast as the server takes it, until the value is dropped.
async fn flood(lab: &Lab) -> JoinSet<()> {
    let attacker = Attacker::connect(lab, &lab.test_deployer).await;
    let mut task = JoinSet::new();
    task.spawn(async move {
        for number in 0_u64.. {
            let question = json!({ "reply_to": format!("deploy.responses.{number}"), "per_host": number % 2 == 0 });
            attacker.say("deploy.discover", &question).await;
            if number % 256 == 0 {
                tokio::task::yield_now().await;
            }
        }
    });
    task
}

/// The largest that the listener of this host has been so far, in KiB.
fn peak(lab: &mut Lab, name: &str) -> u64 {
    let id = lab.fleet.listener(&host(name)).unwrap().id();
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn questions_without_end_hide_no_prod_host() {
    let mut lab = lab(&["prod.db", "test.test1"], &["db"]).await;
    let flood = flood(&lab).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let listed = operator::run(&lab, &["hosts", "--tier", "prod"]).await.unwrap().expect(0).stdout;
    assert!(listed.contains("db"), "{listed}");
    operator::run(&lab, &["deploy", "deploy.prod.db"]).await.unwrap().expect(0);
    drop(flood);
    assert_eq!(ran(&lab), ["db"]);
    assert!(peak(&mut lab, "db") <= LARGEST, "{} KiB", peak(&mut lab, "db"));
}

#[tokio::test]
async fn long_questions_do_not_make_a_host_large() {
    let mut lab = lab(&["prod.db", "test.test1"], &["db"]).await;
    let mut attacker = Attacker::connect(&lab, &lab.test_deployer).await;
    let (count, length) = LONG;
    let question = json!({ "reply_to": "deploy.responses.x", "padding": "x".repeat(length) }).to_string();
    for _ in 0..count {
        attacker.say_bytes("deploy.discover", question.clone().into_bytes()).await;
    }
    wait::event("the server has them all", attacker.refusals()).await.unwrap();
    operator::run(&lab, &["deploy", "deploy.prod.db"]).await.unwrap().expect(0);
    assert_eq!(ran(&lab), ["db"]);
    assert!(peak(&mut lab, "db") <= LARGEST, "{} KiB", peak(&mut lab, "db"));
}
