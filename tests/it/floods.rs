//! Tests that floods with a key that may publish can slow a listener down, but make it neither large nor unresponsive.

use std::fs;
use std::time::{Duration, Instant};

use async_nats::Client;
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::deployer::{is_final, message, next, subscribe};
use crate::host;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;

const NS1: &str = "deploy.prod.ns1";

/// How long each flood lasts.
const FLOOD: Duration = Duration::from_secs(6);

/// The bound on the memory of a listener, in KiB. A release build takes some 3 MB less before it receives anything.
const RESIDENT_KIB: u64 = 32 * 1024;

/// Returns a lab with strict permissions whose hosts listen.
async fn lab() -> Lab {
    let hosts = ["prod.ns1.dns", "test.test1"];
    let mut lab = Lab::start_with(super::program(), &hosts, Permissions::Strict).await.unwrap();
    lab.listen_all().await.unwrap();
    lab
}

/// Returns the peak memory of a host's listener, in KiB.
fn most_resident(lab: &mut Lab, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", lab.fleet.listener(&host(name)).unwrap().id())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    most.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Publishes messages on these subjects in turn, as fast as the server accepts them, and returns their number.
async fn flood(client: Client, subjects: Vec<&'static str>, texts: Vec<Vec<u8>>) -> u64 {
    // Leaked, since copies would slow the flood down.
    let texts: Vec<&'static [u8]> = texts.into_iter().map(|text| &*text.leak()).collect();
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < FLOOD {
        for text in &texts {
            for &subject in &subjects {
                client.publish(subject, (*text).into()).await.unwrap();
                sent += 1;
            }
        }
        client.flush().await.unwrap();
    }
    sent
}

/// Returns a roll call of a test deployer.
fn question() -> Vec<u8> {
    json!({ "reply_to": format!("deploy.responses.{}", Uuid::new_v4()), "per_host": true }).to_string().into_bytes()
}

fn many(text: impl Fn() -> Vec<u8>) -> Vec<Vec<u8>> {
    (0..2_000).map(|_| text()).collect()
}

/// Floods `ns1` with the keys of a test host and a test deployer, and meanwhile finds it and deploys to it.
async fn stays_small_and_deploys(lab: &mut Lab, texts: Vec<Vec<u8>>) {
    let before = most_resident(lab, "ns1");
    let mut floods = JoinSet::new();
    // What the attackers may publish, and subjects of a prod host, which the server refuses.
    let anything = vec!["deploy.discover", "deploy.discover.prod", "deploy.prod.ns1", "deploy.responses.prod.ns1.x"];
    for (key, subjects) in [
        (&lab.test_deployer, vec!["deploy.discover"]),
        (&lab.test_deployer, anything.clone()),
        (lab.key(&host("test1")).unwrap(), anything),
    ] {
        let client = lab.server.connect(key).await.unwrap();
        floods.spawn(flood(client, subjects, texts.clone()));
    }

    let admin = lab.server.connect(&lab.admin).await.unwrap();
    let token = Uuid::new_v4().to_string();
    let mut answers = subscribe(&admin, &format!("deploy.responses.prod.*.{token}")).await.unwrap();
    let call = json!({ "reply_to": format!("deploy.responses.{token}"), "per_host": true }).to_string();
    admin.publish("deploy.discover.prod", call.into()).await.unwrap();
    assert_eq!(next(&mut answers).await.unwrap().subject.as_str(), format!("deploy.responses.prod.ns1.{token}"));

    let mut ends = subscribe(&admin, "deploy.responses.prod.ns1.4f.*").await.unwrap();
    let request = json!({
        "action": "switch", "revision": "main", "id": "r-1", "reply_to": "deploy.responses.prod.ns1.4f.r-1"
    });
    admin.publish(NS1, request.to_string().into()).await.unwrap();
    loop {
        let answer = message(&next(&mut ends).await.unwrap()).unwrap();
        if is_final(&answer) {
            assert_eq!(answer["status"], "completed");
            break;
        }
    }

    let sent: u64 = floods.join_all().await.into_iter().sum();
    let most = most_resident(lab, "ns1");
    assert!(most <= RESIDENT_KIB, "{most} KiB after {sent} messages, {before} KiB before");
    let log = lab.fleet.listener(&host("ns1")).unwrap().output();
    assert!(log.len() < 64 * 1024, "{} bytes of log", log.len());
}

#[tokio::test]
async fn questions_without_end_leave_a_listener_small_and_at_work() {
    let mut lab = lab().await;
    stays_small_and_deploys(&mut lab, many(question)).await;
}

#[tokio::test]
async fn messages_as_long_as_the_server_allows_leave_a_listener_small_and_at_work() {
    let mut lab = lab().await;
    stays_small_and_deploys(&mut lab, vec![vec![b' '; 1_000_000]; 4]).await;
}

#[tokio::test]
async fn messages_as_long_as_a_request_may_be_leave_a_listener_small_and_at_work() {
    let mut lab = lab().await;
    stays_small_and_deploys(&mut lab, vec![vec![b' '; 64_000]; 16]).await;
}

/// A flood with a key that may deploy to the host: requests run one by one, and the number of refusals is bounded.
#[tokio::test]
async fn requests_without_end_make_no_host_large_and_no_log_long() {
    let mut lab = lab().await;
    let client = lab.server.connect(&lab.test_deployer).await.unwrap();
    let request = || {
        let id = Uuid::new_v4();
        let reply_to = format!("deploy.responses.test.test1.4f.{id}");
        let revision = format!("a..{}", "b".repeat(30_000));
        json!({ "action": "switch", "revision": revision, "id": id, "reply_to": reply_to }).to_string().into_bytes()
    };
    let sent = flood(client, vec!["deploy.test.test1"], many(request)).await;
    let runs = fs::read_dir(lab.folder().join("hosts/test1/state/runs")).unwrap().count();
    let most = most_resident(&mut lab, "test1");
    assert!(most <= RESIDENT_KIB, "{most} KiB after {sent} requests");
    assert_eq!(runs, 0);
    let log = lab.fleet.listener(&host("test1")).unwrap().output();
    assert!(log.len() < 64 * 1024, "{} bytes of log", log.len());
}
