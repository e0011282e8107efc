//! Programs that are told how a rollout goes: what they are told, that they change nothing, and whose they are.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::apply::stage::{self, order, until};
use crate::operator::{Ended, Running};
use crate::support::lab::Lab;
use crate::support::rebuild::FAIL;

const PLAN: &str = "revision = 'main'\n[[wave]]\ntargets = 'test.all'\n[[wave]]\ntargets = 'prod.all'\n";

/// Puts down what it is told in a file of the hook's name, a line each time.
const TELL: &str = "#!/bin/sh\ncat >>\"$(dirname \"$0\")/$HOMELAB_DEPLOY_HOOK\"\n";

/// A context whose hooks are these lines of TOML, and the program `tell` beside it. The file is named on the command line.
fn context(lab: &Lab, hooks: &str) -> PathBuf {
    let folder = lab.folder().join("config");
    fs::create_dir_all(&folder).unwrap();
    let tell = folder.join("tell");
    fs::write(&tell, TELL).unwrap();
    fs::set_permissions(&tell, Permissions::from_mode(0o755)).unwrap();
    let file = folder.join("config.toml");
    fs::write(&file, format!("[context.home]\n{hooks}")).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    file
}

const ALL: &str = "on_start = ['./tell']\non_halt = ['./tell']\non-finish = ['./tell']";

fn apply(lab: &Lab, config: &Path) -> Command {
    let mut command = stage::command(lab, "apply", PLAN);
    command.args(["--yes", "--config"]).arg(config);
    command
}

async fn ended(mut command: Command) -> Ended {
    Running::start(&mut command).unwrap().ended().await.unwrap()
}

/// What a hook was told, each time.
fn told(config: &Path, hook: &str) -> Vec<Value> {
    let text = fs::read_to_string(config.with_file_name(hook)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn each_is_told_in_its_moment_what_the_rollout_has_come_to() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let config = context(&lab, ALL);
    ended(apply(&lab, &config)).await.expect(0).told("on_halt runs on this machine").not_told("warning: on_");
    let [start, halt, finish] = ["on_start", "on_halt", "on_finish"].map(|hook| told(&config, hook));
    assert_eq!((start.len(), halt.len(), finish.len()), (1, 0, 1));
    assert_eq!((&start[0]["outcome"], &start[0]["hosts"]["total"]), (&json!("running"), &json!(2)));
    assert_eq!((&finish[0]["outcome"], &finish[0]["hosts"]["completed"]), (&json!("succeeded"), &json!(2)));
    assert_eq!(finish[0]["waves"][1]["hosts"][0]["host"], "ns1");
    assert!(finish[0].get("secret").is_none(), "{}", finish[0]);

    order(&lab, &["test1"], FAIL);
    lab.flake.commit("something that does not build").unwrap();
    ended(apply(&lab, &config)).await.expect(1);
    let [start, halt, finish] = ["on_start", "on_halt", "on_finish"].map(|hook| told(&config, hook));
    assert_eq!((start.len(), halt.len(), finish.len()), (2, 1, 2));
    assert_eq!((&halt[0]["hosts"]["failed"], &finish[1]["outcome"]), (&json!(1), &json!("failed")));
}

#[tokio::test]
async fn one_that_fails_is_a_warning_on_record_and_changes_nothing() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let config =
        context(&lab, "on_start = ['/no/such/program']\non_finish = ['sh', '-c', 'echo no such room >&2; exit 3']");
    let ended = ended(apply(&lab, &config)).await.expect(0);
    let ended = ended.told("warning: on_start failed: cannot run /no/such/program");
    ended.told("warning: on_finish failed: exit status: 3: no such room").told("2 hosts completed");
    let status =
        crate::operator::run(&lab, &["status", "--json", "--context", "home", "--config", config.to_str().unwrap()])
            .await
            .unwrap()
            .expect(0);
    assert!(status.stdout.contains(r#""event":"hook_failed","hook":"on_finish","reason":"exit status: 3"#));
}

#[tokio::test]
async fn one_that_hangs_holds_up_no_host_and_nobody_who_leaves() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let config = context(&lab, "on_start = ['sleep', '300']");
    let mut running = Running::start(&mut apply(&lab, &config)).unwrap();
    until(&lab, "ns1 end 0").await;
    // The first may come before the last answer; the second leaves in any case.
    running.interrupt().unwrap();
    if running.tells("A second interrupt leaves at once").await.is_ok() {
        running.interrupt().ok();
    }
    let ended = running.ended().await.unwrap();
    assert!(ended.took < std::time::Duration::from_secs(25), "{:?}", ended.took);
}

#[tokio::test]
async fn they_are_shown_whole_and_so_that_nothing_hides() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let hooks = r#"on_finish = ["./tell", "a  b", "", "\u001b[2Jx", "\u202egnp", "'"]"#;
    let config = context(&lab, hooks);
    let mut plan = stage::command(&lab, "plan", PLAN);
    plan.arg("--config").arg(&config);
    let shown = ended(plan).await.expect(0).stdout;
    let path = config.with_file_name("./tell");
    let line = format!(
        "on_finish runs on this machine: {} \"a  b\" \"\" \"\\u{{1b}}[2Jx\" \"\\u{{202e}}gnp\" \"'\"",
        path.display()
    );
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    assert!(words(&shown).contains(&words(&line)), "{line}\n{shown}");
    assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown}");
    assert!(told(&config, "on_finish").is_empty());
}

