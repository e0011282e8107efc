//! Systems that were built before the rollout: each host is sent its own, or nothing is sent to anybody.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{self, Receiver};

use serde_json::{Value, json};

use super::fake::{self, Fake};
use super::stage;
use super::wiretap::Wiretap;
use crate::operator::Ended;
use crate::support::lab::Lab;

/// A plan that leaves it to the systems which commit it is for.
const PLAN: &str = "[[wave]]\ntargets = 'test.test1'\n[[wave]]\ntargets = 'prod.ns1'\n";

const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";

fn path(number: u8, host: &str) -> String {
    format!("/nix/store/{}-nixos-system-{host}-26.05", number.to_string().repeat(32))
}

/// A host that takes systems and runs its first one.
fn report(lab: &Lab, tier: &str, host: &str) -> Value {
    let mut report = fake::modern(tier, host, lab);
    report["features"] = json!(["id", "expires", "heartbeat", "rollback", "system", "fetch"]);
    report["system"] = json!(path(1, host));
    report
}

/// Starts a host that completes whatever it is asked, and returns its requests.
async fn start(lab: &Lab, report: Value) -> (Fake, Receiver<Value>) {
    start_as(lab, report, |_| "completed").await
}

async fn start_as(
    lab: &Lab,
    report: Value,
    mut status: impl FnMut(&Value) -> &'static str + Send + 'static,
) -> (Fake, Receiver<Value>) {
    let host = report["hostname"].as_str().unwrap().to_owned();
    let (sender, requests) = mpsc::channel();
    let answer = move |request: &Value| {
        sender.send(request.clone()).ok();
        vec![fake::says(request, &host, "accepted"), fake::says(request, &host, status(request))]
    };
    (Fake::start(lab, report, answer).await, requests)
}

/// Writes a map of the second systems of these hosts where the operator is.
fn write_map(lab: &Lab, hosts: &[&str]) {
    let systems: serde_json::Map<_, _> = hosts.iter().map(|host| ((*host).to_owned(), json!(path(2, host)))).collect();
    let map = json!({ "commit": COMMIT, "systems": systems });
    fs::write(lab.home().join("systems.json"), map.to_string()).unwrap();
}

/// Puts a nix on the operator's `PATH` that gives these answers by the names of its commands, and returns its folder.
fn nix(lab: &Lab, command: &mut Command, answers: &[(&str, Value)]) -> PathBuf {
    let folder = lab.folder().join("nix");
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("nix");
    fs::write(&program, include_str!("../../support/nix")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, answer) in answers {
        fs::write(folder.join(name), answer.to_string()).unwrap();
    }
    command.env("PATH", format!("{}:{}", folder.display(), std::env::var("PATH").unwrap()));
    folder
}

fn command(lab: &Lab, verb: &str, plan: &str, arguments: &[&str]) -> Command {
    let mut command = stage::command(lab, verb, plan);
    command.args(arguments);
    if verb == "apply" {
        command.arg("--yes");
    }
    command
}

async fn apply(lab: &Lab, plan: &str, arguments: &[&str]) -> Ended {
    stage::start(command(lab, "apply", plan, arguments)).ended().await.unwrap()
}

const MAP: [&str; 2] = ["--systems", "systems.json"];

#[tokio::test]
async fn each_host_is_sent_its_own_system_and_the_commit_of_all() {
    let lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    let (_test1, test1) = start(&lab, report(&lab, "test", "test1")).await;
    let (_ns1, ns1) = start(&lab, report(&lab, "prod", "ns1")).await;
    write_map(&lab, &["ns1", "test1", "other"]);
    apply(&lab, PLAN, &MAP).await.expect(0).told("2 hosts completed in 2 waves");
    for (host, requests) in [("test1", test1), ("ns1", ns1)] {
        let [request] = requests.try_iter().collect::<Vec<_>>().try_into().unwrap();
        assert_eq!((&request["system"], &request["revision"]), (&json!(path(2, host)), &json!(COMMIT)));
    }
}

