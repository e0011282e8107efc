//! Tests `logs`: the log of a run is for those who may deploy to its host, and for nobody else.

use std::time::Duration;

use futures_util::StreamExt;
use miette::IntoDiagnostic;
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use crate::apply::confirm::at_a_terminal_that_shows;
use crate::apply::fake::{Fake, modern, says};
use crate::deployer::{Deployer, subscribe};
use crate::host;
use crate::operator::{self, Ended, Running};
use crate::support::lab::Lab;
use crate::support::rebuild::{FAIL, GATE};
use crate::support::wait;

/// Sets the script of the runs on `ns1`.
fn order(lab: &Lab, script: &str) {
    lab.fleet.rebuild().on(&host("ns1"), script).unwrap();
}

async fn lab(hosts: &[&str]) -> Lab {
    let mut lab = Lab::start(crate::program(), hosts).await.unwrap();
    lab.listen_all().await.unwrap();
    lab
}

async fn logs(lab: &Lab, arguments: &[&str]) -> Ended {
    operator::run(lab, &[&["logs", "--discover-window", "500ms"], arguments].concat()).await.unwrap()
}

/// Deploys to `ns1`, and expects this exit code.
async fn deploy(lab: &Lab, code: i32) {
    operator::run(lab, &["deploy", "prod.ns1", "--branch", "main"]).await.unwrap().expect(code);
}

/// Asks `ns1` for its log with this question, and returns the page, or `None` without a response.
async fn page(lab: &Lab, subject: &str, mut question: Value) -> Option<Value> {
    let client = lab.server.connect(&lab.admin).await.unwrap();
    let reply_to = format!("deploy.responses.prod.ns1.{}.1", Uuid::new_v4());
    let mut answers = subscribe(&client, &reply_to).await.unwrap();
    question["reply_to"] = json!(reply_to);
    client.publish(subject.to_owned(), question.to_string().into()).await.unwrap();
    let answer = timeout(Duration::from_secs(1), answers.next()).await.ok()??;
    serde_json::from_slice(&answer.payload).ok()
}

#[tokio::test]
async fn the_log_of_a_failed_run_is_there_and_clean() {
    let lab = lab(&["prod.ns1.dns"]).await;
    logs(&lab, &["prod.ns1"]).await.expect(3).told("has not run anything yet");
    order(&lab, &format!("printf 'evil \\033[2Jtext\\n'; seq 1 3000; {FAIL}"));
    deploy(&lab, 1).await;
    let ended = logs(&lab, &["ns1"]).await.expect(0);
    let numbers: Vec<String> = (1..=3000).map(|number| number.to_string()).collect();
    assert!(ended.stdout.contains(&format!("evil text\n{}\n", numbers.join("\n"))), "{}", ended.stdout);
    assert!(ended.stdout.contains("attribute 'unboundd' missing"), "{}", ended.stdout);
    assert!(!ended.stdout.contains('\x1b'), "{}", ended.stdout);

    // The next run is the latest. The first one can be read by its id.
    let first = ended.stderr.trim_end().rsplit(' ').next().unwrap().to_owned();
    order(&lab, "echo second");
    deploy(&lab, 0).await;
    let latest = logs(&lab, &["prod.ns1", "--follow"]).await.expect(0).stdout;
    assert!(latest.contains("second\n") && !latest.contains("evil"), "{latest}");
    assert!(logs(&lab, &["prod.ns1", "--id", &first]).await.expect(0).stdout.contains("evil text"));
}

