//! Tests plans that roll back, with real listeners whose systems can be told apart. What counts is what runs in the
//! end.

use serde_json::Value;

use super::stage::{self, apply, expect_recap, ran};
use super::wiretap::Wiretap;
use crate::generations::{self, NEW, OLD, SWITCH};
use crate::operator::Ended;
use crate::support::lab::Lab;

const HOSTS: [&str; 3] = ["test1", "test2", "test3"];

/// Returns a lab of three hosts. The activation of `test3` fails after everything else succeeded.
async fn lab() -> Lab {
    let mut lab = stage::empty(&["test.test1", "test.test2", "test.test3"]).await;
    for name in HOSTS {
        generations::install(&lab, name);
    }
    stage::order(&lab, &["test3"], &format!("{SWITCH}\nexit 4"));
    lab.listen_all().await.unwrap();
    lab
}

/// Deploys to one host after another, not in the order of their names. The last one fails.
async fn deploy(lab: &Lab, rollback: &str) -> Ended {
    let plan = format!(
        r#"
        revision = "main"
        [[wave]]
        targets      = ["test.test2", "test.test1", "test.test3"]
        max_parallel = 1
        rollback     = "{rollback}"
        "#
    );
    let ended = apply(lab, &plan).ended().await.unwrap().expect(1);
    assert_eq!(ran(lab), ["test2", "test1", "test3"], "each of them activated what is new");
    ended
}

/// Returns what each host runs. Each boots the same.
#[track_caller]
fn systems(lab: &Lab) -> [String; 3] {
    HOSTS.map(|name| {
        let runs = generations::runs(lab, name);
        assert_eq!(generations::boots(lab, name), runs, "{name}");
        runs
    })
}

/// Returns the requests in order, as `test1 deploy`, `test1 confirmed`, `test1 return`. Repeated requests count once,
/// since a host asks again until it receives an answer.
fn asked(requests: &[(String, Value)]) -> Vec<String> {
    let words = requests.iter().map(|(subject, request)| {
        let what = match (request["returns"].is_string(), request["confirmed"] == true) {
            (true, _) => "return",
            (false, true) => "confirmed",
            (false, false) => "deploy",
        };
        format!("{} {what}", subject.trim_start_matches("deploy.test."))
    });
    let mut asked: Vec<_> = words.collect();
    asked.dedup();
    asked
}

#[tokio::test]
async fn a_wave_whose_last_host_fails_returns_newest_first_and_runs_what_it_ran_before() {
    let lab = lab().await;
    let mut tap = Wiretap::begin(&lab).await;
    let ended = deploy(&lab, "wave").await;
    assert_eq!(systems(&lab), [OLD; 3]);
    expect_recap(&ended, "1 failed, 0 may fail. 2 hosts that had completed returned to what ran before.");
    expect_recap(&ended, "test1 returned returned to what ran before");
    expect_recap(&ended, "test2 returned returned to what ran before");
    expect_recap(&ended, "test3 failed activation:");
    expect_recap(&ended, "3 hosts: 2 returned to what ran before, 1 failed");

    let requests = tap.requests_in_full().await;
    let deployed = ["test2 deploy", "test2 confirmed", "test1 deploy", "test1 confirmed", "test3 deploy"];
    assert_eq!(asked(&requests), [&deployed[..], &["test1 return", "test2 return"]].concat());
}

#[tokio::test]
async fn a_host_that_fails_returns_alone_when_its_wave_does_not() {
    let lab = lab().await;
    let mut tap = Wiretap::begin(&lab).await;
    let ended = deploy(&lab, "auto").await;
    assert_eq!(systems(&lab), [NEW, NEW, OLD]);
    expect_recap(&ended, "test3 failed activation:");
    expect_recap(&ended, "3 hosts: 2 completed, 1 failed");
    assert!(asked(&tap.requests_in_full().await).iter().all(|asked| !asked.ends_with("return")));
}