#[tokio::test]
async fn nothing_is_sent_where_a_host_would_build_its_own() {
    let lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    let mut old = report(&lab, "prod", "ns1");
    old["features"] = json!(["id", "expires", "heartbeat", "rollback"]);
    let _hosts = [start(&lab, report(&lab, "test", "test1")).await, start(&lab, old).await];
    let mut wiretap = Wiretap::begin(&lab).await;

    write_map(&lab, &["test1"]);
    let ended = apply(&lab, PLAN, &MAP).await.expect(2);
    let ended = ended.told("no system was built for ns1").told("--exclude");
    ended.told("the listeners of ns1 do not take systems that were built elsewhere").told("systems.trustedKeys");

    write_map(&lab, &["test1", "ns1"]);
    let plan = format!("revision = 'main'\n{PLAN}");
    let other = apply(&lab, &plan, &[&MAP[..], &["--exclude", "ns1"]].concat()).await.expect(2);
    let head = lab.flake.head().unwrap();
    other.told(&format!("the systems were built from 8c1f0e2, and the plan is for {}", &head[..7]));

    fs::write(
        lab.home().join("systems.json"),
        json!({ "commit": COMMIT, "systems": { "ns1": "/etc/shadow" } }).to_string(),
    )
    .unwrap();
    apply(&lab, PLAN, &MAP).await.expect(2).told("systems.json is not a file of systems").told("/etc/shadow");
    apply(&lab, PLAN, &["--systems", "nowhere.json"]).await.expect(2).told("cannot read nowhere.json");
    assert_eq!(wiretap.requests().await, [""; 0]);
}

#[tokio::test]
async fn a_host_that_was_silent_is_sent_nothing_before_it_is_known_to_take_a_system() {
    let lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    let (_test1, test1) = start(&lab, report(&lab, "test", "test1")).await;
    write_map(&lab, &["ns1", "test1"]);
    let mut wiretap = Wiretap::begin(&lab).await;
    let plan = PLAN.replace("[[wave]]\n", "[[wave]]\naccept_timeout = '1s'\n");
    let ended = apply(&lab, &plan, &[&MAP[..], &["--discover-window", "300ms"]].concat()).await.expect(1);
    ended.told("ns1? did not answer; not known to take built systems").told("ns1 unreachable");
    assert_eq!(test1.try_iter().count(), 1);
    assert_eq!(wiretap.requests().await, ["deploy.test.test1"]);
}

#[tokio::test]
async fn a_host_that_runs_its_system_already_is_not_asked() {
    let lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    let mut current = report(&lab, "test", "test1");
    current["system"] = json!(path(2, "test1"));
    let (_test1, test1) = start(&lab, current).await;
    let (_ns1, ns1) = start(&lab, report(&lab, "prod", "ns1")).await;
    write_map(&lab, &["ns1", "test1"]);
    let ended = apply(&lab, PLAN, &MAP).await.expect(0);
    ended.told("test1= is current and not asked").told("1 of 2 hosts completed and 1 current in 2 waves");
    assert_eq!((test1.try_iter().count(), ns1.try_iter().count()), (0, 1));
    apply(&lab, PLAN, &[&MAP[..], &["--even-if-current"]].concat()).await.expect(0);
    assert_eq!((test1.try_iter().count(), ns1.try_iter().count()), (1, 1));
}

#[tokio::test]
async fn a_rollout_is_resumed_with_the_systems_that_it_began_with() {
    let lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    let mut runs = 0;
    let second_time_lucky = move |_: &Value| {
        runs += 1;
        if runs == 1 { "failed" } else { "completed" }
    };
    let (_test1, test1) = start_as(&lab, report(&lab, "test", "test1"), second_time_lucky).await;
    let (_ns1, ns1) = start(&lab, report(&lab, "prod", "ns1")).await;
    write_map(&lab, &["ns1", "test1"]);
    apply(&lab, PLAN, &MAP).await.expect(1);
    fs::remove_file(lab.home().join("systems.json")).unwrap();
    let mut resume = lab.operator(&lab.admin).unwrap();
    resume.args(["apply", "--resume"]);
    stage::start(resume).ended().await.unwrap().expect(0);
    let systems =
        |requests: Receiver<Value>| requests.try_iter().map(|mut request| request["system"].take()).collect::<Vec<_>>();
    assert_eq!(systems(test1), [json!(path(2, "test1")), json!(path(2, "test1"))]);
    assert_eq!(systems(ns1), [json!(path(2, "ns1"))]);
}

