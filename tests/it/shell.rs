//! Tests completions for shells, and manual pages.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use homelab_deploy::operator::journal::{Journal, Journals};
use homelab_deploy::plan::{Plan, Roster};
use homelab_deploy::protocol::{RequestIds, RolloutId};
use homelab_deploy::rollout::{Event, EventKind, Outcome, Rollout};
use jiff::Timestamp;
use uuid::Uuid;

use crate::support::flake::Flake;

/// The commands in the help.
#[rustfmt::skip]
const COMMANDS: [&str; 19] = [
    "init", "doctor", "apply", "plan", "rollouts", "status", "report", "abort", "deploy", "rollback", "hosts", "logs", "keygen", "nats-config", "listener", "mcp", "completions", "man", "build",
];

/// Returns a command of the program with a home folder, and no other variables.
fn program(home: &Path) -> Command {
    let mut program = Command::new(super::program());
    program.env_clear().env("HOME", home).current_dir(home);
    program
}

fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the completions of a shell for a line whose last word is being typed.
fn completed(shell: &str, home: &Path, line: &[&str]) -> Vec<String> {
    let mut program = program(home);
    program.env("COMPLETE", shell).env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_INDEX", line.len().to_string());
    let told = stdout(program.args(["--", "homelab-deploy"]).args(line));
    // zsh and fish also get descriptions.
    told.lines().map(|line| line.split([':', '\t']).next().unwrap().to_owned()).collect()
}

/// Returns a home with plans in the current folder and in the user's.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let shared = home.path().join(".config/homelab-deploy/plans");
    for (folder, plan) in [(home.path().join("plans"), "sunday"), (shared.clone(), "monday"), (shared, "sunday")] {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(plan).with_extension("toml"), "[[wave]]\ntargets = 'test.all'\n").unwrap();
    }
    fs::write(home.path().join("plans/notes.txt"), "").unwrap();
    home
}

#[test]
fn a_variable_switches_on_what_its_flag_does() {
    let home = home();
    let rollouts = |json: &str| program(home.path()).arg("rollouts").env("HOMELAB_DEPLOY_JSON", json).output().unwrap();
    for on in ["1", "true", "YES"] {
        assert_eq!(String::from_utf8_lossy(&rollouts(on).stdout).trim(), "[]", "{on}");
    }
    for off in ["", "0", "false"] {
        let output = rollouts(off);
        assert!(output.status.success() && output.stdout.is_empty(), "{off:?}: {output:?}");
    }
    let refused = rollouts("maybe");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("give 1 or 0"), "{refused:?}");
}

#[test]
fn a_variable_that_says_no_is_in_conflict_with_no_flag() {
    let home = home();
    for no in ["0", "false", "No"] {
        let mut status = program(home.path());
        let output = status.args(["status", "--json"]).env("HOMELAB_DEPLOY_VERBOSE", no).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{no}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("no rollout is on record here"), "{output:?}");
    }
}

#[test]
fn a_rollout_is_not_resumed_with_flags_that_it_cannot_follow() {
    let home = home();
    for flag in [&["--exclude", "ns1"][..], &["--only", "dns"], &["--revision", "main"], &["--build"], &["sunday"]] {
        let mut resume = program(home.path());
        resume.args(["apply", "--nats-url", "h", "--nkey-file", "k"]).args(flag).arg("--resume");
        let output = resume.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flag:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be used with"), "{flag:?}: {output:?}");
    }
    // A variable may be set for every command.
    let mut resume = program(home.path());
    resume.args(["apply", "--nats-url", "h", "--nkey-file", "k", "--resume"]);
    let output = resume.envs([("HOMELAB_DEPLOY_BUILD", "1"), ("HOMELAB_DEPLOY_EXCLUDE", "ns1")]).output().unwrap();
    assert_ne!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn each_shell_is_told_every_command() {
    let home = home();
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(program(home.path()).args(["completions", shell]));
        assert!(script.contains("COMPLETE=") && script.contains("homelab-deploy"), "{script}");
        let told = completed(shell, home.path(), &[""]);
        assert!(COMMANDS.iter().all(|command| told.iter().any(|word| word == command)), "{shell}: {told:?}");
        assert!(!told.iter().any(|word| word == "supervise"), "{shell}: {told:?}");
    }
}

#[test]
fn plans_are_completed_by_name_and_by_path() {
    let home = home();
    let plans = |line: &[&str]| {
        let told = completed("bash", home.path(), line).into_iter();
        told.filter(|word| !word.starts_with("--")).collect::<Vec<_>>()
    };
    for shell in ["bash", "zsh", "fish"] {
        assert_eq!(completed(shell, home.path(), &["apply", "sun"]), ["sunday"], "{shell}");
    }
    assert_eq!(plans(&["plan", ""]), ["monday", "sunday"]);
    assert_eq!(plans(&["plan", "--plans-dir", ".config/homelab-deploy/plans", ""]), ["monday", "sunday"]);
    assert_eq!(plans(&["apply", "--plans-dir", "plans", "--revision", "x", ""]), ["sunday"]);
    assert_eq!(plans(&["build", ""]), ["monday", "sunday"]);
    assert_eq!(plans(&["apply", "plans/s"]), ["plans/sunday.toml"]);
    assert_eq!(plans(&["apply", "--plans-dir", "nowhere", ""]), [""; 0]);
}

