//! Tests that output that cannot be written is an error, except for a reader that has seen enough.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::ioctl_fionread;

use crate::apply::stage;
use crate::operator::Running;
use crate::support::lab::Lab;
use crate::support::wait;

/// All commands that print, with their arguments. Those of [`SILENT`] print nothing.
const PRINTING: &[&[&str]] = &[
    &["--help"],
    &["--version"],
    &["help", "apply"],
    &["hosts"],
    &["hosts", "--json"],
    &["hosts", "--watch"],
    &["doctor"],
    &["doctor", "--json"],
    &["doctor", "--listener", "--tier", "test", "--hostname", "test1", "--flake-url", "git+https://h/x"],
    &["plan", "plan"],
    &["plan", "--schema"],
    &["apply", "plan", "--yes", "--json"],
    &["deploy", "test.test1", "--branch", "main", "--json"],
    &["rollouts"],
    &["rollouts", "--json"],
    &["status", "--json"],
    &["report"],
    &["report", "--format", "markdown"],
    &["logs", "test1"],
    &["keygen", "new.seed"],
    &["nats-config", "--admin", "UAEDYVF5GRVUUDH7M6B5NY36THNYON3NEUAVVRS3JQCAYNOIOCRYINZ3"],
    &["completions", "bash"],
    &["man"],
    // The rollout continues after the command has ended.
    &["apply", "plan", "--yes", "--detach"],
];

/// Commands that print nothing to stdout, need a person or a peer, or print as `deploy` does.
const SILENT: &[&str] = &["rollback", "build", "init", "abort", "listener", "mcp", "help"];

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

fn command(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = lab.operator(&lab.admin).unwrap();
    command.args(arguments);
    command
}

async fn lab() -> Lab {
    let mut lab = stage::empty(&["test.test1"]).await;
    lab.listen(&crate::host("test1"), &[]).await.unwrap();
    stage::order(&lab, &["test1"], "echo building");
    stage::write_plan(&lab, "revision = 'main'\n[[wave]]\ntargets = 'test.test1'\n");
    Running::start(&mut command(&lab, &["apply", "plan", "--yes"])).unwrap().ended().await.unwrap().expect(0);
    lab
}

#[test]
fn each_command_is_known_to_print_or_not_to() {
    let help = Command::new(crate::program()).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let names = commands.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    let names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() >= 15, "{names:?}");
    for name in names {
        assert!(SILENT.contains(&name) || PRINTING.iter().any(|command| command[0] == name), "{name}");
    }
}

/// Returns the exit code and stderr of a command with this stdout.
async fn run(mut command: Command, stdout: impl Into<Stdio>) -> (Option<i32>, String) {
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    let child = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
    let output = wait::event("the command ends", child.wait_with_output()).await.unwrap().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" "))
}

#[tokio::test]
async fn a_full_disk_is_an_error_of_every_command_that_prints() {
    let lab = lab().await;
    // Output for people counts as well: this command succeeds, and all its output goes to stderr.
    let mut telling = command(&lab, &["apply", "plan", "--yes"]);
    let output = telling.stdin(Stdio::null()).stderr(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    for arguments in PRINTING {
        let (code, told) = run(command(&lab, arguments), full()).await;
        assert_eq!(code, Some(1), "{arguments:?}: {told}");
        assert!(told.contains("No space left on device"), "{arguments:?}: {told}");
    }
}

#[tokio::test]
async fn a_reader_that_has_left_is_no_error_of_any_command() {
    let lab = lab().await;
    for arguments in PRINTING.iter().filter(|arguments| arguments[0] != "doctor") {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        // An earlier `keygen` has made this file.
        std::fs::remove_file(lab.home().join("new.seed")).ok();
        let (code, told) = run(command(&lab, arguments), writer).await;
        assert_eq!(code, Some(0), "{arguments:?}: {told}");
    }
}

#[tokio::test]
async fn a_reader_that_takes_nothing_right_now_is_waited_for() {
    let lab = lab().await;
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    fcntl_setfl(&writer, fcntl_getfl(&writer).unwrap() | OFlags::NONBLOCK).unwrap();
    let (page, mut filled) = ([b'-'; 4096], 0);
    while writer.write_all(&page).is_ok() {
        filled += page.len();
    }
    // The pipe holds less than the schema.
    reader.read_exact(&mut page.clone()).unwrap();
    let mut schema = command(&lab, &["plan", "--schema"]);
    let whole = schema.output().unwrap().stdout;
    assert!(whole.len() > page.len());
    let mut child = schema.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(schema);
    wait::until("the pipe is full", async || {
        Ok((ioctl_fionread(&reader).unwrap() == u64::try_from(filled).unwrap()).then_some(()))
    })
    .await
    .unwrap();
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert_eq!(read.split_off(filled - page.len()), whole);
    assert!(child.wait().unwrap().success());
}
