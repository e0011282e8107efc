//! Tests with a supervisor in a process of its own: this test program, which runs only [`be_the_supervisor`].

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::listener::nixos::SystemSnapshot;
use crate::listener::nixos::tests::{make_system, point};
use crate::listener::run::tests::{give_back, spec};
use crate::listener::run::{BEFORE, COMMIT as COMMIT_RECORD, CONFIRMED, RunSpec};
use crate::lookup::testing::{git, repository};
use crate::protocol::{Action, ErrorCode, FlakeUrl, Phase, Response, Status};
use crate::testing::make_program;

const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";

const RUN_DIR: &str = "SUPERVISED_RUN_DIR";

/// The `build` action of the scripted `nixos-rebuild`, in the run's directory below the folder of the host.
const BUILD: &str = "[ $1 = switch -o $1 = boot ] || ln -sfn /nix/store/new result
cd ..
if [ $1 = build ]; then
    [ ! -e build ] || . ./build
    exit
fi";

mod by_hand;
mod returning;
mod systems;

#[test]
fn be_the_supervisor() {
    let Some(dir) = std::env::var_os(RUN_DIR) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(supervise(RunDir::in_one(dir.into()), Systemd::at(None).unwrap())).unwrap();
}

/// A run whose `nixos-rebuild` is a shell script, and its supervisor. The script activates; the build before makes the
/// system `new`, and runs the script `build` in the folder of the host.
struct Supervised {
    folder: tempfile::TempDir,
    dir: RunDir,
    supervisor: Child,
}

impl Supervised {
    fn new(script: &str, adjust: impl FnOnce(&mut RunSpec)) -> Self {
        Self::on(tempfile::tempdir().unwrap(), script, adjust)
    }

    /// Runs on a host whose file system is in `folder/root`, and whose programs are in `folder/bin`.
    fn on(folder: tempfile::TempDir, script: &str, adjust: impl FnOnce(&mut RunSpec)) -> Self {
        let bin = folder.path().join("bin");
        make_program(&bin.join("nixos-rebuild"), &format!("{BUILD}\n{script}"));
        let path = std::env::var_os("PATH").unwrap();
        let path = std::iter::once(bin).chain(std::env::split_paths(&path));
        let dir = RunDir::in_one(folder.path().join("run"));
        // A commit, which need not be looked up.
        let revision = COMMIT.parse().unwrap();
        let mut spec = RunSpec { revision, ..spec("r-1") };
        spec.settings.root = folder.path().join("root");
        adjust(&mut spec);
        drop(dir.create(&spec).unwrap());
        let supervisor = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "listener::supervisor::tests::be_the_supervisor"])
            .env(RUN_DIR, dir.path())
            .env("PATH", std::env::join_paths(path).unwrap())
            // As on a German host.
            .envs([("LC_ALL", "de_DE.UTF-8"), ("LANGUAGE", "de")])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { folder, dir, supervisor }
    }

    fn ended(mut self) -> (Response, String, Self) {
        assert!(self.supervisor.wait().unwrap().success());
        (self.dir.spec().unwrap().result(&self.dir).unwrap(), self.dir.output_tail(), self)
    }

    /// Returns the system that the host boots next.
    fn profile(&self) -> Option<String> {
        SystemSnapshot::from_links(&Host::new(self.path("root"))).profile_path().map(str::to_owned)
    }

    /// Returns the content of a file that the script makes, once it is complete.
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

fn verdict(result: &Response) -> String {
    let Response { status, error, message, .. } = result;
    let error = error.as_ref().map(|error| format!(" {error}"));
    format!("{status}{}: {message}", error.unwrap_or_default())
}

fn terminate(pid: &str) {
    // There is no `kill` where the package is built.
    kill_process(Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), Signal::TERM).unwrap();
}

fn is_alive(pid: &str) -> bool {
    // A zombie has no command line any more.
    fs::read(format!("/proc/{}/cmdline", pid.trim())).is_ok_and(|line| !line.is_empty())
}

#[test]
fn the_end_and_the_output_are_kept_in_order() {
    let (result, output, _) =
        Supervised::new("echo one; echo two >&2; echo activating the configuration...; exit 7", |_| ()).ended();
    assert_eq!(verdict(&result), "failed activation_failed: ended with code 7 after: activating the configuration...");
    assert_eq!(result.log_tail, ["one", "two", "activating the configuration..."]);
    assert_eq!(output, "one\ntwo\nactivating the configuration...\n");
}

#[test]
fn the_program_gets_nothing_to_read_and_the_commit_to_deploy() {
    let (result, output, run) = Supervised::new("cat; printf '%s|' \"$@\"", |_| ()).ended();
    assert_eq!(verdict(&result), "completed: switch completed");
    assert_eq!(output, format!("switch|--flake|git+https://h/x?rev={COMMIT}#ns1|"));
    assert_eq!(run.dir.get(COMMIT_RECORD).unwrap().as_str(), COMMIT);
}