/// Records a rollout to these hosts in the operator's state. `number` sets its time.
fn record(state: &Path, number: u64, hosts: &str) -> (RolloutId, Journal) {
    let plan = Plan::parse(&format!("[[wave]]\ntargets = {hosts}\n"), "sunday", &|_: &str| None).unwrap();
    let id = RolloutId::from(Uuid::from_u128(number.into()));
    let rollout = Rollout {
        id,
        ids: RequestIds::new(Uuid::from_u128(0)),
        operator: "ops@desk".to_owned(),
        asked: "main".parse().unwrap(),
        revision: "main".parse().unwrap(),
        subject: None,
        source: None,
        plan: plan.resolve(&Roster::new(Vec::new())).unwrap().0,
    };
    let at = Timestamp::from_second(number.try_into().unwrap()).unwrap();
    let event = Event { at, kind: EventKind::Begun(Arc::new(rollout)) };
    let mut journal = Journals::below(state).create(id).unwrap();
    journal.record(&event).and_then(|()| journal.write()).unwrap();
    let file = fs::File::options().append(true).open(state.join(format!("rollouts/{id}.jsonl"))).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(number)).unwrap();
    (id, journal)
}

#[test]
fn hosts_are_those_of_the_last_rollout() {
    let home = home();
    assert!(!completed("bash", home.path(), &["deploy", ""]).iter().any(|word| word.contains('.')));
    let state = home.path().join(".local/state/homelab-deploy");
    record(&state, 2, "['prod.ns1', 'test.test1']");
    record(&state, 1, "['prod.old']");
    assert_eq!(completed("bash", home.path(), &["deploy", "p"]), ["prod.ns1", "prod.all"]);
    assert_eq!(completed("bash", home.path(), &["logs", "p"]), ["prod.ns1"]);
    assert_eq!(completed("bash", home.path(), &["build", "n"]), ["ns1"]);
    assert_eq!(completed("zsh", home.path(), &["apply", "sunday", "--exclude", "ns2,"]), ["ns2,ns1", "ns2,test1"]);
    assert_eq!(completed("fish", home.path(), &["deploy", "--branch", "x", "t"]), ["test.test1", "test.all"]);
}

