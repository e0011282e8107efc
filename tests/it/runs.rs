//! Tests how runs end, and that a run outlives the listener that started it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use homelab_deploy::protocol::subject::DISCOVER;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::deployer::{Deployer, is_final, statuses};
use crate::host;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;
use crate::support::rebuild::GATE;
use crate::support::wait;

const NS1: &str = "deploy.prod.ns1";

/// Two processes that ignore SIGTERM, one of them outside the terminal and the process group of `nixos-rebuild`. Each
/// adds the line "<host> child <pid>" to the record.
const STUBBORN: &str = r#"
stubborn='trap "" TERM; while [ -d "$0" ]; do sleep 0.1; done'
setsid sh -c "$stubborn" "$here" &
echo "$host child $!" >>"$here/record"
sh -c "$stubborn" "$here" &
echo "$host child $!" >>"$here/record"
echo building
wait
"#;

/// Returns a lab with the single host `ns1`, which listens, and its script.
async fn lab(script: &str, arguments: &[&str]) -> Lab {
    let mut lab = Lab::start_with(super::program(), &["prod.ns1"], Permissions::Compatible).await.unwrap();
    lab.fleet.rebuild().on(&host("ns1"), script).unwrap();
    lab.listen(&host("ns1"), arguments).await.unwrap();
    lab
}

/// Requests a run, and waits until `nixos-rebuild` runs.
async fn begin(lab: &Lab, deployer: &mut Deployer) {
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    let at_it = async || Ok((!lab.fleet.rebuild().record().is_empty()).then_some(()));
    wait::until("nixos-rebuild is started", at_it).await.unwrap();
}

#[tokio::test]
async fn a_build_that_fails_is_told_with_its_reason_and_the_end_of_its_log() {
    let script =
        "for i in $(seq 200); do echo building part $i; done; echo \"error: attribute 'x' missing\" >&2; exit 1";
    let lab = lab(script, &[]).await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();

    let answers = deployer.hear_out().await.unwrap();
    assert_eq!(statuses(&answers), ["accepted", "started", "failed"]);
    let end = answers.last().unwrap();
    assert_eq!((&end["error"], &end["message"]), (&json!("build_failed"), &json!("attribute 'x' missing")));
    let tail = end["log_tail"].as_array().unwrap();
    assert_eq!(
        (tail.len(), &tail[58], &tail[59]),
        (60, &json!("building part 200"), &json!("error: attribute 'x' missing"))
    );
}

#[tokio::test]
async fn a_flood_of_output_is_bounded_on_disk_and_on_the_wire() {
    let script = r#"
yes "$(printf 'building \033[31mpart\033[0m \377')" | head -c 40000000
yes "$(printf '%02000d' 7)" | head -n 30
echo "error: the flood is over" >&2
exit 1
"#;
    let lab = lab(script, &[]).await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!(end["message"], "the flood is over");
    let tail: Vec<&str> = end["log_tail"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!(tail.last(), Some(&"error: the flood is over"));
    assert!(tail.len() > 5 && tail.concat().len() <= 16 * 1024, "{} lines", tail.len());
    assert!(kept(&lab.folder().join("hosts/ns1/state/runs")) < 20_000_000);
}

/// Returns the size of the runs' files in bytes.
fn kept(runs: &Path) -> u64 {
    let runs = fs::read_dir(runs).unwrap().map(|run| run.unwrap().path());
    let files = runs.flat_map(|run| fs::read_dir(run).unwrap());
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn what_a_run_leaves_behind_does_not_hold_up_its_end() {
    // The child keeps the outputs open, like a careless daemon.
    let lab = lab(r#"(while [ -d "$here" ]; do sleep 0.2; done) & echo "$host child $!" >>"$here/record""#, &[]).await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
    let record = lab.fleet.rebuild().record();
    let left_behind = record.iter().find_map(|line| line.strip_prefix("ns1 child ")).unwrap();
    assert!(process(left_behind).exists());
}

#[tokio::test]
async fn an_activation_that_fails_is_no_build_that_failed() {
    let script = "echo activating the configuration...; echo 'warning: the following units failed: x.service'; exit 4";
    let lab = lab(script, &[]).await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["status"], &end["error"]), (&json!("failed"), &json!("activation_failed")));
    assert_eq!(end["message"], "the following units failed: x.service");
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_ended_with_all_its_processes() {
    let lab = lab(STUBBORN, &["--timeout", "1", "--grace", "200ms"]).await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["status"], &end["error"]), (&json!("failed"), &json!("timeout")));
    assert_eq!(end["log_tail"], json!(["building"]));

    let record = lab.fleet.rebuild().record();
    let pids = record.iter().filter_map(|line| line.strip_prefix("ns1 start ").or(line.strip_prefix("ns1 child ")));
    let left: Vec<PathBuf> = pids.clone().map(process).filter(|process| process.exists()).collect();
    assert_eq!((pids.count(), left), (3, Vec::new()));

    // Nothing is left that would disturb the next run.
    lab.fleet.rebuild().on(&host("ns1"), "").unwrap();
    deployer.say(NS1, &deployer.request("r-2")).await.unwrap();
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
}