#[test]
fn a_password_stands_on_no_command_line() {
    let tells = "echo \"$*\"; tr '\\0' ' ' </proc/$$/cmdline; echo; git config --get-all http.https://h/x.extraHeader";
    let (result, output, _) =
        Supervised::new(tells, |spec| spec.settings.flake = "git+https://bob:s3cret@h/x?dir=a".parse().unwrap())
            .ended();
    assert_eq!(result.status, Status::Completed, "{output}");
    assert!(output.starts_with(&format!("switch --flake git+https://h/x?dir=a&rev={COMMIT}#ns1\n")), "{output}");
    assert!(!output.contains("s3cret"));
    assert!(output.ends_with("Authorization: Basic Ym9iOnMzY3JldA==\n"), "{output}");
}

#[test]
fn whatever_is_read_speaks_english() {
    let (_, output, _) = Supervised::new("echo ${LC_ALL} ${LANGUAGE-none}", |_| ()).ended();
    assert_eq!(output, "C.UTF-8 none\n");
}

#[test]
fn a_signal_and_a_missing_program_are_told() {
    let (result, _, _) = Supervised::new("kill -9 $$", |_| ()).ended();
    assert_eq!(verdict(&result), "failed interrupted: signal 9 ended the run while building");
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("bin/nixos-rebuild");
    let (result, _, _) = Supervised::on(folder, "", |_| fs::remove_file(program).unwrap()).ended();
    let why = "nixos-rebuild cannot be started: No such file or directory (os error 2): it must be on the PATH of the listener";
    assert_eq!(verdict(&result), format!("failed build_failed: {why}"));
}

#[test]
fn a_timeout_ends_the_whole_tree_even_who_ignores_it_or_left_it() {
    let script = "
        trap '' TERM
        sh -c 'trap \"\" TERM; echo $$ > child; while :; do sleep 0.05; done' &
        setsid sh -c 'trap \"\" TERM; echo $$ > escaped; while :; do sleep 0.05; done' &
        (setsid sh -c 'echo $$ > orphan; sleep 600' &)
        wait; wait; wait";
    let run = Supervised::new(script, |spec| {
        (spec.settings.timeout, spec.settings.grace) = (Duration::from_millis(1_500), Duration::from_millis(200));
    });
    let pids = ["child", "escaped", "orphan"].map(|name| run.file(name));
    assert!(pids.iter().all(|pid| is_alive(pid)));
    let (result, _, _run) = run.ended();
    assert_eq!(result.error, Some(ErrorCode::Timeout));
    assert_eq!(pids.iter().filter(|pid| is_alive(pid)).count(), 0);
}

#[test]
fn who_obeys_is_not_killed_and_ends_the_grace() {
    let script = "trap 'echo tidied up; exit 0' TERM; echo > ready; while :; do sleep 0.02; done";
    let run = Supervised::new(script, |spec| {
        (spec.settings.timeout, spec.settings.grace) = (Duration::from_millis(1_500), Duration::from_mins(10));
    });
    let (result, output, _) = run.ended();
    assert_eq!(result.error, Some(ErrorCode::Timeout));
    assert!(output.ends_with("tidied up\n"), "{output}");
}

#[test]
fn a_descendant_that_keeps_the_output_open_does_not_hold_up_the_result() {
    let (result, output, run) = Supervised::new("sleep 600 & echo $! > left; echo done", |_| ()).ended();
    assert_eq!((result.status, output.as_str()), (Status::Completed, "done\n"));
    let pid = run.file("left");
    assert!(is_alive(&pid), "what the program leaves behind on purpose goes on");
    terminate(&pid);
}

#[test]
fn a_descendant_that_goes_on_writing_does_not_hold_up_the_result() {
    let (result, _, run) = Supervised::new("yes & echo $! > left", |_| ()).ended();
    assert_eq!(result.status, Status::Completed);
    let pid = run.file("left");
    eventually("nobody reads on", || (!is_alive(&pid)).then_some(()));
}

#[test]
fn the_run_is_locked_as_long_as_any_of_its_processes_lives_and_no_longer() {
    let mut run = Supervised::new("sleep 600 & echo $! > left; echo > ready; wait", |_| ());
    run.file("ready");
    assert!(run.dir.lock().is_err());
    run.supervisor.kill().unwrap();
    run.supervisor.wait().unwrap();
    assert!(run.dir.lock().is_err(), "the host is not free as long as its program goes on");
    assert_eq!(run.dir.get(RESULT), None);
    terminate(&run.file("left"));
    // Not at once: a process that ends frees its memory before its files.
    eventually("the host is free", || run.dir.lock().ok());
}