#[tokio::test]
async fn what_there_is_no_log_of_is_told_with_what_to_do() {
    let mut lab = lab(&["prod.ns1.dns", "prod.old"]).await;
    deploy(&lab, 0).await;
    logs(&lab, &["prod.ns1", "--id", "../../r-1"]).await.expect(3).told("does not know the run ../../r-1").told("200");
    logs(&lab, &["prod.all"]).await.expect(2).told("prod.all is not one host");
    logs(&lab, &["prod.nowhere"]).await.expect(3).told("prod.nowhere does not answer").told("homelab-deploy hosts");
    // A listener without the feature is never asked for a log.
    lab.fleet.kill(&host("old"));
    let (asked, mut questions) = tokio::sync::mpsc::unbounded_channel();
    let fake = Fake::start(&lab, modern("prod", "old", &lab), move |request| {
        asked.send(request.clone()).unwrap();
        Vec::new()
    });
    let _fake = fake.await;
    logs(&lab, &["prod.old", "--id", "r-1"]).await.expect(3).told("prod.old is too old to send logs").told("update");
    assert!(questions.try_recv().is_err(), "it was asked");
}

#[tokio::test]
async fn the_log_of_a_run_whose_output_is_gone_is_not_kept() {
    let lab = lab(&["prod.ns1.dns"]).await;
    deploy(&lab, 0).await;
    let runs: Vec<_> = walk(lab.folder()).into_iter().filter(|path| path.ends_with("output.log")).collect();
    assert_eq!(runs.len(), 1, "{runs:?}");
    std::fs::remove_file(&runs[0]).unwrap();
    logs(&lab, &["prod.ns1"]).await.expect(3).told("has no log of the run").told("last 20 runs");
}

/// Returns all files below a folder.
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap());
    entries
        .flat_map(|entry| if entry.file_type().unwrap().is_dir() { walk(&entry.path()) } else { vec![entry.path()] })
        .collect()
}

/// Prints 100,000 lines over a restart of the server, then a last line while `logs` waits for it.
#[tokio::test]
async fn a_run_is_followed_over_a_restart_of_the_server() {
    let mut lab = lab(&["prod.ns1.dns"]).await;
    order(&lab, &format!("seq 1 50000; {GATE}; seq 50001 100000"));
    let id = Uuid::new_v4().to_string();
    let deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say("deploy.prod.ns1", &on_own_place(&deployer, &id)).await.unwrap();
    wait::until("the run has written half of it", async || {
        Ok(page(&lab, "deploy.prod.ns1", json!({"log": {"id": id, "offset": 288_000}}))
            .await
            .filter(|page| page["log"]["data"].as_str().is_some_and(|data| data.contains("50000\n"))))
    })
    .await
    .unwrap();
    // The log of a running run is printed as far as it is written.
    let so_far = logs(&lab, &["prod.ns1"]).await.expect(0).told("The run is in progress");
    assert!(so_far.stdout.ends_with("49999\n50000\n"), "{}", so_far.stderr);

    let mut following = operator::start(&lab, &["logs", "prod.ns1", "--id", &id, "--follow"]).unwrap();
    following.tells("run").await.unwrap();
    lab.server.stop();
    lab.server.restart().await.unwrap();
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    let ended = following.ended().await.unwrap().expect(0);
    let numbers: Vec<u32> = ended.stdout.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.iter().copied().eq(1..=100_000), "{} lines", numbers.len());
}

/// Returns a request with this id whose reply subject is below the host's own prefix.
fn on_own_place(deployer: &Deployer, id: &str) -> Value {
    let mut request = deployer.request(id);
    request["reply_to"] = json!(format!("deploy.responses.prod.ns1.{}.1", Uuid::new_v4()));
    request
}

