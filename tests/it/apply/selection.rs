//! Tests parts of a plan, and a large plan as a whole.

use std::time::Duration;

use super::crowd::{Course, Crowd};
use super::fake;
use super::stage::{self, expect_recap};
use crate::operator::Ended;
use crate::support::lab::Lab;

const PLAN: &str = r#"
    revision = "main"
    [[wave]]
    name    = "test"
    targets = "test.test1"
    [[wave]]
    name         = "dns"
    targets      = ["prod.ns1", "prod.ns2"]
    max_parallel = 1
    [[wave]]
    name    = "rest"
    targets = ["prod.all"]
"#;

const HOSTS: [(&str, &str); 4] = [("test", "test1"), ("prod", "ns1"), ("prod", "ns2"), ("prod", "jelly")];

async fn crowd(lab: &Lab, hosts: impl IntoIterator<Item = (&str, &str)>) -> Crowd {
    let reports = hosts.into_iter().map(|(tier, host)| fake::modern(tier, host, lab)).collect();
    Crowd::start(lab, reports, |_| Course { takes: Duration::ZERO, status: "completed" }).await
}

/// Applies the plan with these flags, and returns the hosts that ran.
async fn applied(flags: &[&str]) -> (Ended, Vec<String>) {
    let lab = stage::empty(&[]).await;
    let mut crowd = crowd(&lab, HOSTS).await;
    let mut command = stage::command(&lab, "apply", PLAN);
    command.args(["--yes", "--discover-window", "500ms"]).args(flags);
    let ended = stage::start(command).ended().await.unwrap();
    (ended, crowd.ran())
}

#[tokio::test]
async fn waves_and_hosts_can_be_left_out() {
    let cases: [(&[&str], &[&str]); 6] = [
        (&[], &["test1", "ns1", "ns2", "jelly"]),
        (&["--only", "rest"], &["jelly"]),
        (&["--only", "rest", "--only", "test"], &["test1", "jelly"]),
        (&["--from", "dns"], &["ns1", "ns2", "jelly"]),
        (&["--exclude", "ns1"], &["test1", "ns2", "jelly"]),
        (&["--exclude", "ns1", "--from", "dns"], &["ns2", "jelly"]),
    ];
    for (flags, expected) in cases {
        let (ended, ran) = applied(flags).await;
        ended.expect(0);
        assert_eq!(ran, expected, "{flags:?}");
    }
}

#[tokio::test]
async fn a_plan_that_was_saved_keeps_its_empty_waves() {
    let lab = stage::empty(&[]).await;
    let _crowd = crowd(&lab, HOSTS).await;
    let plan = format!("{PLAN}[[wave]]\ntargets = 'prod.role.none'\nmin_hosts = 0\n");
    let mut save = stage::command(&lab, "plan", &plan);
    save.args(["--discover-window", "500ms", "--out", "planned.json"]);
    stage::start(save).ended().await.unwrap().expect(0);
    let mut apply = lab.operator(&lab.admin).unwrap();
    apply.args(["apply", "planned.json", "--yes", "--discover-window", "500ms"]);
    stage::start(apply).ended().await.unwrap().expect(0).told("4 hosts completed in 4 waves");
}

#[tokio::test]
async fn what_cannot_be_left_out_is_named_and_nothing_is_sent() {
    let cases: [(&[&str], &str); 5] = [
        (&["--only", "dnss"], "the plan has no wave \"dnss\""),
        (&["--from", "dnss"], "its waves are: test, dns, rest"),
        (&["--exclude", "ns1,ns2", "--from", "dns"], "wave \"dns\" is empty"),
        (&["--exclude", "ns9"], "there is no host ns9 to exclude"),
        (&["--only", "dns", "--from", "dns"], "cannot be used with"),
    ];
    for (flags, told) in cases {
        let (ended, ran) = applied(flags).await;
        ended.expect(2).told(told);
        assert!(ran.is_empty(), "{flags:?}");
    }
}

#[tokio::test]
async fn a_host_that_was_there_the_last_time_is_missed() {
    let lab = stage::empty(&[]).await;
    let plan = |flags: &[&str]| {
        let mut command = stage::command(&lab, "plan", PLAN);
        command.args(["--discover-window", "500ms"]).args(flags);
        stage::start(command)
    };
    let all = crowd(&lab, HOSTS).await;
    stage::apply(&lab, PLAN).ended().await.unwrap().expect(0).not_told("does not answer now");
    drop(all);
    let _rest = crowd(&lab, HOSTS.into_iter().filter(|(_, host)| *host != "jelly").chain([("prod", "nas")])).await;
    let shown = plan(&[]).ended().await.unwrap().expect(0).stdout;
    assert!(shown.contains("warning: jelly was there on 20") && shown.contains("and does not answer now"), "{shown}");
    let shown = plan(&["--exclude", "jelly"]).ended().await.unwrap().expect(0).stdout;
    assert!(!shown.contains("jelly"), "{shown}");
}

/// Without contexts, two fleets share the records of their rollouts.
#[tokio::test]
async fn a_host_of_another_fleet_is_not_missed() {
    const ALL: &str = "revision = 'main'\n[[wave]]\ntargets = 'prod.all'\n";
    let (lab, other) = (stage::empty(&[]).await, stage::empty(&[]).await);
    let _ours = crowd(&lab, [("prod", "nas")]).await;
    let _theirs = crowd(&other, [("prod", "jelly"), ("prod", "nas")]).await;
    for site in [&lab, &other] {
        let mut command = stage::command(site, "apply", ALL);
        command.arg("--yes").env("XDG_STATE_HOME", lab.home().join("state"));
        stage::start(command).ended().await.unwrap().expect(0);
    }
    let shown = stage::start(stage::command(&lab, "plan", ALL)).ended().await.unwrap().expect(0).stdout;
    assert!(shown.contains("1 host in 1 wave") && !shown.contains("does not answer now"), "{shown}");
}

#[tokio::test]
async fn a_wave_of_three_hundred_hosts_takes_seconds() {
    let lab = stage::empty(&[]).await;
    let names: Vec<String> = (1..=300).map(|number| format!("node{number}")).collect();
    let mut crowd = crowd(&lab, names.iter().map(|name| ("prod", name.as_str()))).await;
    let plan = "revision = 'main'\n[[wave]]\ntargets = 'prod.all'\nmin_hosts = 300\n";
    let ended = stage::apply(&lab, plan).ended().await.unwrap().expect(0);
    expect_recap(&ended, "300 hosts completed in 1 wave");
    assert_eq!(crowd.ids().len(), 300);
    assert_eq!(crowd.ran().len(), 300);
    assert!(ended.took < Duration::from_secs(10), "it took {:?}", ended.took);
}
