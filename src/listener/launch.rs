//! How the process over a run comes to live on its own, out of reach of whatever ends the listener: in a transient unit where
//! PID 1 is systemd, else in a session.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::geteuid;
use uuid::Uuid;

use super::NAMESPACE;
use super::host::Host;
use super::output::clean;
use super::run::{RunDir, Spec};

/// How long the process over a run may take to say that it has the run in hand.
const START_WITHIN: Duration = Duration::from_secs(30);

/// What the process over a run needs to end it, beyond the grace that the run itself has.
const TIDY_UP: Duration = Duration::from_mins(1);

/// What systemd tells a service of that service alone. A run that took it for its own would answer to the wrong place.
#[rustfmt::skip]
const OF_THE_LISTENER: &[&str] = &[
    "CACHE_DIRECTORY", "CONFIGURATION_DIRECTORY", "CREDENTIALS_DIRECTORY", "EXIT_CODE", "EXIT_STATUS", "FDSTORE",
    "INVOCATION_ID", "JOURNAL_STREAM", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID",
    "LOGS_DIRECTORY", "MAINPID", "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE", "NOTIFY_SOCKET",
    "RUNTIME_DIRECTORY", "SERVICE_RESULT", "STATE_DIRECTORY", "SYSTEMD_EXEC_PID", "WATCHDOG_PID", "WATCHDOG_USEC",
];

#[derive(Debug, Clone)]
pub(super) struct Launcher {
    supervisor: PathBuf,
    /// Whether it may ask systemd for a unit of the system, see `sd_booted(3)`.
    has_units: bool,
}

impl Launcher {
    pub(super) fn new(supervisor: PathBuf, host: &Host) -> Self {
        Self { supervisor, has_units: host.has_systemd() && geteuid().is_root() }
    }

    /// Starts the process over the run in this directory. Blocks, in a unit until the process has the run in hand. An
    /// error does not mean for sure that there is no such process: its lock tells.
    pub(super) fn launch(&self, dir: &RunDir, spec: &Spec) -> io::Result<()> {
        if self.has_units { self.in_a_unit(dir, spec) } else { self.in_a_session(dir) }
    }

    /// A control group is what systemd ends a service by, the listener's as well as this one's.
    fn in_a_unit(&self, dir: &RunDir, spec: &Spec) -> io::Result<()> {
        dir.write_environment(&environment(env::vars_os()))?;
        let output = Command::new("systemd-run")
            .args(arguments(&self.supervisor, dir, spec))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| io::Error::new(error.kind(), format!("systemd-run cannot be started: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("systemd-run: {}", clean(said.trim()))))
    }

    /// In a session of its own, which it makes itself: no terminal and no process group are shared with the listener.
    fn in_a_session(&self, dir: &RunDir) -> io::Result<()> {
        // Not waited for: the files tell how it goes. The runtime reaps it once it has ended.
        tokio::process::Command::new(&self.supervisor)
            .arg("supervise")
            .args(dir.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("supervisor.log"))?)
            .spawn()?;
        Ok(())
    }
}

/// The arguments of `systemd-run` that start the process over the run in this directory. It returns once that process
/// has the run in hand, and nothing ties the two together: no pipe, no terminal, no waiting for the end.
fn arguments(supervisor: &Path, dir: &RunDir, spec: &Spec) -> Vec<OsString> {
    let grace = spec.settings.grace();
    // The run keeps its own time. This is for one whose supervisor does not, and it has all that may come after the
    // program, too: waiting to be confirmed, and the return to what ran before, which takes as long as any activation.
    let confirmation = Duration::from_millis(spec.confirm_timeout_ms.unwrap_or_default());
    let longest = 2 * (spec.settings.timeout() + grace) + confirmation + 10 * TIDY_UP;
    let words = [
        format!("--unit={}", name(dir)),
        format!("--description=homelab-deploy: {} of {}", spec.action, spec.revision),
        "--collect".to_owned(),
        "--quiet".to_owned(),
        "--no-ask-password".to_owned(),
        "--service-type=notify".to_owned(),
        // The supervisor ends its processes in the order that makes sense. What is left when it is gone, or did not come
        // to that, has no claim to live on: all of the unit is killed.
        "--property=KillMode=mixed".to_owned(),
        format!("--property=TimeoutStartSec={}", START_WITHIN.as_secs()),
        format!("--property=TimeoutStopSec={}", (2 * grace + TIDY_UP).as_secs()),
        format!("--property=RuntimeMaxSec={}", longest.as_secs()),
        // When an evaluation uses up the memory, its end is told like that of any other command.
        "--property=OOMPolicy=continue".to_owned(),
    ];
    let mut arguments: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    // It is forgotten as soon as the run is judged, and ExecStopPost= may come after that: no reason for that to fail.
    let mut environment_file = OsString::from("--property=EnvironmentFile=-");
    environment_file.push(dir.environment_file());
    arguments.push(environment_file);
    let run: Vec<String> = dir.arguments().iter().map(word).collect();
    let end = format!("{} supervise --unit-ended {}", word(supervisor), run.join(" "));
    arguments.push(format!("--property=ExecStopPost={end}").into());
    arguments.extend(["--".into(), supervisor.into(), "supervise".into()]);
    arguments.extend(dir.arguments());
    arguments
}

/// The unit of a run. Two listeners on one machine may run the same request: the name tells their runs apart.
fn name(dir: &RunDir) -> String {
    let path = dir.path().as_os_str().as_encoded_bytes();
    format!("homelab-deploy-run-{}.service", Uuid::new_v5(&NAMESPACE, path).simple())
}

/// The environment of the listener, as the `EnvironmentFile=` of a run: what the host's administrator gave the listener
/// is meant for `nixos-rebuild`. It is a file since the settings of a unit can be read by every user of the machine, and
/// a variable may hold a token.
fn environment(variables: impl IntoIterator<Item = (OsString, OsString)>) -> String {
    let texts =
        variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let meant = texts.filter(|(name, _)| is_name(name) && !OF_THE_LISTENER.contains(&name.as_str()));
    let lines: Vec<String> = meant.map(|(name, value)| format!("{name}={}\n", quoted(&value))).collect();
    lines.concat()
}

/// Whether systemd takes this for the name of a variable; a shell may have exported others.
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// One word of a command line that systemd reads.
fn word(text: impl AsRef<OsStr>) -> String {
    format!("\"{}\"", text.as_ref().to_string_lossy().replace('\\', "\\\\").replace('"', "\\\""))
}

/// A value as systemd reads it in an environment file, which it does like a shell.
fn quoted(value: &str) -> String {
    let mut quoted = String::from("\"");
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '`' | '$') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::run::tests::spec;