/// A question for a log never starts a run, whatever its fields. It is answered below the host's own prefix only.
#[tokio::test]
async fn a_question_for_a_log_runs_nothing() {
    let lab = lab(&["prod.ns1.dns"]).await;
    let asked = json!({"log": {"id": "r-1", "offset": 0}});
    let with = |fields: Value| {
        let mut question = asked.clone();
        question.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        question
    };
    let deploys = json!({"action": "switch", "revision": "main", "id": "r-1"});
    let unknown = page(&lab, "deploy.prod.ns1", with(deploys.clone())).await.unwrap();
    assert_eq!((&unknown["log"]["error"], &unknown["log"]["end"]), (&json!("unknown_run"), &json!(true)));
    for log in [Value::Null, json!("r-1"), json!({"id": ["r-1"]}), json!({"id": "", "offset": -1})] {
        let mut question = with(deploys.clone());
        question["log"] = log;
        assert_eq!(page(&lab, "deploy.prod.ns1", question).await, None);
    }
    for subject in ["deploy.prod.all", "deploy.prod.role.dns"] {
        assert_eq!(page(&lab, subject, with(deploys.clone())).await, None, "{subject}");
    }
    // The host does not answer below another host's prefix, nor where others may answer.
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    let question = with(json!({"reply_to": deployer.reply_to()}));
    deployer.say("deploy.prod.ns1", &question).await.unwrap();
    assert!(page(&lab, "deploy.prod.ns1", asked.clone()).await.is_some(), "it answers those who may ask");
    assert!(timeout(Duration::from_millis(200), deployer.hear()).await.is_err());
    assert_eq!(lab.fleet.rebuild().record(), Vec::<String>::new());
}

#[tokio::test]
async fn the_key_of_a_test_deployer_reads_no_log_of_prod() {
    let lab = lab(&["prod.ns1.dns", "test.test1"]).await;
    order(&lab, "echo secret of prod");
    deploy(&lab, 0).await;
    let run = async |arguments: &[&str]| {
        let mut command = lab.operator(&lab.test_deployer).unwrap();
        Running::start(command.args(arguments)).unwrap().ended().await.unwrap()
    };
    let ended = run(&["logs", "prod.ns1"]).await.expect(3).told("this credential may not deploy to prod");
    assert_eq!(ended.stdout, "");
    let ended = run(&["logs", "ns1"]).await.expect(3).told("prod: this key may not hear its hosts");
    assert_eq!(ended.stdout, "");

    // A raw question gets no log either, whether it is sent to the host itself or through a host that may be asked.
    let last = logs(&lab, &["prod.ns1"]).await.expect(0).told("prod.ns1: run");
    assert!(last.stdout.contains("secret of prod"));
    let id = last.stderr.trim_end().rsplit(' ').next().unwrap();
    let admin = lab.server.connect(&lab.admin).await.unwrap();
    let mut heard = subscribe(&admin, "deploy.responses.>").await.unwrap();
    let attacker = lab.server.connect(&lab.test_deployer).await.unwrap();
    for subject in ["deploy.prod.ns1", "deploy.test.test1", "deploy.test.all"] {
        for place in ["test.test1.x.1", "test.ns1.x.1", "prod.ns1.x.1", "x"] {
            let question = json!({"log": {"id": id, "offset": 0}, "reply_to": format!("deploy.responses.{place}")});
            attacker.publish(subject.to_owned(), question.to_string().into()).await.unwrap();
        }
    }
    attacker.flush().await.into_diagnostic().unwrap();
    // The only response comes from the test host, on its own subject: it does not know the run.
    let mut answers = Vec::new();
    while let Ok(Some(message)) = timeout(Duration::from_secs(1), heard.next()).await {
        if !message.payload.is_empty() {
            answers.push((message.subject.to_string(), String::from_utf8_lossy(&message.payload).into_owned()));
        }
    }
    let [(subject, said)] = answers.as_slice() else { panic!("{answers:?}") };
    assert!(subject == "deploy.responses.test.test1.x.1" && said.contains("unknown_run"), "{answers:?}");
}

