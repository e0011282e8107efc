//! Tests the errors for a newcomer who misspells a name or leaves a variable empty.

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
        (&["deploy", "prod.NS1", "--branch", "main"], 1, "did you mean deploy.prod.ns1?"),
        (&["logs", "nsl"], 3, "did you mean prod.ns1?"),
        (&["plan", "paln"], 2, "did you mean plan?"),
    ] {
        stage::write_plan(&lab, "revision = 'main'\n[[wave]]\ntargets = ['prod.nsl', 'prod.nas']\n");
        operator::run(&lab, arguments).await.unwrap().expect(code).told(help);
    }
    let plan = operator::run(&lab, &["plan", "plan"]).await.unwrap().expect(0);
    assert!(plan.stdout.contains("did you mean prod.ns1?"), "{}", plan.stdout);
    // Names with numbers are all alike, and such a host may simply be down, so nothing is suggested.
    stage::write_plan(&lab, "revision = 'main'\n[[wave]]\ntargets = ['prod.ns2', 'prod.nas']\n");
    let plan = operator::run(&lab, &["plan", "plan"]).await.unwrap().expect(0);
    assert!(!plan.stdout.contains("did you mean"), "{}", plan.stdout);
}

/// Suggests a name for every kind: a host, a role, an alias, a wave, a context, a rollout.
#[tokio::test]
async fn each_name_that_is_not_there_is_answered_with_the_one_that_is_most_like_it() {
    let lab = stage::lab(&["prod.ns1.dns", "prod.nas"]).await;
    let plan = "revision = 'main'\n[[wave]]\nname = 'first'\ntargets = 'prod.all'\n";
    let (server, key, flake) = (lab.server.url(), lab.admin.seed_file().display(), lab.flake.url());
    let context = format!(
        "default-context = 'home'\n[context.home]\nserver = {server:?}\nkey = '{key}'\nflake = {flake:?}\n\
         aliases = {{ everybody = 'deploy.prod.all' }}\n"
    );
    fs::write(lab.home().join("homelab-deploy.toml"), context).unwrap();
    stage::write_plan(&lab, plan);
    operator::run(&lab, &["apply", "plan", "--yes"]).await.unwrap().expect(0);
    let id = operator::run(&lab, &["rollouts", "--json"]).await.unwrap().expect(0).stdout;
    let id = serde_json::from_str::<serde_json::Value>(&id).unwrap()[0]["id"].as_str().unwrap()[..8].to_owned();
    let last = if id.ends_with('0') { "1" } else { "0" };
    let mut unheard = Vec::new();
    let (other, this) = (format!("{}{last}", &id[..7]), format!("did you mean {id}?"));

    for (arguments, code, help) in [
        (&["deploy", "evrybody", "--branch", "main"][..], 2, "did you mean everybody?"),
        (&["deploy", "prod.role.dsn", "--branch", "main"], 1, "did you mean deploy.prod.role.dns?"),
        (&["deploy", "prdo.all", "--branch", "main"], 1, "did you mean deploy.prod.all?"),
        (&["apply", "plan", "--yes", "--exclude", "nsl"], 2, "did you mean ns1?"),
        (&["apply", "plan", "--yes", "--only", "frist"], 2, "did you mean first?"),
        (&["rollback", "nsl", "--yes"], 3, "did you mean ns1?"),
        (&["hosts", "--context", "hmoe"], 2, "did you mean home?"),
        (&["status", &other], 3, &this),
        (&["report", &other], 3, &this),
        (&["abort", &other], 3, &this),
        (&["rollback", &other, "--yes"], 3, &this),
        (&["apply", "--resume", &other, "--yes"], 3, &this),
    ] {
        let told = operator::run(&lab, arguments).await.unwrap().expect(code).stderr;
        unheard.extend((!one_line(&told).contains(help)).then(|| format!("{arguments:?}: {told}")));
    }
    let unlike = operator::run(&lab, &["status", "12345678"]).await.unwrap().expect(3);
    assert!(!unlike.stderr.contains("did you mean"), "{}", unlike.stderr);

    for (line, help) in [
        ("exclude = 'prod.nsl'", "did you mean prod.ns1?"),
        ("exclude = 'prod.role.dsn'", "`prod.role.dsn` excludes no host: did you mean prod.role.dns?"),
    ] {
        stage::write_plan(&lab, &format!("{plan}{line}\n"));
        let shown = operator::run(&lab, &["plan", "plan"]).await.unwrap().expect(0).stdout;
        unheard.extend((!one_line(&shown).contains(help)).then(|| format!("{line}: {shown}")));
    }
    stage::write_plan(&lab, "revision = 'main'\n[[wave]]\ntargets = ['prod.nas', 'prod.nsl']\n");
    let found = operator::run(&lab, &["doctor"]).await.unwrap().expect(0).stdout;
    assert!(found.contains("it names prod.nsl, which is not known"), "{found}");
    unheard.extend((!found.contains("did you mean ns1?")).then_some(found));
    for (target, help) in [("evrybody", "did you mean everybody?"), ("prod.role.dsn", "did you mean prod.role.dns?")] {
        stage::write_plan(&lab, &format!("revision = 'main'\n[[wave]]\ntargets = '{target}'\n"));
        let told = operator::run(&lab, &["plan", "plan"]).await.unwrap().expect(2).stderr;
        unheard.extend((!one_line(&told).contains(help)).then(|| format!("{target}: {told}")));
    }
    assert!(unheard.is_empty(), "{} are not told:\n{}", unheard.len(), unheard.join("\n"));
}

#[tokio::test]
async fn a_plan_that_cannot_be_read_is_told_with_what_to_do() {
    let lab = stage::empty(&[]).await;
    fs::create_dir_all(lab.home().join("plans/folder.toml")).unwrap();
    fs::write(lab.home().join("utf-16.toml"), b"\xff\xfer\0e\0v\0").unwrap();
    fs::write(lab.home().join("latin-1.toml"), b"# f\xfcr sonntags\n[[wave]]\ntargets = 'test.all'\n").unwrap();
    for plan in ["nowhere.toml", "folder", "./utf-16.toml", "latin-1.toml"] {
        let told = operator::run(&lab, &["plan", plan]).await.unwrap().expect(2).stderr;
        assert!(one_line(&told).contains("a plan is a text file in UTF-8 that you may read"), "{plan}: {told}");
    }
    let told = operator::run(&lab, &["apply", "nowhere.json", "--yes"]).await.unwrap().expect(2).stderr;
    assert!(one_line(&told).contains("`homelab-deploy plan NAME --out FILE.json` writes one"), "{told}");
    // What is saved under another name would not be taken for what it is.
    let told = operator::run(&lab, &["plan", "plan", "--out", "saved.toml"]).await.unwrap().expect(2).stderr;
    assert!(told.contains("let its name end in .json") && !lab.home().join("saved.toml").exists(), "{told}");
}

fn one_line(told: &str) -> String {
    told.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Long messages of git are cut at the end when they are displayed.
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

/// Returns the variables in the help of a command, and its hidden ones.
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
