//! Tests checks, which run between a wave that succeeded and the next one.

use std::fs;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::stage::{self, apply, expect_recap, ran, recap};
use crate::operator::Ended;
use crate::support::lab::Lab;
use crate::support::wait;

/// Returns a plan of a wave with a check, and a second wave. The check is a shell script without `'`.
fn checked(script: &str) -> String {
    format!(
        "revision = 'main'\n[[wave]]\nname = 'canary'\ntargets = 'test.test1'\n\
         check = ['sh', '-c', '''{script}''']\n[[wave]]\ntargets = 'prod.ns1'\n"
    )
}

async fn halted(lab: &Lab, plan: &str) -> Ended {
    let ended = apply(lab, plan).ended().await.unwrap().expect(1);
    assert_eq!(ran(lab), ["test1"]);
    ended
}

#[tokio::test]
async fn a_check_runs_after_its_wave_and_before_the_next() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let record = lab.fleet.rebuild().folder().join("record");
    // The check copies what the simulated nixos-rebuild has recorded by then.
    let script = format!("cp {} seen; echo \"$HOMELAB_DEPLOY_WAVE $HOMELAB_DEPLOY_HOSTS\" >>seen", record.display());
    apply(&lab, &checked(&script)).ended().await.unwrap().expect(0);
    assert_eq!(ran(&lab), ["test1", "ns1"]);
    let seen = fs::read_to_string(lab.home().join("seen")).unwrap();
    let seen: Vec<_> = seen.lines().skip(1).collect();
    assert_eq!(seen, ["test1 end 0", "canary test1"]);
}

#[tokio::test]
async fn a_check_that_fails_halts_the_rollout_and_says_why() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let ended = halted(&lab, &checked("echo looking; echo the name server is silent >&2; exit 3")).await;
    insta::assert_snapshot!(recap(&ended), @r#"
✖ Rollout plan failed in wave 1/2 "canary": its check says: exit code 3: the name server is silent. Wave 2 was not started.
2 hosts: 1 completed, 1 skipped
"#);
}

#[tokio::test]
async fn a_check_that_hangs_is_ended_with_all_that_it_started() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let plan =
        checked("echo $$ >pids; sleep 60 & echo $! >>pids; wait").replace("check =", "check_timeout = '2s'\ncheck =");
    let ended = halted(&lab, &plan).await;
    expect_recap(&ended, "its check says: sh did not end within");
    let pids = fs::read_to_string(lab.home().join("pids")).unwrap();
    assert_eq!(pids.lines().count(), 2);
    for pid in pids.lines() {
        wait::until("what the check started has ended", async || Ok((!is_running(pid)).then_some(()))).await.unwrap();
    }
}

/// Whether a process runs and is not a zombie.
fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[tokio::test]
async fn a_wave_bakes_before_the_next_begins() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let plan = r#"
        revision = "main"
        [[wave]]
        targets   = "test.test1"
        bake_time = "1s"
        [[wave]]
        targets   = "prod.ns1"
        bake_time = "1h"
    "#;
    let mut command = stage::command(&lab, "apply", plan);
    command.args(["--yes", "--json"]);
    let ended = stage::start(command).ended().await.unwrap().expect(0);
    let events: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = |event: &str, host: &str| -> Timestamp {
        let found = events.iter().find(|found| found["event"] == event && found["host"] == host).unwrap();
        found["at"].as_str().unwrap().parse().unwrap()
    };
    let baked = at("dispatched", "ns1").duration_since(at("final", "test1"));
    assert!(baked >= SignedDuration::from_secs(1), "it baked for {baked}");
}