#[tokio::test]
async fn a_deployment_that_is_verbose_prints_what_the_runs_write_to_their_ends() {
    let lab = lab(&["prod.ns1.dns", "prod.nas"]).await;
    order(&lab, "printf 'evil \\033[2Jtext\\n'; seq 1 3000; printf 'no line break'");
    for arguments in
        [["deploy", "prod.all", "--branch", "main", "-v"], ["deploy", "prod.all", "--branch", "main", "--json"]]
    {
        let ended = operator::run(&lab, &arguments).await.unwrap().expect(0);
        let lines: Vec<&str> = ended.stderr.lines().filter_map(|line| line.trim().strip_prefix("ns1 | ")).collect();
        if arguments.contains(&"--json") {
            assert_eq!(lines, [""; 0]);
            continue;
        }
        let numbers: Vec<String> = (1..=3000).map(|number| number.to_string()).collect();
        let first = lines.iter().position(|line| *line == "evil text").unwrap_or_else(|| panic!("{}", ended.stderr));
        assert_eq!(lines[first + 1..=first + 3000], numbers);
        assert!(lines.contains(&"no line break"), "{:?}", lines.last());
        assert!(!ended.stderr.contains('\x1b'));
    }
    let quiet = operator::run(&lab, &["deploy", "prod.ns1", "--branch", "main"]).await.unwrap().expect(0);
    assert!(!quiet.stderr.contains("ns1 | "), "{}", quiet.stderr);
}

#[tokio::test]
async fn the_last_line_of_a_log_stands_beside_its_host_on_a_terminal() {
    let lab = lab(&["prod.ns1.dns"]).await;
    order(&lab, &format!("echo copying path 17; printf 'now \\033[2Jbuilding\\n'; {GATE}"));
    let mut command = lab.operator(&lab.admin).unwrap();
    command.args(["deploy", "prod.ns1", "--branch", "main"]);
    let (mut operator, _keyboard) = at_a_terminal_that_shows(command);
    operator.tells("of 15m now building").await.unwrap();
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    let ended = operator.ended().await.unwrap().expect(0);
    assert!(!ended.stderr.contains("\x1b[2J"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_dry_run_ends_with_what_would_be_done() {
    let lab = lab(&["prod.ns1.dns"]).await;
    order(&lab, "echo building; echo 'would restart the following units: unbound.service'; echo 'would \\033[2Jx'");
    let dry = ["deploy", "prod.ns1", "--branch", "main", "--action", "dry-activate"];
    let ended = operator::run(&lab, &dry).await.unwrap().expect(0);
    let ended =
        ended.told("ns1 would restart the following units: unbound.service ns1 would x").not_told("ns1 building");
    assert!(!ended.stderr.contains('\x1b'));
    order(&lab, "echo building");
    operator::run(&lab, &dry).await.unwrap().expect(0).told("ns1 would change no unit");
    operator::run(&lab, &dry[..4]).await.unwrap().expect(0).not_told("would");
}

#[tokio::test]
async fn a_host_that_sends_its_log_for_ever_keeps_nobody_from_leaving() {
    let lab = Lab::start(crate::program(), &["test.test1"]).await.unwrap();
    let mut report = modern("test", "test1", &lab);
    report["features"].as_array_mut().unwrap().push(json!("log"));
    let (asked, mut questions) = tokio::sync::mpsc::unbounded_channel();
    let fake = Fake::start(&lab, report, move |request| {
        let Some(position) = request.get("log") else {
            return ["accepted", "started", "completed"].map(|status| says(request, "test1", status)).into();
        };
        asked.send(()).unwrap();
        let (id, offset) = (&position["id"], position["offset"].as_u64().unwrap());
        let page = json!({ "id": id, "offset": offset, "data": "x", "next": offset + 1, "end": false });
        vec![(request["reply_to"].as_str().unwrap().to_owned(), json!({ "log": page }))]
    });
    let _fake = fake.await;
    let dry = ["deploy", "test.test1", "--branch", "main", "--action", "dry-activate"];
    let operator = operator::start(&lab, &dry).unwrap();
    wait::event("the log is asked for", questions.recv()).await.unwrap().unwrap();
    operator.interrupt().unwrap();
    operator.ended().await.unwrap().expect(0).told("1 host completed").not_told("would");
}
