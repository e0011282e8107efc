//! A supervisor is a process of its own: here it is this test program, told to run nothing but [`be_the_supervisor`].

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;
use crate::listener::run::tests::spec;
use crate::protocol::{Phase, Response, Status};

const RUN_DIR: &str = "SUPERVISED_RUN_DIR";

#[test]
fn be_the_supervisor() {
    let Some(dir) = std::env::var_os(RUN_DIR) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(supervise(Path::new(&dir), &Notifier::new(None).unwrap())).unwrap();
}

/// A run of a shell script, and its supervisor.
struct Supervised {
    folder: tempfile::TempDir,
    dir: RunDir,
    supervisor: Child,
}

impl Supervised {
    fn new(script: &str, adjust: impl FnOnce(&mut Spec)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path().join("run"));
        let mut spec = spec("r-1", &["sh", "-c", script]);
        adjust(&mut spec);
        drop(dir.create(&spec).unwrap());
        let supervisor = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "listener::supervisor::tests::be_the_supervisor"])
            .env(RUN_DIR, dir.path())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { folder, dir, supervisor }
    }

    fn ended(mut self) -> (RunResult, String, Self) {
        assert!(self.supervisor.wait().unwrap().success());
        (self.dir.result().unwrap(), self.dir.output_tail(), self)
    }

    /// The file that the script made at this place, once it is there with something in it.
    fn file(&self, name: &str) -> String {
        let path = self.path(name);
        eventually(&format!("{name} is written"), || fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "in 20 s it did not happen that {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn terminate(pid: &str) {
    assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
}

fn is_alive(pid: &str) -> bool {
    // A zombie has no command line any more.
    fs::read(format!("/proc/{}/cmdline", pid.trim())).is_ok_and(|line| !line.is_empty())
}

#[test]
fn the_end_and_the_output_are_kept_in_order() {
    let (result, output, _) =
        Supervised::new("echo one; echo two >&2; echo activating the configuration...; exit 7", |_| ()).ended();
    assert_eq!(result.end, End::Exited(7));
    assert_eq!(result.phase, Phase::Activate);
    assert!(result.started_at <= result.ended_at);
    assert_eq!(output, "one\ntwo\nactivating the configuration...\n");
}

#[test]
fn the_program_gets_nothing_to_read_and_its_arguments_as_they_are() {
    let (result, output, _) = Supervised::new("cat; printf '%s|' \"$@\"", |spec| {
        spec.argv.extend(["sh", "a b", "$(reboot)", "-x"].map(str::to_owned));
    })
    .ended();
    assert_eq!((result.end, output.as_str()), (End::Exited(0), "a b|$(reboot)|-x|"));
}

#[test]
fn a_signal_and_a_missing_program_are_told() {
    let (result, _, _) = Supervised::new("kill -9 $$", |_| ()).ended();
    assert_eq!(result.end, End::Killed(9));
    let (result, _, _) = Supervised::new("", |spec| spec.argv = vec!["no-such-program".to_owned()]).ended();
    let End::NotStarted(why) = result.end else { panic!("{:?}", result.end) };
    assert_eq!(why, "no-such-program cannot be started: No such file or directory (os error 2)");
}

#[test]
fn a_timeout_ends_the_whole_tree_even_who_ignores_it_or_left_it() {
    let script = "
        trap '' TERM
        sh -c 'trap \"\" TERM; echo $$ > child; while :; do sleep 0.05; done' &
        setsid sh -c 'trap \"\" TERM; echo $$ > escaped; while :; do sleep 0.05; done' &
        (setsid sh -c 'echo $$ > orphan; sleep 600' &)
        wait; wait; wait";
    let run = Supervised::new(script, |spec| (spec.timeout_ms, spec.grace_ms) = (1_500, 200));
    let pids = ["child", "escaped", "orphan"].map(|name| run.file(name));
    assert!(pids.iter().all(|pid| is_alive(pid)));
    let (result, _, _run) = run.ended();
    assert_eq!(result.end, End::TimedOut);
    assert_eq!(pids.iter().filter(|pid| is_alive(pid)).count(), 0);
}

#[test]
fn who_obeys_is_not_killed_and_ends_the_grace() {
    let script = "trap 'echo tidied up; exit 0' TERM; echo > ready; while :; do sleep 0.02; done";
    let run = Supervised::new(script, |spec| (spec.timeout_ms, spec.grace_ms) = (1_500, 600_000));
    let (result, output, _) = run.ended();
    assert_eq!(result.end, End::TimedOut);
    assert!(output.ends_with("tidied up\n"), "{output}");
}

#[test]
fn a_descendant_that_keeps_the_output_open_does_not_hold_up_the_result() {
    let (result, output, run) = Supervised::new("sleep 600 & echo $! > left; echo done", |_| ()).ended();
    assert_eq!((result.end, output.as_str()), (End::Exited(0), "done\n"));
    let pid = run.file("left");
    assert!(is_alive(&pid), "what the program leaves behind on purpose goes on");
    terminate(&pid);
}

#[test]
fn a_descendant_that_goes_on_writing_does_not_hold_up_the_result() {
    let (result, _, run) = Supervised::new("yes & echo $! > left", |_| ()).ended();
    assert_eq!(result.end, End::Exited(0));
    let pid = run.file("left");
    eventually("nobody reads on", || (!is_alive(&pid)).then_some(()));
}

#[test]
fn the_run_is_locked_as_long_as_any_of_its_processes_lives_and_no_longer() {
    let mut run = Supervised::new("sleep 600 & echo $! > left; echo > ready; wait", |_| ());
    run.file("ready");
    assert!(run.dir.lock().is_err());
    Command::new("kill").args(["-KILL", &run.supervisor.id().to_string()]).status().unwrap();
    run.supervisor.wait().unwrap();
    assert!(run.dir.lock().is_err(), "the host is not free as long as its program goes on");
    assert_eq!(run.dir.result(), None);
    let program = parent(&run.file("left"));
    terminate(&run.file("left"));
    eventually("the program ends too", || (!is_alive(&program)).then_some(()));
    assert!(run.dir.lock().is_ok());
}

/// The parent of a process.
fn parent(pid: &str) -> String {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn nobody_takes_a_run_in_hand_that_was_concluded_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RunDir::new(folder.path().join("run"));
    drop(dir.create(&spec("r-1", &["true"])).unwrap());
    drop(take_in_hand(&dir).unwrap());
    dir.write_final(&Response::new("ns1".parse().unwrap(), Status::Failed, "given up")).unwrap();
    assert!(take_in_hand(&dir).is_err());
}

#[test]
fn a_supervisor_that_is_asked_to_end_takes_its_run_along() {
    let run = Supervised::new("setsid sleep 600 & echo $! > escaped; wait", |_| ());
    let pid = run.file("escaped");
    terminate(&run.supervisor.id().to_string());
    let (result, _, _run) = run.ended();
    assert_eq!(result.end, End::Killed(15));
    assert!(!is_alive(&pid));
}

#[test]
fn a_flood_of_output_neither_stops_the_run_nor_fills_the_disk() {
    let (result, output, run) = Supervised::new("yes 0123456789 | head -c 20000000; echo the end", |_| ()).ended();
    assert_eq!(result.end, End::Exited(0));
    assert!(output.ends_with("the end\n"));
    let (current, previous) = run.dir.output_files();
    let size = fs::metadata(current).unwrap().len() + fs::metadata(previous).unwrap().len();
    assert!(size <= 16 * 1024 * 1024, "{size}");
}

#[test]
fn its_session_is_its_own() {
    let run = Supervised::new("echo > ready; exec sleep 600", |_| ());
    run.file("ready");
    let stat = fs::read_to_string(format!("/proc/{}/stat", run.supervisor.id())).unwrap();
    let session = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap();
    assert_eq!(session, run.supervisor.id().to_string());
    terminate(&run.supervisor.id().to_string());
    assert_eq!(run.ended().0.end, End::Killed(15));
}