#[test]
fn nobody_takes_a_run_in_hand_that_was_concluded_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RunDir::in_one(folder.path().join("run"));
    give_back(&dir.create(&spec("r-1")).unwrap());
    give_back(&take_lock(&dir).unwrap());
    dir.write_and_copy(FINAL, &Response::new("ns1".parse().unwrap(), Status::Failed, "given up")).unwrap();
    assert!(take_lock(&dir).is_err());
}

#[test]
fn a_supervisor_that_is_asked_to_end_takes_its_run_along() {
    let run = Supervised::new("setsid sleep 600 & echo $! > escaped; wait", |_| ());
    let pid = run.file("escaped");
    terminate(&run.supervisor.id().to_string());
    let (result, _, _run) = run.ended();
    assert_eq!(verdict(&result), "failed interrupted: signal 15 ended the run while building");
    assert!(!is_alive(&pid));
}

#[test]
fn a_flood_of_output_neither_stops_the_run_nor_fills_the_disk() {
    let (result, output, run) = Supervised::new("yes 0123456789 | head -c 20000000; echo the end", |_| ()).ended();
    assert_eq!(result.status, Status::Completed);
    assert!(output.ends_with("the end\n"));
    let size: u64 = run.dir.output_parts().into_values().map(|part| fs::metadata(part).unwrap().len()).sum();
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
    assert_eq!(run.ended().0.error, Some(ErrorCode::Interrupted));
}

/// A server that takes connections and never says anything.
fn silent_server() -> (TcpListener, FlakeUrl) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("git+http://{}/nixos", server.local_addr().unwrap());
    (server, url.parse().unwrap())
}

#[test]
fn a_branch_is_deployed_as_the_commit_that_it_is_now() {
    let (repository, flake) = repository();
    let (result, output, run) = Supervised::new("echo \"$3\"", |spec| {
        (spec.settings.flake, spec.revision) = (flake.clone(), "main".parse().unwrap());
    })
    .ended();
    assert_eq!(result.status, Status::Completed);
    let commit = git(repository.path(), &["rev-parse", "main"]);
    assert_eq!(output, format!("{flake}?rev={commit}#ns1\n"));
    assert_eq!(run.dir.get(COMMIT_RECORD).unwrap().as_str(), commit);
}

#[test]
fn a_commit_that_is_no_tip_any_more_is_looked_for_among_all_refs() {
    let fetch = "case $3 in *allRefs=1*) exit 0 ;; esac
echo 'error: Server does not allow request for unadvertised object 8c1f' >&2; exit 1";
    let folder = nixos();
    fs::write(folder.path().join("build"), fetch).unwrap();
    let (result, output, _) = Supervised::on(folder, &format!("echo \"$3\"\n{SWITCH}"), |_| ()).ended();
    assert_eq!(verdict(&result), "completed: switched to generation 42");
    assert!(output.ends_with(&format!("git+https://h/x?allRefs=1&rev={COMMIT}#ns1\n")), "{output}");

    // It is tried once, and only where that may help.
    let builds = |says: &str, flake: &str| {
        let folder = nixos();
        fs::write(folder.path().join("build"), format!("echo built >>builds; echo 'error: {says}' >&2; exit 1"))
            .unwrap();
        let (result, _, run) = Supervised::on(folder, "", |spec| spec.settings.flake = flake.parse().unwrap()).ended();
        (fs::read_to_string(run.path("builds")).unwrap().lines().count(), verdict(&result))
    };
    let unadvertised = "Server does not allow request for unadvertised object 8c1f";
    let failed = |times, message: &str| (times, format!("failed build_failed: {message}"));
    assert_eq!(builds(unadvertised, "git+ssh://h/x"), failed(2, &format!("git: {unadvertised}")));
    assert_eq!(builds(unadvertised, "github:o/r"), failed(1, &format!("git: {unadvertised}")));
    assert_eq!(builds("no attribute x", "git+ssh://h/x"), failed(1, "no attribute x"));
}

