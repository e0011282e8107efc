//! Tests hosts that already run and boot what a plan would deploy.

use std::fs;
use std::os::unix::fs::symlink;

use super::stage::{self, apply, expect_recap, ran};
use crate::generations::{self, OLD, SWITCH};
use crate::operator;

const PLAN: &str = r#"
    revision = "main"
    [[wave]]
    targets   = "test.test1"
    bake_time = "1h"
    [[wave]]
    targets = "prod.ns1"
"#;

#[tokio::test]
async fn a_plan_asks_only_hosts_that_are_not_current() {
    let mut lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    for name in ["test1", "ns1"] {
        generations::install(&lab, name);
    }
    lab.listen_all().await.unwrap();
    let short = PLAN.replace("1h", "1s");
    apply(&lab, &short).ended().await.unwrap().expect(0);
    assert_eq!(ran(&lab), ["test1", "ns1"]);

    // A wave that changes nothing does not bake.
    let again = apply(&lab, PLAN).ended().await.unwrap().expect(0);
    expect_recap(&again, "2 hosts current in 2 waves");
    again.told("test1= ns1= are current and not asked");
    assert_eq!(ran(&lab), ["test1", "ns1"]);

    // Another system was activated by hand.
    let running = generations::root(&lab, "ns1").join("run/current-system");
    fs::remove_file(&running).unwrap();
    symlink(OLD, &running).unwrap();
    let by_hand = apply(&lab, PLAN).ended().await.unwrap().expect(0);
    expect_recap(&by_hand, "1 of 2 hosts completed and 1 current in 2 waves");
    assert_eq!(ran(&lab), ["test1", "ns1", "ns1"]);

    let mut all = stage::command(&lab, "apply", &short);
    all.args(["--yes", "--even-if-current"]);
    expect_recap(&stage::start(all).ended().await.unwrap().expect(0), "2 hosts completed in 2 waves");
    assert_eq!(ran(&lab), ["test1", "ns1", "ns1", "test1", "ns1"]);

    // A deployment to a single host always runs.
    operator::run(&lab, &["deploy", "deploy.prod.ns1"]).await.unwrap();
    assert_eq!(ran(&lab).len(), 6);

    // A failed run may have changed anything.
    stage::order(&lab, &["ns1"], &format!("{SWITCH}\nexit 4"));
    operator::run(&lab, &["deploy", "deploy.prod.ns1"]).await.unwrap();
    stage::order(&lab, &["ns1"], SWITCH);
    apply(&lab, PLAN).ended().await.unwrap().expect(0);
    assert_eq!(ran(&lab).len(), 8);
}
