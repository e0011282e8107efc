//! Runs programs in their own process groups with time limits, and collects their output.

use std::io;
use std::os::fd::AsFd;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The longest standard output that is read, in bytes: some ten thousand branches and tags.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// How much of the end of standard error is kept, in bytes. It says why a program failed.
const MAX_SAID: usize = 64 * 1024;

/// The process group of a program. Dropping it signals the group, unless the program has exited.
pub(crate) struct Group {
    leader: Option<Pid>,
    signal: Signal,
}

impl Group {
    /// Returns the group of its leader `child`. `signal` ends it.
    pub(crate) fn led_by(child: &Child, signal: Signal) -> Self {
        Self { leader: child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw), signal }
    }

    /// Forgets the group of a program that has exited, as its process id may be reused.
    pub(crate) fn ended(mut self) {
        self.leader = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            kill_process_group(leader, self.signal).ok();
        }
    }
}

/// Runs a program without input and returns its output. Ends its process group after `limit`, with the error
/// `TimedOut`, or when the caller drops the future.
///
/// Waits for the process to exit, not for the end of its output: git over ssh leaves a master connection behind that
/// keeps standard error open for minutes.
pub(crate) async fn output_within(command: &mut Command, limit: Duration) -> io::Result<Output> {
    output_up_to(command, limit, MAX_ANSWER).await
}

/// Does the same for an output of at most `most` bytes.
pub(crate) async fn output_up_to(command: &mut Command, limit: Duration, most: usize) -> io::Result<Output> {
    let mut child = spawn(command.stdin(Stdio::null()))?;
    // git removes its lock files on SIGTERM, but not on SIGKILL.
    let group = Group::led_by(&child, Signal::TERM);
    let output = timeout(limit, follow(&mut child, most)).await??;
    group.ended();
    Ok(output)
}

/// Runs a program whose standard error the user sees and which Ctrl-C reaches. Kills it with the future.
pub(crate) async fn output_shown(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    command.spawn()?.wait_with_output().await
}

/// Does the same as `output_within` for a program that may read `input`. Kills its group instead of sending SIGTERM.
pub(crate) async fn output_of_fed(command: &mut Command, input: &[u8], limit: Duration) -> io::Result<Output> {
    let mut child = spawn(command.stdin(Stdio::piped()))?;
    let group = Group::led_by(&child, Signal::KILL);
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            stdin.write_all(input).await.ok();
        }
        std::future::pending::<()>().await;
    };
    let output = async {
        tokio::select! {
            output = follow(&mut child, MAX_ANSWER) => output,
            () = feed => Err(io::ErrorKind::BrokenPipe.into()),
        }
    };
    let output = timeout(limit, output).await??;
    group.ended();
    Ok(output)
}

fn spawn(command: &mut Command) -> io::Result<Child> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn()
}

async fn follow(child: &mut Child, most: usize) -> io::Result<Output> {
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("its output cannot be read"));
    };
    let (mut answer, mut said) = (Pipe::of(stdout), Pipe::of(stderr));
    let status: ExitStatus = loop {
        tokio::select! {
            status = child.wait() => break status?,
            read = answer.read(), if answer.is_open => read?,
            read = said.read(), if said.is_open => read?,
        }
        answer.is_within(most)?;
        said.keep_last(MAX_SAID);
    };
    answer.drain(most);
    answer.is_within(most)?;
    said.drain(most);
    said.keep_last(MAX_SAID);
    Ok(Output { status, stdout: answer.bytes, stderr: said.bytes })
}

struct Pipe<P> {
    end: P,
    bytes: Vec<u8>,
    is_open: bool,
}

impl<P: AsyncRead + AsFd + Unpin> Pipe<P> {
    const fn of(end: P) -> Self {
        Self { end, bytes: Vec::new(), is_open: true }
    }

    async fn read(&mut self) -> io::Result<()> {
        self.is_open = self.end.read_buf(&mut self.bytes).await? > 0;
        Ok(())
    }

    /// Reads what the program wrote before it exited. Other processes may keep the pipe open, so it may have no end.
    fn drain(&mut self, most: usize) {
        let mut buffer = [0; 8 * 1024];
        while self.bytes.len() <= most
            && let Ok(length @ 1..) = rustix::io::read(&self.end, &mut buffer)
        {
            self.bytes.extend_from_slice(buffer.get(..length).unwrap_or_default());
        }
    }

    fn is_within(&self, bound: usize) -> io::Result<()> {
        let is_too_long = || io::Error::new(io::ErrorKind::FileTooLarge, format!("its answer is over {bound} bytes"));
        if self.bytes.len() > bound { Err(is_too_long()) } else { Ok(()) }
    }

    fn keep_last(&mut self, bound: usize) {
        let surplus = self.bytes.len().saturating_sub(bound);
        self.bytes.drain(..surplus);
    }
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