/// Returns the `/proc` folder of the process whose id begins this line of the record. It exists as long as the process.
fn process(line: &str) -> PathBuf {
    Path::new("/proc").join(line.split(' ').next().unwrap())
}

#[tokio::test]
async fn a_run_that_goes_on_is_told_of_again_and_again() {
    let lab = lab(&format!("echo activating the configuration...; {GATE}"), &["--heartbeat", "100ms"]).await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    for _ in 0..3 {
        deployer.hear_status("started").await.unwrap();
    }
    let activates = async || Ok((deployer.hear_status("started").await?["phase"] == "activate").then_some(()));
    wait::until("the heartbeat tells the phase", activates).await.unwrap();
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
}

#[tokio::test]
async fn a_listener_that_is_killed_does_not_touch_the_run_and_the_next_one_tells_its_end() {
    let mut lab = lab(GATE, &[]).await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    begin(&lab, &mut deployer).await;
    lab.fleet.kill(&host("ns1"));
    lab.listen(&host("ns1"), &[]).await.unwrap();

    // The host is busy with the run of the first listener.
    let mut other = Deployer::connect(&lab).await.unwrap();
    other.say(NS1, &other.request("r-2")).await.unwrap();
    assert_eq!(other.hear().await.unwrap()["holder"]["id"], "r-1");

    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["status"], &end["id"]), (&json!("completed"), &json!("r-1")));
    assert_eq!(lab.fleet.rebuild().record().len(), 2);
}

#[tokio::test]
async fn a_run_that_ends_while_nobody_listens_is_told_of_later() {
    let mut lab = lab(&format!("{GATE}; echo 'error: no luck'; exit 1"), &[]).await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    begin(&lab, &mut deployer).await;
    lab.fleet.kill(&host("ns1"));
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    let ended = async || Ok(lab.fleet.rebuild().record().contains(&"ns1 end 1".to_owned()).then_some(()));
    wait::until("the run ends", ended).await.unwrap();

    lab.listen(&host("ns1"), &[]).await.unwrap();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["status"], &end["message"]), (&json!("failed"), &json!("no luck")));
}

#[tokio::test]
async fn a_run_that_moves_its_host_to_another_tier_is_told_to_who_asked_for_it() {
    let mut lab = lab(GATE, &[]).await;
    let deployer = Deployer::connect(&lab).await.unwrap();
    let mut witness = deployer.overhear().await.unwrap();
    let reply_to = "deploy.responses.prod.ns1.rollout.r-1";
    let mut request = deployer.request("r-1");
    request["reply_to"] = reply_to.into();
    deployer.say(NS1, &request).await.unwrap();
    let at_it = async || Ok((!lab.fleet.rebuild().record().is_empty()).then_some(()));
    wait::until("nixos-rebuild is started", at_it).await.unwrap();

    // The new system has another listener, with the key of the old one.
    let key = lab.key(&host("ns1")).unwrap().clone();
    lab.fleet.start(&"test.ns1".parse().unwrap(), &key, &[]).unwrap();
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    let end = loop {
        let (_, response) = witness.hear(reply_to).await.unwrap();
        if is_final(&response) {
            break response;
        }
    };
    assert_eq!((&end["hostname"], &end["status"]), (&json!("ns1"), &json!("completed")));
}

