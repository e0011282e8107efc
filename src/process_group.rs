//! Runs programs, and ends them with all that they start.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::os::fd::AsFd;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::text::safe;

/// The longest answer on stdout, in bytes: some ten thousand branches and tags.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// The length of stderr's end that is kept, in bytes. It says why a program failed.
const MAX_SAID: usize = 64 * 1024;

/// The length of stderr's end in which the last line is looked for, in bytes.
const LAST_LINE_BYTES: usize = 1024;

/// The process group of a program, ended when this value is dropped, unless the program has ended by itself.
struct Group {
    leader: Option<Pid>,
    signal: Signal,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            kill_process_group(leader, self.signal).ok();
        }
    }
}

/// Runs a program without stdin, and returns its output. After `limit`, or when the future is dropped, it is ended with
/// all that it started; the error is then `TimedOut`.
///
/// Only the end of the process is waited for, and not that of its output: git over ssh leaves a master connection
/// behind that holds stderr open for minutes.
pub(crate) async fn output_within(command: &mut Command, limit: Duration) -> io::Result<Output> {
    output_up_to(command, limit, MAX_ANSWER).await
}

/// Like [`output_within`], with a bound on the answer in bytes.
pub(crate) async fn output_up_to(command: &mut Command, limit: Duration, most: usize) -> io::Result<Output> {
    // git removes its locks on SIGTERM, and not when it is killed.
    run(command.stdin(Stdio::null()).stdout(Stdio::piped()), &[], Signal::TERM, limit, most).await
}

/// Runs a program whose stderr the operator sees, and which Ctrl-C ends with this one. It also ends with its caller.
pub(crate) async fn output_shown(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    command.spawn()?.wait_with_output().await
}

/// Runs a program without an answer that may read `input`. Returns its exit status, and the last line of its stderr,
/// which says why it failed. It is killed at the limit, as it need not heed SIGTERM.
pub(crate) async fn end_of(
    command: &mut Command,
    input: &[u8],
    limit: Duration,
) -> io::Result<(ExitStatus, Option<String>)> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::null());
    let Output { status, mut stderr, .. } = run(command, input, Signal::KILL, limit, 0).await?;
    keep_last(&mut stderr, LAST_LINE_BYTES);
    let said = String::from_utf8_lossy(&stderr);
    Ok((status, said.lines().map(str::trim).rfind(|line| !line.is_empty()).map(safe)))
}

/// Runs a program in a group of its own, so that Ctrl-C does not reach it, and this signal ends all that it started.
async fn run(command: &mut Command, input: &[u8], signal: Signal, limit: Duration, most: usize) -> io::Result<Output> {
    let mut child = command.stderr(Stdio::piped()).process_group(0).spawn()?;
    let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let mut group = Group { leader, signal };
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            stdin.write_all(input).await.ok();
        }
        pending::<Infallible>().await
    };
    let output = async {
        tokio::select! {
            output = follow(&mut child, most) => output,
            never = feed => match never {},
        }
    };
    let output = timeout(limit, output).await??;
    // The process id may soon be another program's.
    group.leader = None;
    Ok(output)
}

async fn follow(child: &mut Child, most: usize) -> io::Result<Output> {
    let (mut answer, mut said) = (Pipe::of(child.stdout.take()), Pipe::of(child.stderr.take()));
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            read = answer.read() => read?,
            read = said.read() => read?,
        }
        answer.is_within(most)?;
        keep_last(&mut said.bytes, MAX_SAID);
    };
    answer.drain(most);
    answer.is_within(most)?;
    said.drain(MAX_ANSWER);
    keep_last(&mut said.bytes, MAX_SAID);
    Ok(Output { status, stdout: answer.bytes, stderr: said.bytes })
}

/// The output of a program, up to the end of the pipe.
struct Pipe<P> {
    end: Option<P>,
    bytes: Vec<u8>,
}

impl<P: AsyncRead + AsFd + Unpin> Pipe<P> {
    const fn of(end: Option<P>) -> Self {
        Self { end, bytes: Vec::new() }
    }

    /// Reads more; never returns at the end of the pipe.
    async fn read(&mut self) -> io::Result<()> {
        let Some(end) = &mut self.end else { return pending().await };
        if end.read_buf(&mut self.bytes).await? == 0 {
            self.end = None;
        }
        Ok(())
    }

    /// Reads what the program had written when it ended. Other processes may still hold the pipe open.
    fn drain(&mut self, most: usize) {
        let Some(end) = &self.end else { return };
        let mut buffer = [0; 8 * 1024];
        while self.bytes.len() <= most
            && let Ok(length @ 1..) = rustix::io::read(end, &mut buffer)
        {
            self.bytes.extend_from_slice(buffer.get(..length).unwrap_or_default());
        }
    }

    fn is_within(&self, bound: usize) -> io::Result<()> {
        let is_too_long = || io::Error::new(io::ErrorKind::FileTooLarge, format!("its answer is over {bound} bytes"));
        if self.bytes.len() > bound { Err(is_too_long()) } else { Ok(()) }
    }
}

fn keep_last(bytes: &mut Vec<u8>, bound: usize) {
    let surplus = bytes.len().saturating_sub(bound);
    bytes.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    async fn sh(script: &str, limit: Duration) -> io::Result<Output> {
        output_within(Command::new("sh").args(["-c", script]), limit).await
    }

    #[tokio::test]
    async fn all_that_was_written_is_returned() {
        let output = sh("seq 40000; echo why >&2; exit 3", SOON).await.unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert!(output.stdout.ends_with(b"\n40000\n"));
        assert_eq!(output.stdout.len(), 228_894);
        assert_eq!(output.stderr, b"why\n");
    }

    #[tokio::test]
    async fn a_process_that_stays_behind_with_the_pipes_is_not_waited_for() {
        let began = Instant::now();
        for _ in 0..20 {
            let output = sh("setsid sleep 30 & echo $!; echo answer; echo why >&2", SOON).await.unwrap();
            let (pid, answer) = std::str::from_utf8(&output.stdout).unwrap().split_once('\n').unwrap();
            assert_eq!((answer, output.stderr.as_slice()), ("answer\n", b"why\n".as_slice()));
            rustix::process::kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).ok();
        }
        assert!(began.elapsed() < Duration::from_secs(15));
    }

    #[tokio::test]
    async fn what_takes_too_long_or_says_too_much_is_ended() {
        assert_eq!(sh("sleep 30", Duration::from_millis(100)).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(sh("yes", SOON).await.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let output = sh("yes | head -c 1000000 >&2; echo last >&2", SOON).await.unwrap();
        assert_eq!(output.stderr.len(), MAX_SAID);
        assert!(output.stderr.ends_with(b"last\n"));
    }
}
