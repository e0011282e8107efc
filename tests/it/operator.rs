//! Runs the program as an operator does: its output, its end, and signals to it.

use std::fs::File;
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use miette::{IntoDiagnostic, Result, miette};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use crate::support::lab::Lab;
use crate::support::wait;

/// A running command, which is killed when this is dropped.
pub struct Running {
    child: Child,
    stdout: NamedTempFile,
    stderr: NamedTempFile,
    began: Instant,
    /// Records what a terminal shows, if there is one.
    shown: Option<JoinHandle<()>>,
}

/// A command that has ended, and its output.
#[derive(Debug)]
pub struct Ended {
    /// The exit code, or `None` if a signal ended the command.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

/// Runs the program with the key of an admin until it ends.
pub async fn run(lab: &Lab, arguments: &[&str]) -> Result<Ended> {
    start(lab, arguments)?.ended().await
}

/// Starts the program with the key of an admin.
pub fn start(lab: &Lab, arguments: &[&str]) -> Result<Running> {
    Running::start(lab.operator(&lab.admin)?.args(arguments))
}

impl Running {
    /// Starts a command without input.
    pub fn start(command: &mut Command) -> Result<Self> {
        Self::start_at(command, Stdio::null())
    }

    /// Starts a command with this input.
    pub fn start_at(command: &mut Command, stdin: impl Into<Stdio>) -> Result<Self> {
        let stdout = NamedTempFile::new().into_diagnostic()?;
        let stderr = NamedTempFile::new().into_diagnostic()?;
        command.stdin(stdin);
        command.stdout(stdout.reopen().into_diagnostic()?).stderr(stderr.reopen().into_diagnostic()?);
        let began = Instant::now();
        Ok(Self { child: command.spawn().into_diagnostic()?, stdout, stderr, began, shown: None })
    }

    /// Starts a command on this terminal, with only stdout elsewhere. What the terminal shows counts as stderr.
    pub fn start_on(mut command: Command, terminal: File, mut screen: File) -> Result<Self> {
        let (stdout, stderr) = (NamedTempFile::new().into_diagnostic()?, NamedTempFile::new().into_diagnostic()?);
        let mut taken_down = stderr.reopen().into_diagnostic()?;
        command.stdin(terminal.try_clone().into_diagnostic()?).stderr(terminal);
        command.stdout(stdout.reopen().into_diagnostic()?);
        let began = Instant::now();
        let child = command.spawn().into_diagnostic()?;
        // Reading from a terminal ends with an error once no process has it open.
        let shown = thread::spawn(move || drop(io::copy(&mut screen, &mut taken_down)));
        Ok(Self { child, stdout, stderr, began, shown: Some(shown) })
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&self) -> Result<()> {
        self.signal(Signal::INT)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.ok_or_else(|| miette!("no process"))?, signal).into_diagnostic()
    }

    /// Waits until the command has printed this to stdout.
    pub async fn shows(&mut self, text: &str) -> Result<()> {
        wait::until(&format!("the operator is shown {text:?}"), async || {
            Ok(read(&self.stdout)?.contains(text).then_some(()))
        })
        .await
    }

    /// Waits until the command has printed this to stderr.
    pub async fn tells(&mut self, text: &str) -> Result<()> {
        wait::until(&format!("the operator is told {text:?}"), async || {
            let told = read(&self.stderr)?;
            if words(&told).contains(&words(text)) {
                return Ok(Some(()));
            }
            match self.child.try_wait().into_diagnostic()? {
                Some(status) => Err(miette!("it ended with {status} before it told {text:?}:\n{told}")),
                None => Ok(None),
            }
        })
        .await
    }

    /// Waits until the command ends.
    pub async fn ended(mut self) -> Result<Ended> {
        let status = wait::until("the command ends", async || self.child.try_wait().into_diagnostic()).await;
        let took = self.began.elapsed();
        if let Some(shown) = self.shown.take() {
            shown.join().map_err(|_| miette!("what was shown could not be taken down"))?;
        }
        let (stdout, stderr) = (read(&self.stdout)?, read(&self.stderr)?);
        let code = status.map_err(|error| miette!("{error}\n{stderr}"))?.code();
        Ok(Ended { code, stdout, stderr, took })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The command may have ended by itself, and then there is nothing to do.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Ended {
    /// Asserts the exit code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Asserts that stderr contains this.
    #[track_caller]
    pub fn told(self, text: &str) -> Self {
        assert!(words(&self.stderr).contains(&words(text)), "{text:?} is not in\n{}", self.stderr);
        self
    }

    /// Asserts that stderr does not contain this.
    #[track_caller]
    pub fn not_told(self, text: &str) -> Self {
        assert!(!self.stderr.contains(text), "{text:?} is in\n{}", self.stderr);
        self
    }
}

/// Joins a text into one line. Reports are framed and wrapped to the width of a terminal, and there is none here.
fn words(text: &str) -> String {
    text.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
}

fn read(file: &NamedTempFile) -> Result<String> {
    let mut text = Vec::new();
    file.reopen().into_diagnostic()?.read_to_end(&mut text).into_diagnostic()?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
