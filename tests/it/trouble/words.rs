//! What a newcomer is told who writes something in another way than it is called, or leaves a variable empty.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::apply::stage;
use crate::host;
use crate::operator::{self, Running};
use crate::support::fleet;
use crate::support::lab::Lab;

#[tokio::test]
async fn names_that_are_nearly_right_are_told_with_the_right_one() {
    let lab = stage::lab(&["prod.ns1.dns", "prod.nas"]).await;
    for (asked, help) in [
        ("mian", "did you mean \"main\"?"),
        ("refs/heads/main", "did you mean \"main\"?"),
        ("origin/main", "did you mean \"main\"?"),
        ("develop", "its branches and tags are main"),
    ] {
        let ended = operator::run(&lab, &["deploy", "prod.ns1", "--branch", asked]).await.unwrap().expect(3);
        ended.told(&format!("has no branch or tag \"{asked}\"")).told(help);
    }
    for (arguments, code, help) in [
        (&["deploy", "prod.nsl", "--branch", "main"][..], 1, "did you mean deploy.prod.ns1?"),
        (&["logs", "nsl"], 3, "did you mean prod.ns1?"),
        (&["plan", "paln"], 2, "did you mean plan?"),
    ] {
        stage::write_plan(&lab, "revision = 'main'\n[[wave]]\ntargets = ['prod.nsl', 'prod.nas']\n");
        operator::run(&lab, arguments).await.unwrap().expect(code).told(help);
    }
    let plan = operator::run(&lab, &["plan", "plan"]).await.unwrap().expect(0);
    assert!(plan.stdout.contains("did you mean prod.ns1?"), "{}", plan.stdout);
    // Of hosts with a number there are many, and one may well be down.
    stage::write_plan(&lab, "revision = 'main'\n[[wave]]\ntargets = ['prod.ns2', 'prod.nas']\n");
    let plan = operator::run(&lab, &["plan", "plan"]).await.unwrap().expect(0);
    assert!(!plan.stdout.contains("did you mean"), "{}", plan.stdout);
}

/// Where the words of git are long, the end of a line is cut off where it is shown.
#[tokio::test]
async fn a_host_that_cannot_look_a_branch_up_says_why_first() {
    let mut lab = Lab::start(crate::program(), &["prod.ns1"]).await.unwrap();
    lab.listen(&host("ns1"), &[]).await.unwrap();
    fs::remove_dir_all(lab.flake.url().strip_prefix("git+file://").unwrap()).unwrap();
    let mut command = lab.operator(&lab.admin).unwrap();
    command.args(["deploy", "prod.ns1", "--branch", "main"]).env_remove("HOMELAB_DEPLOY_FLAKE");
    let ended = Running::start(&mut command).unwrap().ended().await.unwrap().expect(1);
    ended.told("cannot look up \"main\": fatal: ");
}

/// The variables that the help of a command names, and those that it keeps to itself.
fn variables(command: &str) -> BTreeSet<String> {
    let help = Command::new(crate::program()).args([command, "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    let named = help.split("[env: ").skip(1).map(|rest| rest.split('=').next().unwrap().to_owned());
    let hidden =
        ["USER", "NO_COLOR", "TERM", "XDG_CONFIG_HOME", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "WATCHDOG_USEC"];
    named.chain(hidden.map(str::to_owned)).collect()
}

#[tokio::test]
async fn an_empty_variable_is_an_unset_one() {
    let lab = stage::lab(&["test.test1"]).await;
    stage::write_plan(&lab, "[[wave]]\ntargets = 'test.test1'\n");
    let (server, key, flake) = (lab.server.url(), lab.admin.seed_file().display(), lab.flake.url());
    let context = format!("[context.home]\nserver = {server:?}\nkey = '{key}'\nflake = {flake:?}\n");
    fs::write(lab.home().join("homelab-deploy.toml"), context).unwrap();
    let nowhere = ["--nats-url", "nats://127.0.0.1:1", "--nkey-file", "missing.seed"];
    let mut tried = 0;
    for (arguments, code) in [
        (&["hosts"][..], 0),
        (&["plan", "plan", "--revision", "main"], 0),
        (&["apply", "plan", "--revision", "main", "--yes"], 0),
        (&["deploy", "test.test1", "--branch", "main"], 0),
        (&["rollouts"], 0),
        (&["status"], 0),
        (&["report"], 0),
        (&["logs", "test1"], 0),
        (&["doctor"], 0),
        (
            &[&["listener", "--tier", "test", "--hostname", "x", "--flake-url", "git+https://h/x"], &nowhere[..]]
                .concat(),
            3,
        ),
        (&[&["mcp"], &nowhere[..]].concat(), 0),
    ] {
        let variables = variables(arguments[0]);
        tried += variables.len();
        let mut command = fleet::command(crate::program(), &lab.home(), &[]).unwrap();
        command.args(arguments).envs(variables.iter().map(|name| (name, "")));
        Running::start(&mut command).unwrap().ended().await.unwrap().expect(code);
    }
    assert!(tried > 100, "{tried}");
}

#[tokio::test]
async fn one_means_yes() {
    let lab = stage::lab(&["test.test1"]).await;
    let mut command = stage::command(&lab, "apply", "revision = 'main'\n[[wave]]\ntargets = 'test.test1'\n");
    command.env("HOMELAB_DEPLOY_YES", "1");
    stage::start(command).ended().await.unwrap().expect(0).told("1 host completed");
}