    #[test]
    fn a_run_is_a_unit_of_its_own_that_nothing_ties_to_the_listener() {
        let dir = RunDir::in_one("/var/lib/x/runs/the \"run\"".into());
        let arguments = arguments(Path::new("/nix/store/x/bin/homelab-deploy"), &dir, &spec("r-1"));
        let lines: Vec<_> = arguments.iter().map(|argument| argument.to_str().unwrap()).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        --unit=homelab-deploy-run-0d21e7240df0529da2eed76578c200ee.service
        --description=homelab-deploy: switch of main
        --collect
        --quiet
        --no-ask-password
        --service-type=notify
        --property=KillMode=mixed
        --property=TimeoutStartSec=30
        --property=TimeoutStopSec=62
        --property=RuntimeMaxSec=622
        --property=OOMPolicy=continue
        --property=EnvironmentFile=-/var/lib/x/runs/the "run"/environment
        --property=ExecStopPost="/nix/store/x/bin/homelab-deploy" supervise --unit-ended "/var/lib/x/runs/the \"run\""
        --
        /nix/store/x/bin/homelab-deploy
        supervise
        /var/lib/x/runs/the "run"
        "#);
        for tie in ["--pipe", "--wait", "--scope", "--pty"] {
            assert!(!lines.contains(&tie));
        }
    }

    #[test]
    fn the_same_request_at_two_listeners_is_two_units() {
        assert_ne!(name(&RunDir::in_one("/a/runs/x".into())), name(&RunDir::in_one("/b/runs/x".into())));
    }

    #[test]
    fn the_run_has_the_environment_of_the_listener_but_what_systemd_gave_to_that_one() {
        let variables = [
            ("PATH", "/bin:/usr/bin"),
            ("NIX_CONFIG", "access-tokens = github.com=x\nsandbox = true"),
            ("GIT_SSH_COMMAND", r#"ssh -i "$KEY" -o 'X Y' `z` \n"#),
            ("NOTIFY_SOCKET", "/run/systemd/notify"),
            ("CREDENTIALS_DIRECTORY", "/run/credentials/x"),
            ("BASH_FUNC_x%%", "() { :; }"),
            ("9", "x"),
        ];
        let variables = variables.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        insta::assert_snapshot!(environment(variables), @r#"
        PATH="/bin:/usr/bin"
        NIX_CONFIG="access-tokens = github.com=x
        sandbox = true"
        GIT_SSH_COMMAND="ssh -i \"\$KEY\" -o 'X Y' \`z\` \\n"
        "#);
    }
}
