//! Tests hooks: what they are told, that they change nothing, and whose hooks are run.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use serde_json::{Value, json};

use crate::apply::stage::{self, order, until};
use crate::operator::{Ended, Running};
use crate::support::lab::Lab;
use crate::support::program::make_program;
use crate::support::rebuild::FAIL;
use crate::support::skip::skip;

const PLAN: &str = "revision = 'main'\n[[wave]]\ntargets = 'test.all'\n[[wave]]\ntargets = 'prod.all'\n";

/// A hook that appends what it is told to a file of the hook's name, a line each time.
const TELL: &str = "#!/bin/sh\ncat >>\"$(dirname \"$0\")/$HOMELAB_DEPLOY_HOOK\"\n";

/// Writes a context with these lines of TOML as hooks, and the program `tell` beside it. Commands name its file.
fn context(lab: &Lab, hooks: &str) -> PathBuf {
    let folder = lab.folder().join("config");
    fs::create_dir_all(&folder).unwrap();
    let tell = folder.join("tell");
    make_program(&tell, TELL).unwrap();
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

/// Returns what a hook was told, each time.
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
    // The first interrupt may come before the last response. The second one ends the command in any case.
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
    // Hooks in the current folder are refused, unless the command line names the file.
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
    // The hooks of the context now are for new rollouts.
    fs::write(&config, "[context.home]\n").unwrap();
    resume().await.expect(0);
    assert_eq!((told(&config, "on_start").len(), told(&config, "on_finish").len()), (2, 2));
}

/// A name that could break out of its context in a shell, in JSON, in a header or on the command line of curl.
const HOSTILE: &str =
    "@-x \"quoted\" 'single' \\n $(touch owned) `touch owned` ${HOME} \u{e9}\u{1f600}\r\nX-Injected: yes\n\t</b>";

/// A request that a service received: its first line, its headers, its body.
#[derive(Debug)]
struct Got {
    line: String,
    headers: String,
    body: String,
}

/// Starts a service that accepts every request, and returns the requests.
fn service() -> (String, Receiver<Got>) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let (sender, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in socket.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let head: Vec<String> =
                reader.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
            let length =
                head.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            reader.read_exact(&mut body).unwrap();
            reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}").unwrap();
            let (line, headers) = head.split_first().unwrap();
            let body = String::from_utf8(body).unwrap();
            if sender.send(Got { line: line.clone(), headers: headers.join("\n"), body }).is_err() {
                break;
            }
        }
    });
    (url, requests)
}

/// Copies a sample beside a context with the lines that a text has for the sample.
fn sample(lab: &Lab, name: &str, text: &str, url: &str) -> PathBuf {
    let lines = text.lines().map(|line| line.trim_start_matches(['#', ' '])).filter(|line| line.contains(name));
    let lines = lines.filter(|line| line.starts_with("on_")).collect::<Vec<_>>().join("\n");
    assert!(!lines.is_empty(), "{name} is not in {text}");
    let token = lab.folder().join("token");
    fs::write(&token, "syt_secret\n").unwrap();
    let lines = lines.replace("https://ntfy.sh", url).replace("https://matrix.example.com", url);
    let config = context(lab, &lines.replace("/run/secrets/matrix-token", token.to_str().unwrap()));
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/hooks");
    fs::copy(samples.join(name), config.with_file_name(name)).unwrap();
    config
}

/// Runs a sample as a rollout with a hostile name runs it.
fn run_with_a_hostile_name(script: &Path, arguments: &[&str]) {
    let summary = json!({
        "name": HOSTILE, "outcome": "failed", "hosts": { "completed": 1, "total": 2 },
        "waves": [{ "name": HOSTILE, "hosts": [{ "host": "ns1", "message": HOSTILE }] }],
    });
    let folder = script.parent().unwrap();
    let mut child = Command::new(script)
        .args(arguments)
        .current_dir(folder)
        .env("HOMELAB_DEPLOY_ROLLOUT", HOSTILE)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(summary.to_string().as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!folder.join("owned").exists());
}

#[tokio::test]
async fn the_samples_tell_ntfy_and_matrix_how_a_rollout_goes() {
    if ["curl", "jq"].iter().any(|program| Command::new(program).arg("--version").output().is_err()) {
        return skip("there is no curl or no jq here");
    }
    let lab = stage::lab(&["test.test1", "prod.ns1"]).await;
    order(&lab, &["test1"], &format!("printf '%s' '{}' >&2; exit 1", HOSTILE.replace('\'', "'\\''")));
    let (url, requests) = service();

    let config = sample(&lab, "ntfy.sh", include_str!("../../docs/operations.md"), &url);
    ended(apply(&lab, &config)).await.expect(1).not_told("warning: on_");
    let [halted, finished] = requests.try_iter().collect::<Vec<_>>().try_into().unwrap();
    for got in [&halted, &finished] {
        assert_eq!(got.line, "POST /my-topic HTTP/1.1");
        assert!(got.headers.contains("Priority: high\nTitle: plan"), "{got:?}");
    }
    assert_eq!(finished.body, "plan: failed, 0 of 2 hosts completed");
    run_with_a_hostile_name(&config.with_file_name("ntfy.sh"), &[&format!("{url}/my-topic")]);
    let got = requests.recv().unwrap();
    assert!(got.body.starts_with(HOSTILE) && got.body.ends_with(": failed, 1 of 2 hosts completed"), "{got:?}");
    assert!(!got.headers.lines().any(|line| line.starts_with("X-Injected")), "{got:?}");

    let config = sample(&lab, "matrix.sh", include_str!("../../examples/hooks/matrix.sh"), &url);
    ended(apply(&lab, &config)).await.expect(1).not_told("warning: on_");
    let token = lab.folder().join("token");
    run_with_a_hostile_name(&config.with_file_name("matrix.sh"), &[&url, "!room:example.com", token.to_str().unwrap()]);
    for name in ["plan", HOSTILE] {
        let got = requests.recv().unwrap();
        // Not every jq percent-encodes the exclamation mark.
        let sent = "PUT /_matrix/client/v3/rooms/!room%3Aexample.com/send/m.room.message/";
        assert!(got.headers.contains("Content-Type: application/json"), "{got:?}");
        assert!(
            got.line.replace("%21", "!").starts_with(sent) && got.headers.contains("Authorization: Bearer syt_secret"),
            "{got:?}"
        );
        let completed = usize::from(name == HOSTILE);
        let body = format!("{name}: failed, {completed} of 2 hosts completed");
        assert_eq!(serde_json::from_str::<Value>(&got.body).unwrap(), json!({ "msgtype": "m.text", "body": body }));
    }
    assert_eq!(requests.try_iter().count(), 0);
}
