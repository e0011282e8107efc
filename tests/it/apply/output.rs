//! Tests the output for programs, and colors on terminals.

use std::io::Read;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::confirm::terminal;
use super::stage::{self, open, order, ran, until};
use crate::operator::Running;
use crate::support::lab::Lab;
use crate::support::rebuild::GATE;
use crate::support::wait;

const PLAN: &str = "revision = 'main'\n[[wave]]\ntargets = 'test.test1'\n[[wave]]\ntargets = 'prod.ns1'\n";

#[tokio::test]
async fn each_line_of_json_is_an_object_from_begun_to_ended() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let mut command = stage::command(&lab, "apply", PLAN);
    command.args(["--yes", "--json"]);
    let ended = stage::start(command).ended().await.unwrap().expect(0);
    assert_eq!(ended.stderr, "", "no preview, question or recap");
    let events: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds.first(), Some(&"begun"));
    assert_eq!(kinds.last(), Some(&"ended"));
    assert_eq!(kinds.iter().filter(|kind| **kind == "final").count(), 2);
    assert_eq!(events.last().unwrap()["outcome"], "succeeded");
    assert!(!ended.stdout.contains("secret"), "{}", ended.stdout);
}

#[tokio::test]
async fn json_never_asks() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let mut command = stage::command(&lab, "apply", PLAN);
    command.arg("--json");
    let ended = stage::start(command).ended().await.unwrap().expect(2);
    assert_eq!(ended.stdout, "");
    let mut command = stage::command(&lab, "apply", &format!("{PLAN}confirm = true\n"));
    command.args(["--yes", "--json"]);
    let ended = stage::start(command).ended().await.unwrap().expect(4);
    assert_eq!(ended.stderr, "");
    assert!(ended.stdout.lines().last().unwrap().contains("paused"), "{}", ended.stdout);
    assert_eq!(ran(&lab), ["test1"]);
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_does_not_stop_the_rollout() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    order(&lab, &["test1"], GATE);
    let mut command = stage::command(&lab, "apply", PLAN);
    command.args(["--yes", "--json"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = wait::event("the first line", lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(first.contains("\"begun\""), "{first}");
    drop(lines);
    until(&lab, "test1 start").await;
    open(&lab, "test1");
    let output = wait::event("the command ends", child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    assert_eq!(ran(&lab), ["test1", "ns1"]);
}

/// Returns the output of a rollout and an error on a terminal of this kind.
async fn shown(lab: &Lab, term: &str, no_color: &str) -> String {
    let mut apply = stage::command(lab, "apply", PLAN);
    apply.args(["--yes", "--even-if-current"]);
    let mut fail = lab.operator(&lab.admin).unwrap();
    fail.args(["apply", "nowhere"]);
    let mut shown = String::new();
    for (mut command, code) in [(apply, 0), (fail, 2)] {
        command.env("TERM", term).env("NO_COLOR", no_color);
        let (screen, terminal) = terminal();
        let running = Running::start_on(command, terminal, screen).unwrap();
        shown += &running.ended().await.unwrap().expect(code).stderr;
    }
    assert!(shown.contains("2 hosts completed") && shown.contains("there is no plan"), "{shown}");
    shown
}

#[tokio::test]
async fn a_terminal_gets_no_more_than_it_can_do_and_is_wanted() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    // Long enough for progress to be drawn.
    order(&lab, &["test1"], "sleep 1");
    let colors = ["\u{1b}[1m", "\u{1b}[2m", "\u{1b}[3"];
    let dumb = shown(&lab, "dumb", "").await;
    assert!(!dumb.contains('\u{1b}'), "{dumb:?}");
    let plain = shown(&lab, "xterm-256color", "1").await;
    assert!(plain.contains('\u{1b}') && !colors.iter().any(|color| plain.contains(color)), "{plain:?}");
    let colored = shown(&lab, "xterm-256color", "").await;
    assert!(colors.iter().all(|color| colored.contains(color)), "{colored:?}");
    // Only symbols are colored, up to the next word, so that text stays readable on light and dark backgrounds.
    for part in colored.split("\u{1b}[3").skip(1) {
        let (_, symbol) = part.split_once('m').unwrap();
        let (symbol, _) = symbol.split_once("\u{1b}[").unwrap();
        assert!(!symbol.chars().any(char::is_alphanumeric), "{symbol:?} in {colored:?}");
    }
}

/// What a preview looks like on a terminal of this kind.
fn previewed(lab: &Lab, environment: &[(&str, &str)]) -> String {
    let (mut screen, terminal) = terminal();
    let mut command = stage::command(lab, "plan", "revision = 'main'\n[[wave]]\ntargets = 'test.test1'\n");
    command.envs(environment.iter().copied()).stdin(Stdio::null()).stderr(Stdio::null()).stdout(terminal);
    let mut child = command.spawn().unwrap();
    // A terminal that nobody has open any more ends with an error.
    drop(command);
    let mut shown = Vec::new();
    screen.read_to_end(&mut shown).ok();
    assert!(child.wait().unwrap().success());
    String::from_utf8(shown).unwrap()
}

#[tokio::test]
async fn a_preview_has_bold_and_dim_where_the_terminal_has() {
    let lab = stage::lab(&["test.test1"]).await;
    let shown = previewed(&lab, &[("TERM", "xterm-256color")]);
    assert!(shown.starts_with("\x1b[1mRollout plan ") && shown.contains("\x1b[2m  wave "), "{shown:?}");
    for plain in [[("TERM", "dumb")], [("NO_COLOR", "1")]] {
        let shown = previewed(&lab, &plain);
        assert!(shown.starts_with("Rollout plan ") && !shown.contains('\x1b'), "{shown:?}");
    }
}