#[tokio::test]
async fn what_a_plan_says_goes_before_the_context() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let config = context(&lab, ALL);
    let mut command = stage::command(&lab, "apply", &format!("on_finish = ['sh', '-c', 'cat >plan']\n{PLAN}"));
    command.args(["--yes", "--config"]).arg(&config);
    ended(command).await.expect(0);
    assert_eq!((told(&config, "on_start").len(), told(&config, "on_finish").len()), (1, 0));
    let told = fs::read_to_string(lab.home().join("plan")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&told).unwrap()["outcome"], "succeeded");
}

#[tokio::test]
async fn nobody_else_says_what_runs_here() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let config = context(&lab, ALL);
    // A folder that somebody works in is not asked, unless it is named.
    fs::copy(&config, lab.home().join("homelab-deploy.toml")).unwrap();
    let here = ended({
        let mut command = stage::command(&lab, "apply", PLAN);
        command.arg("--yes");
        command
    });
    here.await
        .expect(2)
        .told("homelab-deploy.toml has hooks, which are programs that run on this machine")
        .told("--config");
    fs::remove_file(lab.home().join("homelab-deploy.toml")).unwrap();
    fs::set_permissions(&config, Permissions::from_mode(0o620)).unwrap();
    ended(apply(&lab, &config)).await.expect(2).told("can be written to by other users");
    assert!(stage::ran(&lab).is_empty());
    assert!(told(&config, "on_start").is_empty());
}

#[tokio::test]
async fn a_rollout_that_is_resumed_has_those_of_its_journal_which_is_nobody_elses() {
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    let config = context(&lab, ALL);
    order(&lab, &["test1"], FAIL);
    ended(apply(&lab, &config)).await.expect(1);
    order(&lab, &["test1"], "true");
    let journals = lab.home().join("state/homelab-deploy/contexts/home/rollouts");
    let journal = fs::read_dir(&journals).unwrap().map(|entry| entry.unwrap().path());
    let journal = journal.into_iter().find(|path| path.extension().is_some_and(|end| end == "jsonl")).unwrap();
    let id = journal.file_stem().unwrap().to_str().unwrap().to_owned();
    let resume = || {
        let mut command = lab.operator(&lab.admin).unwrap();
        command.args(["apply", "--resume", &id, "--context", "home", "--config"]).arg(&config);
        ended(command)
    };
    for (path, mode, usual) in [(&journal, 0o620, 0o600), (&journals, 0o770, 0o700)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        resume().await.expect(3).told("can be written to by other users");
        fs::set_permissions(path, Permissions::from_mode(usual)).unwrap();
    }
    assert_eq!(told(&config, "on_start").len(), 1);
    // What the context says now is for new rollouts.
    fs::write(&config, "[context.home]\n").unwrap();
    resume().await.expect(0);
    assert_eq!((told(&config, "on_start").len(), told(&config, "on_finish").len()), (2, 2));
}