#[test]
fn targets_are_those_that_answered_with_their_roles_and_aliases() {
    let home = home();
    let state = home.path().join(".local/state/homelab-deploy");
    fs::create_dir_all(&state).unwrap();
    let today = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400;
    let hosts =
        format!(r#"{{"nats://x":{{"prod":{{"ns1":{{"seen":{today},"role":"dns"}},"nas":{{"seen":{today}}}}}}}}}"#);
    fs::write(state.join("hosts.json"), hosts).unwrap();
    fs::write(home.path().join("c.toml"), "[context.a]\n[context.a.aliases]\nprod-dns = 'deploy.prod.role.dns'\n")
        .unwrap();
    let state = state.to_str().unwrap();
    let line = ["deploy", "--config", "c.toml", "--state-dir", state, "p"];
    assert_eq!(
        completed("bash", home.path(), &line),
        ["prod.nas", "prod.ns1", "prod.role.dns", "prod.all", "prod-dns"]
    );
}

#[test]
fn rollouts_are_offered_newest_first_and_only_where_they_make_sense() {
    let home = home();
    let state = home.path().join(".local/state/homelab-deploy");
    let made: Vec<_> = [2, 3, 1].map(|number| record(&state, number, "['prod.ns1']")).into();
    let [(two, _), (three, mut succeeded), (one, running)] = <[_; 3]>::try_from(made).unwrap();
    let ended = Event { at: Timestamp::UNIX_EPOCH, kind: EventKind::Ended { outcome: Outcome::Succeeded } };
    succeeded.record(&ended).and_then(|()| succeeded.write()).unwrap();
    drop(succeeded);
    let ids = |ids: &[RolloutId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(completed("bash", home.path(), &["status", "0"]), ids(&[three, two, one]));
    assert_eq!(completed("bash", home.path(), &["report", "0"]), ids(&[three, two, one]));
    assert_eq!(completed("bash", home.path(), &["rollback", "0"]), ids(&[three, two, one]));
    assert_eq!(completed("bash", home.path(), &["apply", "--resume", "0"]), ids(&[two]));
    assert_eq!(completed("bash", home.path(), &["abort", "0"]), ids(&[one]));
    drop(running);
}

#[test]
fn runs_are_those_of_the_host_on_the_line_newest_first() {
    let home = home();
    let state = home.path().join(".local/state/homelab-deploy");
    for number in [1, 2] {
        let (_, mut journal) = record(&state, number, "['prod.ns1', 'prod.nas']");
        // The second rollout had not reached nas.
        for host in ["ns1", "nas"].into_iter().take(3 - usize::try_from(number).unwrap()) {
            let request = format!("{host}-{number}").parse().unwrap();
            let kind = EventKind::Dispatched { host: host.parse().unwrap(), request, attempt: 1 };
            journal.record(&Event { at: Timestamp::UNIX_EPOCH, kind }).unwrap();
        }
        journal.write().unwrap();
    }
    for host in ["ns1", "prod.ns1"] {
        assert_eq!(completed("bash", home.path(), &["logs", host, "--id", ""]), ["ns1-2", "ns1-1"], "{host}");
    }
    assert_eq!(completed("bash", home.path(), &["logs", "nas", "--follow", "--id", "n"]), ["nas-1"]);
    assert_eq!(completed("bash", home.path(), &["logs", "other", "--id", ""]), [""; 0]);
    assert_eq!(completed("bash", home.path(), &["logs", "--id", ""]), [""; 0]);
}

#[test]
fn branches_are_those_of_the_clone_and_plans_the_files_at_hand() {
    let home = home();
    let flake = Flake::create(&home.path().join("repository")).unwrap();
    fs::write(home.path().join("repository/rollout.toml"), "[[wave]]\ntargets = 'test.all'\n").unwrap();
    fs::write(home.path().join("repository/fleet.toml"), "[hosts]\n").unwrap();
    flake.branch("feature").unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let completed = |line: &[&str]| {
        let mut program = program(&home.path().join("repository"));
        program.env("COMPLETE", "bash").env("PATH", &path).env("_CLAP_IFS", "\n");
        program.env("_CLAP_COMPLETE_INDEX", line.len().to_string());
        stdout(program.args(["--", "homelab-deploy"]).args(line)).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(completed(&["deploy", "prod.ns1", "--branch", ""]), ["feature", "main", "master"]);
    assert_eq!(completed(&["apply", "r",]), ["rollout.toml"]);
    assert_eq!(completed(&["apply", "f"]), [""; 0]);
    assert_eq!(completed(&["deploy", "prod.ns1", "--to", ""]), ["previous"]);
}

#[test]
fn rollouts_are_completed_from_the_folder_that_the_line_names() {
    let home = home();
    let state = home.path().join("elsewhere");
    record(&state, 1, "['prod.ns1']");
    let id = ["00000000-0000-0000-0000-000000000001"];
    assert_eq!(completed("bash", home.path(), &["status", "--state-dir", "elsewhere", "0"]), id);
    assert_eq!(completed("bash", home.path(), &["apply", "--state-dir", "elsewhere", "--resume", "0"]), id);
    assert_eq!(completed("bash", home.path(), &["apply", "--state-dir", "elsewhere", "--exclude", ""]), ["ns1"]);
    assert_eq!(completed("bash", home.path(), &["status", "0"]), [""; 0]);
}

#[test]
fn what_has_few_values_is_completed() {
    let home = home();
    assert_eq!(completed("bash", home.path(), &["hosts", "--tier", ""]), ["test", "prod"]);
    assert_eq!(completed("bash", home.path(), &["deploy", "--action", "d"]), ["dry-activate"]);
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let home = home();
    let page = stdout(program(home.path()).arg("man"));
    stdout(program(home.path()).args(["man", "--out", "pages/man1"]));
    for command in COMMANDS {
        assert!(page.contains(&format!("homelab\\-deploy\\-{}(1)", command.replace('-', "\\-"))), "{command}: {page}");
        let page = fs::read_to_string(home.path().join(format!("pages/man1/homelab-deploy-{command}.1"))).unwrap();
        assert!(
            [".TH homelab", ".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"].iter().all(|part| page.contains(part)),
            "{page}"
        );
    }
    let apply = fs::read_to_string(home.path().join("pages/man1/homelab-deploy-apply.1")).unwrap();
    assert!(apply.contains("HOMELAB_DEPLOY_NATS_URL") && apply.contains(".SH CONNECTION"), "{apply}");
    assert_eq!(fs::read_dir(home.path().join("pages/man1")).unwrap().count(), COMMANDS.len() + 1);
}

#[test]
fn the_schema_of_plans_needs_neither_a_plan_nor_a_connection() {
    let home = home();
    let schema = stdout(program(home.path()).args(["plan", "--schema"]));
    // Variables of other commands do not disturb this one.
    let env = [("HOMELAB_DEPLOY_NATS_URL", "nats://x"), ("HOMELAB_DEPLOY_REVISION", "main")];
    assert_eq!(stdout(program(home.path()).args(["plan", "--schema"]).envs(env)), schema);
    assert!(serde_json::from_str::<serde_json::Value>(&schema).unwrap().is_object());
    let refused = program(home.path()).arg("plan").output().unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(["--nats-url <URL>", "--nkey-file <FILE>", "<FILE|NAME>"].iter().all(|arg| told.contains(arg)), "{told}");
}