#[test]
fn a_branch_that_is_not_there_and_a_server_that_is_not_are_told_apart() {
    let (_repository, flake) = repository();
    let resolve = |flake: &FlakeUrl, revision: &str| {
        let (result, output, _) = Supervised::new("echo built", |spec| {
            (spec.settings.flake, spec.revision) = (flake.clone(), revision.parse().unwrap());
        })
        .ended();
        assert_eq!(output, "", "nothing is built");
        verdict(&result).replace(flake.git_remote().unwrap(), "URL")
    };
    insta::assert_snapshot!(resolve(&flake, "nothere"), @r#"failed invalid_revision: URL has no branch or tag "nothere"; its branches and tags are main, v1"#);
    insta::assert_snapshot!(resolve(&flake, "abcdef1"), @r#"failed invalid_revision: URL has no branch or tag "abcdef1"; no branch, tag, clone or earlier rollout has a commit that begins like this: give all 40 digits"#);

    // Nobody listens there any more.
    let (server, flake) = silent_server();
    drop(server);
    let said = resolve(&flake, "main");
    assert!(said.starts_with("failed build_failed: cannot look up \"main\": fatal: unable to access"), "{said}");
}

#[test]
fn a_server_that_never_answers_ends_with_the_time_of_the_run_or_with_its_supervisor() {
    let (server, flake) = silent_server();
    let run = || {
        Supervised::new("echo built", |spec| {
            (spec.settings.flake, spec.revision) = (flake.clone(), "main".parse().unwrap());
            spec.settings.timeout = Duration::from_millis(1_500);
        })
    };
    let (result, output, _) = run().ended();
    assert_eq!(output, "");
    insta::assert_snapshot!(verdict(&result), @"failed timeout: not finished after 1 s, and stopped while resolving");

    drop(server.accept().unwrap());
    let mut run =
        Supervised::new("", |spec| (spec.settings.flake, spec.revision) = (flake.clone(), "main".parse().unwrap()));
    let (asked, _) = server.accept().unwrap();
    terminate(&run.supervisor.id().to_string());
    assert!(run.supervisor.wait().unwrap().success());
    insta::assert_snapshot!(verdict(&run.dir.spec().unwrap().result(&run.dir).unwrap()), @"failed interrupted: signal 15 ended the run while resolving");
    // The supervisor's git is gone, and has closed its connection.
    let mut asked = asked;
    asked.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    io::copy(&mut asked, &mut io::sink()).unwrap();
}

/// A host that runs the system `old`, generation 41 of its profile, and has a system `new` in its store.
fn nixos() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let old = make_system(&root, "old", "linux");
    make_system(&root, "new", "linux");
    for link in ["run/current-system", "run/booted-system", "nix/var/nix/profiles/system-41-link"] {
        point(&root, link, &old);
    }
    point(&root, "nix/var/nix/profiles/system", "system-41-link");
    folder
}

/// What a successful switch to the system `new` does, as shell commands in the folder of the host.
const SWITCH: &str = "ln -sfn /nix/store/new root/nix/var/nix/profiles/system-42-link
ln -sfn system-42-link root/nix/var/nix/profiles/system
ln -sfn /nix/store/new root/run/current-system";

#[test]
fn what_was_so_before_is_on_record_before_anything_is_changed() {
    let (result, output, run) = Supervised::on(nixos(), &format!("cat run/before.json\n{SWITCH}"), |_| ()).ended();
    assert!(output.contains(r#""current":{"path":"/nix/store/old""#), "{output}");
    assert_eq!(verdict(&result), "completed: switched to generation 42");
    assert_eq!(result.system.as_deref(), Some("/nix/store/new"));
    assert_eq!(run.dir.get(BEFORE).unwrap().generation(), Some(41));
}

#[test]
fn a_switch_that_only_says_so_is_none() {
    let lie = "echo 'Done. The new configuration is /nix/store/new'";
    let (result, _, _) = Supervised::on(nixos(), lie, |_| ()).ended();
    insta::assert_snapshot!(verdict(&result), @"failed verify_failed: /nix/store/new was built, and the system profile points at /nix/store/old");
    // The bash program does not name the built system: the link of the earlier build tells.
    let test = |script: &str| {
        let (result, _, _) = Supervised::on(nixos(), script, |spec| spec.action = Action::Test).ended();
        verdict(&result)
    };
    insta::assert_snapshot!(test(""), @"failed verify_failed: /nix/store/new was built, and /run/current-system is /nix/store/old");
    insta::assert_snapshot!(test("ln -sfn /nix/store/new root/run/current-system"), @"completed: activated until the next boot");
}

#[test]
fn units_are_asked_for_before_and_after() {
    let folder = nixos();
    fs::create_dir_all(folder.path().join("root/run/systemd/system")).unwrap();
    make_program(
        &folder.path().join("bin/systemctl"),
        "echo 'old.service loaded failed failed Old'; cat failed 2>/dev/null; true",
    );
    let activation = format!("{SWITCH}\necho 'dns.service loaded failed failed DNS' >failed; exit 4");
    let (result, _, _) = Supervised::on(folder, &activation, |_| ()).ended();
    insta::assert_snapshot!(verdict(&result), @"failed activation_failed: the following units failed: dns.service; the next boot starts generation 42");
    assert_eq!(result.failed_units, ["dns.service"]);
}
