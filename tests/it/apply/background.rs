//! Tests rollouts that are detached, and watched or stopped by another process.

use std::process::Command;

use rustix::process::Signal;

use super::confirm::at_a_terminal;
use super::resume::{listed, only_id};
use super::stage::{self, expect_recap, open, order, ran, until};
use crate::operator;
use crate::support::lab::Lab;
use crate::support::rebuild::GATE;

/// Two waves. Their timeouts end what a failed test leaves behind.
const PLAN: &str = r#"
    revision = "main"
    [defaults]
    accept_timeout = "5s"
    timeout        = "20s"
    [[wave]]
    targets      = ["test.test1", "test.test2"]
    max_parallel = 1
    [[wave]]
    targets = "prod.ns1"
"#;

/// Returns a lab whose first host waits at a gate when it deploys.
async fn held() -> Lab {
    let lab = stage::lab(&["test.test1", "test.test2", "prod.ns1"]).await;
    order(&lab, &["test1"], GATE);
    lab
}

fn detached(lab: &Lab) -> Command {
    let mut command = stage::command(lab, "apply", PLAN);
    command.args(["--yes", "--detach"]);
    command
}

/// Starts a rollout in the background, and returns the printed id.
async fn detach(lab: &Lab) -> String {
    let ended = stage::start(detached(lab)).ended().await.unwrap().expect(0);
    assert_eq!(ended.stdout, format!("{}\n", only_id(lab)), "the id and nothing else");
    only_id(lab)
}

/// Returns the same command as leader of a session, as with `ssh -t`: the foreground processes get SIGHUP when it ends
/// or the terminal goes away.
fn leading(lab: &Lab, inner: &Command) -> Command {
    let mut command = Command::new("setsid");
    command.arg("--ctty").arg(inner.get_program()).args(inner.get_args()).current_dir(lab.home());
    command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

#[tokio::test]
async fn a_detached_rollout_is_followed_to_its_end_by_another_process() {
    let lab = held().await;
    let id = detach(&lab).await;
    // The rollout exists as soon as the command has returned.
    let mut status = operator::start(&lab, &["status", &id]).unwrap();
    assert!(listed(&lab).await[0].contains("running"));
    until(&lab, "test1 start").await;
    status.tells("test1").await.unwrap();
    open(&lab, "test1");
    expect_recap(&status.ended().await.unwrap().expect(0), "3 hosts completed in 2 waves");
    assert_eq!(ran(&lab), ["test1", "test2", "ns1"]);
    assert!(listed(&lab).await[0].contains("succeeded"));
    for (format, told) in [
        ("html", "<td>ns1</td>"),
        ("markdown", "| ns1 | completed |"),
        ("junit", "tests=\"3\" failures=\"0\""),
        ("json", "\"outcome\":\"succeeded\""),
    ] {
        let report = operator::run(&lab, &["report", "--format", format]).await.unwrap().expect(0).stdout;
        assert!(report.contains(told), "{report}");
    }
    operator::run(&lab, &["report", "--out", "/nowhere/page.html"]).await.unwrap().expect(3).told("cannot write");
}

#[tokio::test]
async fn abort_drains_it_and_resume_completes_it() {
    let lab = held().await;
    let id = detach(&lab).await;
    let told = operator::run(&lab, &["rollouts", "--json"]).await.unwrap().expect(0).stdout;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told[0]["id"], &told[0]["outcome"]), (&id.as_str().into(), &"running".into()));
    // Without an id, `abort` stops the running rollout.
    operator::run(&lab, &["abort"]).await.unwrap().expect(0).told("sends nothing new");
    let mut status = operator::start(&lab, &["status"]).unwrap();
    status.tells("interrupted").await.unwrap();
    open(&lab, "test1");
    let ended = status.ended().await.unwrap().expect(130);
    expect_recap(&ended, "Rollout plan was interrupted");
    assert!(!ran(&lab).contains(&"ns1".to_owned()));
    operator::run(&lab, &["abort", &id]).await.unwrap().expect(3).told("is not running");
    operator::run(&lab, &["abort"]).await.unwrap().expect(3).told("no rollout is running");

    let ended = operator::run(&lab, &["apply", "--resume", &id]).await.unwrap().expect(0);
    expect_recap(&ended, "3 hosts completed in 2 waves");
    assert_eq!(ran(&lab), ["test1", "test2", "ns1"]);
}

#[tokio::test]
async fn the_wish_to_stop_a_process_does_not_stop_the_next_one() {
    let lab = held().await;
    let operator = stage::apply(&lab, PLAN);
    until(&lab, "test1 start").await;
    // The stopped process cannot see the stop file.
    operator.signal(Signal::STOP).unwrap();
    let id = only_id(&lab);
    operator::run(&lab, &["abort", &id]).await.unwrap().expect(0);
    operator.signal(Signal::KILL).unwrap();
    operator.ended().await.unwrap();
    open(&lab, "test1");
    operator::run(&lab, &["apply", "--resume", &id]).await.unwrap().expect(0);
    assert_eq!(ran(&lab), ["test1", "test2", "ns1"]);
}

#[tokio::test]
async fn the_end_of_the_terminal_is_not_the_end_of_the_rollout() {
    let lab = held().await;
    let (operator, terminal) = at_a_terminal(leading(&lab, &detached(&lab)));
    operator.ended().await.unwrap().expect(0);
    drop(terminal);
    until(&lab, "test1 start").await;
    let status = operator::start(&lab, &["status", &only_id(&lab)]).unwrap();
    open(&lab, "test1");
    expect_recap(&status.ended().await.unwrap().expect(0), "3 hosts completed in 2 waves");
}

#[tokio::test]
async fn a_terminal_that_goes_away_lets_the_hosts_in_flight_come_to_their_end() {
    let lab = held().await;
    let mut command = stage::command(&lab, "apply", PLAN);
    command.arg("--yes");
    let (operator, terminal) = at_a_terminal(leading(&lab, &command));
    until(&lab, "test1 start").await;
    drop(terminal);
    // Another process reads the record: SIGHUP has arrived.
    let mut status = operator::start(&lab, &["status"]).unwrap();
    status.tells("interrupted: nothing new is sent").await.unwrap();
    open(&lab, "test1");
    assert_eq!(operator.ended().await.unwrap().code, Some(130));
    status.ended().await.unwrap().expect(130).told("1 completed");
    operator::run(&lab, &["apply", "--resume"]).await.unwrap().expect(0);
    assert_eq!(ran(&lab), ["test1", "test2", "ns1"]);
}
