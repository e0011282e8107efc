//! Tests questions to the operator, their answers, and what the operator is not permitted to do.

use std::fs::File;
use std::io::Write;
use std::process::Command;

use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use tokio::time::{Duration, sleep};

use super::stage::{self, apply, ran, recap};
use super::wiretap::Wiretap;
use crate::operator::{self, Ended, Running};
use crate::support::lab::Lab;
use crate::support::rebuild::GATE;

const QUESTION: &str = "Start this rollout? Only 'yes' is accepted:";

const PLAN: &str = "revision = 'main'\n[[wave]]\ntargets = 'test.test1'\n";

/// A plan whose second wave has to be confirmed.
const CONFIRMED: &str = r#"
    revision = "main"
    [[wave]]
    targets = "test.test1"
    [[wave]]
    name    = "dns"
    targets = "prod.ns1"
    confirm = true
"#;

/// Starts a command with a terminal as its input. What the test writes to the file is typed there.
pub fn at_a_terminal(mut command: Command) -> (Running, File) {
    let (keyboard, terminal) = terminal();
    (Running::start_at(&mut command, terminal).unwrap(), keyboard)
}

/// Starts a command on a terminal that also shows its output.
pub fn at_a_terminal_that_shows(mut command: Command) -> (Running, File) {
    command.env("TERM", "xterm-256color").env("NO_COLOR", "1");
    let (keyboard, terminal) = terminal();
    (Running::start_on(command, terminal, keyboard.try_clone().unwrap()).unwrap(), keyboard)
}

/// Applies a plan whose second wave has to be confirmed, on a terminal that shows its output and takes typed input.
fn on_a_terminal(lab: &Lab) -> (Running, File) {
    let mut command = stage::command(lab, "apply", CONFIRMED);
    command.arg("--yes");
    at_a_terminal_that_shows(command)
}

/// Opens a terminal, and returns the end of its user and the end of the programs.
pub fn terminal() -> (File, File) {
    let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    unlockpt(&keyboard).unwrap();
    let name = ptsname(&keyboard, Vec::new()).unwrap();
    let terminal = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (File::from(keyboard), terminal)
}

/// Applies a plan at a terminal, and answers the question whether to start.
async fn answered(lab: &Lab, answer: &str) -> Ended {
    let (mut operator, mut keyboard) = at_a_terminal(stage::command(lab, "apply", PLAN));
    operator.tells(QUESTION).await.unwrap();
    writeln!(keyboard, "{answer}").unwrap();
    operator.ended().await.unwrap()
}

#[tokio::test]
async fn only_yes_starts_a_rollout() {
    let lab = stage::lab(&["test.test1"]).await;
    let mut tap = Wiretap::begin(&lab).await;
    for no in ["no", "y", "YES", "yes please", ""] {
        let ended = answered(&lab, no).await.expect(4);
        assert!(ended.stderr.contains("Nothing was deployed."), "{no:?}: {}", ended.stderr);
        assert!(tap.requests().await.is_empty(), "{no:?}");
    }
    answered(&lab, "yes").await.expect(0);
    assert_eq!(tap.requests().await, ["deploy.test.test1"]);
    assert_eq!(ran(&lab), ["test1"]);
}

#[tokio::test]
async fn a_terminal_that_goes_away_has_not_said_yes() {
    let lab = stage::lab(&["test.test1"]).await;
    let (mut operator, keyboard) = at_a_terminal(stage::command(&lab, "apply", PLAN));
    operator.tells(QUESTION).await.unwrap();
    drop(keyboard);
    operator.ended().await.unwrap().expect(4);
    assert!(ran(&lab).is_empty());
}

#[tokio::test]
async fn a_wave_that_asks_goes_on_with_yes_and_not_with_no() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    for (answer, code, reached) in [("no", 4, vec!["test1"]), ("yes", 0, vec!["test1", "test1", "ns1"])] {
        let mut command = stage::command(&lab, "apply", CONFIRMED);
        command.arg("--yes");
        let (mut operator, mut keyboard) = at_a_terminal(command);
        operator.tells("Start wave 2 \"dns\"?").await.unwrap();
        writeln!(keyboard, "{answer}").unwrap();
        operator.ended().await.unwrap().expect(code);
        assert_eq!(ran(&lab), reached, "{answer}");
    }
}

#[tokio::test]
async fn the_display_makes_room_for_a_question_and_comes_back() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    stage::order(&lab, &["test1", "ns1"], GATE);

    let (mut operator, keyboard) = on_a_terminal(&lab);
    operator.tells("2/2 dns asks first").await.unwrap();
    stage::open(&lab, "test1");
    answer(&mut operator, keyboard, "no").await;
    let ended = operator.ended().await.unwrap().expect(4);
    ended.told("Only 'yes' is accepted: no").told("was declined before wave 2/2 \"dns\"").not_told("◌ ns1");
    assert_eq!(ran(&lab), ["test1"]);

    let (mut operator, keyboard) = on_a_terminal(&lab);
    answer(&mut operator, keyboard, "yes").await;
    operator.tells("◌ ns1").await.unwrap();
    stage::open(&lab, "ns1");
    operator.ended().await.unwrap().expect(0).told("Only 'yes' is accepted: yes");
    assert_eq!(ran(&lab), ["test1", "test1", "ns1"]);
}

/// Waits for the question before the second wave, and answers it.
async fn answer(operator: &mut Running, mut keyboard: File, answer: &str) {
    operator.tells("Start wave 2 \"dns\"? Only 'yes' is accepted:").await.unwrap();
    // A display that ignored the question would write over it within this time.
    sleep(Duration::from_millis(1200)).await;
    writeln!(keyboard, "{answer}").unwrap();
}

#[tokio::test]
async fn a_wave_that_asks_pauses_where_nobody_can_answer() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let ended = apply(&lab, CONFIRMED).ended().await.unwrap().expect(4);
    insta::assert_snapshot!(recap(&ended), @r#"
◷ Rollout plan is paused before wave 2/2 "dns": nobody was there to confirm it. Wave 2 was not started.
2 hosts: 1 completed, 1 skipped
"#);
    assert_eq!(ran(&lab), ["test1"]);
    let found = operator::run(&lab, &["doctor"]).await.unwrap().stdout;
    assert!(found.contains("the rollout plan is paused"), "{found}");
}

#[tokio::test]
async fn a_credential_of_the_test_tier_is_stopped_before_the_first_wave() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let mut command = lab.operator(&lab.test_deployer).unwrap();
    let plan = "revision = 'main'\n[[wave]]\ntargets = 'test.test1'\n[[wave]]\ntargets = 'prod.ns1'\n";
    command.args(["apply", "--yes", &stage::write_plan(&lab, plan)]);
    let ended = stage::start(command).ended().await.unwrap().expect(3);
    assert!(ended.took < Duration::from_secs(3), "far less than the time in which a host answers");
    ended.told("this credential may not deploy to prod").told("nothing was sent");
    assert_eq!(ran(&lab), [""; 0]);
}
