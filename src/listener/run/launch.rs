//! Starts supervisors out of reach of whatever ends the listener: in transient units with systemd, else in sessions.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::geteuid;
use uuid::Uuid;

use super::{RunDir, RunSpec};
use crate::listener::NAMESPACE;
use crate::listener::config::RunSettings;
use crate::listener::nixos::Host;
use crate::listener::output::clean;

/// The time that a supervisor may take to report that it holds the run's lock.
const START_WITHIN: Duration = Duration::from_secs(30);

/// The time that a supervisor may take to end its run, beyond the run's own grace.
const TIDY_UP: Duration = Duration::from_mins(1);

/// The variables that systemd sets for one service only, such as its sockets and folders: wrong for a run.
#[rustfmt::skip]
const OF_THE_LISTENER: &[&str] = &[
    "CACHE_DIRECTORY", "CONFIGURATION_DIRECTORY", "CREDENTIALS_DIRECTORY", "EXIT_CODE", "EXIT_STATUS", "FDSTORE",
    "INVOCATION_ID", "JOURNAL_STREAM", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID",
    "LOGS_DIRECTORY", "MAINPID", "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE", "NOTIFY_SOCKET",
    "RUNTIME_DIRECTORY", "SERVICE_RESULT", "STATE_DIRECTORY", "SYSTEMD_EXEC_PID", "WATCHDOG_PID", "WATCHDOG_USEC",
];

/// Starts the supervisor of the run in this directory. Blocks, in a unit until the supervisor holds the lock. After an
/// error there may still be a supervisor: the lock tells.
pub(super) fn launch(supervisor: &Path, dir: &RunDir, spec: &RunSpec) -> io::Result<()> {
    // Only root may ask systemd for a system unit.
    let has_units = Host::new(spec.settings.root.clone()).has_systemd() && geteuid().is_root();
    if has_units { in_a_unit(supervisor, dir, spec) } else { in_a_session(supervisor, dir) }
}

/// Starts the supervisor in a unit, and so in a control group other than the listener's: systemd ends services by it.
fn in_a_unit(supervisor: &Path, dir: &RunDir, spec: &RunSpec) -> io::Result<()> {
    fs::write(dir.environment_file(), environment(env::vars_os()))?;
    let output = Command::new("systemd-run")
        .args(arguments(supervisor, dir, spec))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("systemd-run cannot be started: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("systemd-run: {}", clean(said.trim()))))
}

/// Starts the supervisor, which makes a session: it shares no terminal or process group with the listener.
fn in_a_session(supervisor: &Path, dir: &RunDir) -> io::Result<()> {
    // Not waited for: the files tell how the run goes. The runtime reaps the process.
    tokio::process::Command::new(supervisor)
        .arg("supervise")
        .args(dir.arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.path().join("supervisor.log"))?)
        .spawn()?;
    Ok(())
}

/// Returns the arguments of `systemd-run` for the supervisor of this run. The command returns once the supervisor holds
/// the lock, and nothing ties the two together: no pipe, no terminal, no waiting for the end.
fn arguments(supervisor: &Path, dir: &RunDir, spec: &RunSpec) -> Vec<OsString> {
    let RunSettings { timeout, grace, .. } = spec.settings;
    // The run keeps its own time. This limit is for a broken supervisor, and includes all that may come after the
    // program: the confirmation, and the rollback, which takes as long as any activation.
    let longest =
        2 * (timeout + grace) + Duration::from_millis(spec.confirm_timeout_ms.unwrap_or_default()) + 10 * TIDY_UP;
    let words = [
        format!("--unit={}", name(dir)),
        format!("--description=homelab-deploy: {} of {}", spec.action, spec.revision),
        "--collect".to_owned(),
        "--quiet".to_owned(),
        "--no-ask-password".to_owned(),
        "--service-type=notify".to_owned(),
        // The supervisor ends its processes in a sensible order. Whatever is left afterwards is killed with the unit.
        "--property=KillMode=mixed".to_owned(),
        format!("--property=TimeoutStartSec={}", START_WITHIN.as_secs()),
        format!("--property=TimeoutStopSec={}", (2 * grace + TIDY_UP).as_secs()),
        format!("--property=RuntimeMaxSec={}", longest.as_secs()),
        // A program that uses up the memory ends like any other command that fails.
        "--property=OOMPolicy=continue".to_owned(),
    ];
    let mut arguments: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    // The file is removed as soon as the run is judged, and ExecStopPost= may come later: it must not fail for that.
    let mut environment_file = OsString::from("--property=EnvironmentFile=-");
    environment_file.push(dir.environment_file());
    arguments.push(environment_file);
    let run = dir.arguments().map(word);
    let end = format!("{} supervise --unit-ended {}", word(supervisor), run.join(" "));
    arguments.push(format!("--property=ExecStopPost={end}").into());
    arguments.extend(["--".into(), supervisor.into(), "supervise".into()]);
    arguments.extend(dir.arguments().map(OsString::from));
    arguments
}

/// Returns the unit's name, made from the directory, as two listeners on one machine may run the same request.
fn name(dir: &RunDir) -> String {
    let path = dir.path().as_os_str().as_encoded_bytes();
    format!("homelab-deploy-run-{}.service", Uuid::new_v5(&NAMESPACE, path).simple())
}

/// Returns the listener's environment as the `EnvironmentFile=` of a run: it is meant for `nixos-rebuild`. A file,
/// since every user can read the settings of a unit, and a variable may hold a token.
fn environment(variables: impl IntoIterator<Item = (OsString, OsString)>) -> String {
    let texts =
        variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let meant = texts.filter(|(name, _)| !OF_THE_LISTENER.contains(&name.as_str()));
    let lines: Vec<String> = meant.map(|(name, value)| format!("{name}={}\n", quoted(&value))).collect();
    lines.concat()
}

/// Quotes one word of a command line that systemd parses.
fn word(text: impl AsRef<OsStr>) -> String {
    format!("\"{}\"", text.as_ref().to_string_lossy().replace('\\', "\\\\").replace('"', "\\\""))
}

/// Quotes a value of an environment file, which systemd parses like a shell.
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
        --property=ExecStopPost="/nix/store/x/bin/homelab-deploy" supervise --unit-ended "/var/lib/x/runs/the \"run\"" "/var/lib/x/runs/the \"run\""
        --
        /nix/store/x/bin/homelab-deploy
        supervise
        /var/lib/x/runs/the "run"
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