#[tokio::test]
async fn a_listener_that_is_stopped_ends_well_and_leaves_the_run_alone() {
    let mut lab = lab(GATE, &[]).await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    begin(&lab, &mut deployer).await;
    let listener = lab.fleet.listener(&host("ns1")).unwrap();
    listener.terminate().unwrap();
    let status = wait::until("the listener ends", async || listener.status()).await.unwrap();
    assert!(status.success(), "{status}: {}", listener.output());
    assert_eq!(lab.fleet.rebuild().record().len(), 1);

    lab.listen(&host("ns1"), &[]).await.unwrap();
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
}

#[tokio::test]
async fn each_phase_is_told_when_it_begins() {
    // The heartbeat would be too late for this test.
    let lab = lab(&format!("sleep 0.3; echo activating the configuration...; {GATE}"), &[]).await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    for phase in ["build", "activate"] {
        while deployer.hear_status("started").await.unwrap()["phase"] != phase {}
    }
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
}

#[tokio::test]
async fn an_end_that_the_server_was_given_is_not_told_again_by_the_next_listener() {
    let mut lab = lab("", &[]).await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    deployer.hear_final().await.unwrap();
    until_noted(&lab, "told").await;
    lab.fleet.kill(&host("ns1"));
    lab.listen(&host("ns1"), &[]).await.unwrap();
    deployer.say(NS1, &deployer.request("r-2")).await.unwrap();
    assert_eq!(deployer.hear().await.unwrap()["id"], "r-2");
}

#[tokio::test]
async fn an_end_that_the_server_was_not_given_is_told_by_the_next_listener() {
    let mut lab = lab(GATE, &[]).await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    begin(&lab, &mut deployer).await;
    lab.server.stop();
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    until_noted(&lab, "final.json").await;
    lab.fleet.kill(&host("ns1"));
    lab.server.restart().await.unwrap();
    // No listener takes this request. It shows that the deployer is connected again.
    deployer.say("deploy.prod.all", &deployer.request("r-0")).await.unwrap();

    lab.listen(&host("ns1"), &[]).await.unwrap();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["id"], &end["status"]), (&json!("r-1"), &json!("completed")));
}

/// Waits until the only run of `ns1` has this file.
async fn until_noted(lab: &Lab, file: &str) {
    let runs = lab.folder().join("hosts/ns1/state/runs");
    let run = fs::read_dir(runs).unwrap().next().unwrap().unwrap().path();
    wait::until(file, async || Ok(run.join(file).exists().then_some(()))).await.unwrap();
}

#[tokio::test]
async fn a_host_on_which_only_the_supervisor_was_killed_is_not_free_until_the_rest_has_ended() {
    let lab = lab(GATE, &["--heartbeat", "1s"]).await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    begin(&lab, &mut deployer).await;
    deployer.hear_status("started").await.unwrap();
    let program = lab.fleet.rebuild().record().iter().find_map(|line| Some(process(line.strip_prefix("ns1 start ")?)));
    kill(&parent(&program.unwrap()));

    let mut other = Deployer::connect(&lab).await.unwrap();
    other.say(NS1, &other.request("r-2")).await.unwrap();
    assert_eq!(other.hear().await.unwrap()["holder"]["id"], "r-1");
    // Longer than a run may be without a supervisor.
    for _ in 0..5 {
        assert_eq!(deployer.hear().await.unwrap()["status"], "started");
    }
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!((&end["status"], &end["error"]), (&json!("failed"), &json!("interrupted")));
}