/// What a cache tells of the systems of ns1: kernel and openssh are others, and jellyfin is new.
fn told_of_ns1() -> [(&'static str, Value); 2] {
    let store = |name: &str| format!("/nix/store/{}-{name}", "a".repeat(32));
    let it = |size: u64, references: &[&str]| json!({ "downloadSize": size, "narSize": 9, "references": references.iter().map(|name| store(name)).collect::<Vec<_>>() });
    let [old, new] = [1, 2].map(|number| path(number, "ns1"));
    let all = json!({
        &old: it(1, &["linux-6.12.60", "openssh-10.0p2"]),
        &new: it(1, &["linux-6.12.63", "openssh-10.2p1", "jellyfin-10.11.3"]),
        store("linux-6.12.60"): it(5_000_000, &[]),
        store("linux-6.12.63"): it(5_000_000, &[]),
        store("openssh-10.0p2"): it(1_000_000, &[]),
        store("openssh-10.2p1"): it(1_000_000, &[]),
        store("jellyfin-10.11.3"): it(9_000_000, &[]),
    });
    [("path-info", json!({ old: it(1, &[]), new: it(1, &[]), path(2, "gone"): null })), ("path-info-recursive", all)]
}

#[tokio::test]
async fn what_changes_is_shown_before_anything_is_sent() {
    let lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    let mut current = report(&lab, "test", "test1");
    current["system"] = json!(path(2, "test1"));
    let _hosts = [start(&lab, current).await, start(&lab, report(&lab, "prod", "ns1")).await];
    write_map(&lab, &["ns1", "test1"]);
    let mut shown = command(&lab, "plan", PLAN, &[&MAP[..], &["--cache", "https://cache.example"]].concat());
    let folder = nix(&lab, &mut shown, &told_of_ns1());
    let shown = stage::start(shown).ended().await.unwrap().expect(0);
    let said = stage::plain(&shown.stdout);
    for line in [
        "linux 6.12.60 -> 6.12.63 1 host: reboot ns1",
        "openssh 10.0p2 -> 10.2p1 only ns1",
        "+ jellyfin 10.11.3 only ns1",
        "1 host does not change: skipped 15 MiB to fetch, at most 15 MiB a host",
    ] {
        assert!(said.lines().any(|said| said == line), "{line:?} is not in\n{said}");
    }
    // The host that is to stay as it is, is no question.
    let record = fs::read_to_string(folder.join("nix-record")).unwrap();
    let expected = format!("path-info --json --store https://cache.example {} {}\n", path(1, "ns1"), path(2, "ns1"));
    assert!(record.contains(&expected) && !record.contains("test1"), "{record}");
}

#[tokio::test]
async fn a_plan_goes_on_where_it_is_not_known_what_changes() {
    let lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    let _hosts = [start(&lab, report(&lab, "test", "test1")).await, start(&lab, report(&lab, "prod", "ns1")).await];
    write_map(&lab, &["ns1", "test1"]);
    let mut failing = command(&lab, "apply", PLAN, &MAP);
    nix(&lab, &mut failing, &[]);
    let ended = stage::start(failing).ended().await.unwrap().expect(0);
    ended.told("what changes is not known: `nix path-info` failed: path-info is none of the things");

    let mut unknowing = command(&lab, "apply", PLAN, &MAP);
    nix(&lab, &mut unknowing, &[("path-info", json!([{ "path": path(2, "ns1"), "valid": true, "narSize": 1 }]))]);
    let ended = stage::start(unknowing).ended().await.unwrap().expect(0);
    let ended = ended.told("the cache does not know what ns1 runs now");
    ended.told("the cache has no new system for test1: copy it there first");
}