/// Returns the parent of a process, which is given by its folder in `/proc`.
fn parent(process: &Path) -> String {
    let stat = fs::read_to_string(process.join("stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().to_owned()
}

fn kill(pid: &str) {
    // The build environment of the package has no `kill` program.
    kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_run_whose_record_is_damaged_is_not_run_again_and_keeps_the_host_busy_while_it_goes_on() {
    let mut lab = lab(GATE, &[]).await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    begin(&lab, &mut deployer).await;
    lab.fleet.kill(&host("ns1"));
    // In memory, and on disk.
    for runs in ["run/runs", "state/runs"] {
        let run = fs::read_dir(lab.folder().join("hosts/ns1").join(runs)).unwrap().next().unwrap().unwrap();
        fs::write(run.path().join("request.json"), r#"{"key":"r-"#).unwrap();
    }
    lab.listen(&host("ns1"), &[]).await.unwrap();

    let mut other = Deployer::connect(&lab).await.unwrap();
    other.say(NS1, &other.request("r-1")).await.unwrap();
    let known = other.hear().await.unwrap();
    assert_eq!(
        (&known["status"], &known["error"], &known["id"]),
        (&json!("failed"), &json!("interrupted"), &json!("r-1"))
    );
    other.say(NS1, &other.request("r-2")).await.unwrap();
    assert_eq!(other.hear().await.unwrap()["error"], "already_running");
    let mut caller = Deployer::connect(&lab).await.unwrap();
    caller.say(DISCOVER, &json!({ "reply_to": caller.reply_to() })).await.unwrap();
    assert_eq!(caller.hear().await.unwrap()["busy"]["id"], "a run whose record is damaged");
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")).len(), 1);

    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    let ended = async || Ok(only_run(&lab).join("result.json").exists().then_some(()));
    wait::until("the run ends", ended).await.unwrap();
    let free = async || {
        let id = uuid::Uuid::new_v4().to_string();
        other.say(NS1, &other.request(&id)).await?;
        Ok((other.hear_final().await?["status"] == "completed").then_some(()))
    };
    wait::until("the host is free", free).await.unwrap();
    assert_eq!(lab.fleet.rebuild().calls(&host("ns1")).len(), 2);
}

fn only_run(lab: &Lab) -> PathBuf {
    fs::read_dir(lab.folder().join("hosts/ns1/state/runs")).unwrap().next().unwrap().unwrap().path()
}

#[tokio::test]
async fn a_disk_that_takes_its_time_holds_up_nobody_who_asks() {
    let lab = lab(GATE, &[]).await;
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    begin(&lab, &mut deployer).await;
    // Opening a pipe to write blocks until somebody reads, like a disk that does not respond.
    let slow = ["final.json.new", "told"].map(|name| only_run(&lab).join(name));
    fs::remove_file(&slow[0]).unwrap();
    assert!(Command::new("mkfifo").args(&slow).status().unwrap().success());
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    let ended = async || Ok(only_run(&lab).join("result.json").exists().then_some(()));
    wait::until("the run ends", ended).await.unwrap();
    let [final_answer, told] = slow;
    answers_for(&lab, Duration::from_secs(1)).await;
    // Writers to a pipe continue, any number of times, while it is open for reading.
    let _answers = fs::File::options().read(true).write(true).open(final_answer).unwrap();
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
    answers_for(&lab, Duration::from_secs(1)).await;
    fs::read(told).unwrap();
}

/// Calls the roll repeatedly for this time, and expects answers.
async fn answers_for(lab: &Lab, time: Duration) {
    let until = Instant::now() + time;
    // A listener answers a roll call once, and only so many a second.
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    while Instant::now() < until {
        pace.tick().await;
        let mut deployer = Deployer::connect(lab).await.unwrap();
        deployer.say(DISCOVER, &json!({ "reply_to": deployer.reply_to() })).await.unwrap();
        deployer.hear().await.unwrap();
    }
}
