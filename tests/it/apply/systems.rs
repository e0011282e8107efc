//! Tests systems that were built before the rollout: each host is sent its own, or no host is sent anything.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{self, Receiver};

use serde_json::{Value, json};

use super::fake::{self, Fake};
use super::stage;
use super::wiretap::Wiretap;
use crate::operator::Ended;
use crate::support::lab::Lab;
use crate::support::program::make_program;

/// A plan whose commit is that of the systems.
const PLAN: &str = "[[wave]]\ntargets = 'test.test1'\n[[wave]]\ntargets = 'prod.ns1'\n";

pub const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";

pub fn path(number: u8, host: &str) -> String {
    format!("/nix/store/{}-nixos-system-{host}-26.05", number.to_string().repeat(32))
}

/// Returns the report of a host that accepts systems and runs its first one.
pub fn report(lab: &Lab, tier: &str, host: &str) -> Value {
    let mut report = fake::modern(tier, host, lab);
    report["features"] = json!(["id", "expires", "heartbeat", "rollback", "system", "fetch"]);
    report["system"] = json!(path(1, host));
    report
}

/// Starts a host that completes every request, and returns its requests.
pub async fn start(lab: &Lab, report: Value) -> (Fake, Receiver<Value>) {
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

/// Writes a map of these hosts' second systems into the operator's folder.
pub fn write_map(lab: &Lab, hosts: &[&str]) {
    let systems: serde_json::Map<_, _> = hosts.iter().map(|host| ((*host).to_owned(), json!(path(2, host)))).collect();
    let map = json!({ "commit": COMMIT, "systems": systems });
    fs::write(lab.home().join("systems.json"), map.to_string()).unwrap();
}

/// Puts a fake nix on the operator's `PATH` that answers its commands like this, and returns its folder.
fn nix(lab: &Lab, command: &mut Command, answers: &[(&str, Value)]) -> PathBuf {
    let (folder, path) = told_nix(lab, answers);
    command.env("PATH", path);
    folder
}

/// Returns the folder of such a nix, and a `PATH` on which it comes first.
pub fn told_nix(lab: &Lab, answers: &[(&str, Value)]) -> (PathBuf, String) {
    let folder = lab.folder().join("nix");
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("nix");
    make_program(&program, include_str!("../../support/nix")).unwrap();
    for (name, answer) in answers {
        fs::write(folder.join(name), answer.to_string()).unwrap();
    }
    let path = std::env::var_os("PATH").unwrap();
    let path = format!("{}:{}", folder.display(), path.to_str().unwrap());
    (folder, path)
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

/// Uses a real listener's report, not a fake one.
#[tokio::test]
async fn a_listener_that_trusts_no_key_is_named_before_anything_is_sent() {
    let mut lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    let key = "fleet-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    lab.listen(&crate::host("test1"), &["--system-key", key]).await.unwrap();
    lab.listen(&crate::host("ns1"), &[]).await.unwrap();
    write_map(&lab, &["test1", "ns1"]);
    let mut wiretap = Wiretap::begin(&lab).await;
    for plan in [PLAN.to_owned(), format!("stage = true\n{PLAN}")] {
        let ended = apply(&lab, &plan, &MAP).await.expect(2);
        ended.told("the listeners of ns1 do not take systems that were built elsewhere").not_told("test1 do not");
    }
    assert_eq!(wiretap.requests().await, [""; 0]);
    // The other host accepts a system, and finds that no cache has it.
    apply(&lab, PLAN, &[&MAP[..], &["--exclude", "ns1"]].concat()).await.expect(1).told("test1 failed");
    assert_eq!(wiretap.requests().await, ["deploy.test.test1"]);
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

/// Returns what a cache says about the systems of ns1: kernel and openssh differ, and jellyfin is new.
pub fn told_of_ns1() -> [(&'static str, Value); 2] {
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
    // Nix is not asked about the host that does not change.
    let record = fs::read_to_string(folder.join("nix-record")).unwrap();
    let expected = format!("path-info --json --store https://cache.example {} {}\n", path(1, "ns1"), path(2, "ns1"));
    assert!(record.contains(&expected) && !record.contains("test1"), "{record}");
}

#[tokio::test]
async fn what_a_host_says_that_it_runs_is_neither_an_option_of_nix_nor_a_flake() {
    let lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    let [mut flake, mut option] = [report(&lab, "test", "test1"), report(&lab, "prod", "ns1")];
    flake["system"] = json!("git+https://evil.example/x#y");
    option["system"] = json!("--store=https://evil.example");
    let _hosts = [start(&lab, flake).await, start(&lab, option).await];
    write_map(&lab, &["ns1", "test1"]);
    let mut shown = command(&lab, "plan", PLAN, &MAP);
    let folder = nix(&lab, &mut shown, &told_of_ns1());
    stage::start(shown).ended().await.unwrap().expect(0);
    let record = fs::read_to_string(folder.join("nix-record")).unwrap();
    assert!(record.contains("path-info") && !record.contains("evil"), "{record}");
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

#[tokio::test]
async fn a_plan_that_stages_has_all_hosts_fetch_before_the_first_is_changed() {
    let lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    let plan = format!("stage = true\nsystems = '../systems.json'\n{PLAN}");
    let mut fetches = 0;
    let cannot_fetch_at_first = move |request: &Value| {
        fetches += u32::from(request["action"] == "fetch");
        if fetches == 1 { "failed" } else { "completed" }
    };
    let (_test1, test1) = start(&lab, report(&lab, "test", "test1")).await;
    let (_ns1, ns1) = start_as(&lab, report(&lab, "prod", "ns1"), cannot_fetch_at_first).await;
    write_map(&lab, &["ns1", "test1"]);
    let halted = apply(&lab, &plan, &[]).await.expect(1);
    halted.told("failed in wave 1/3 \"fetch\": 1 failed, 0 may fail. Waves 2-3 were not started.");
    let actions = |requests: &Receiver<Value>| {
        requests.try_iter().map(|request| request["action"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((actions(&test1), actions(&ns1)), (vec!["fetch".to_owned()], vec!["fetch".to_owned()]));

    let mut resume = lab.operator(&lab.admin).unwrap();
    resume.args(["apply", "--resume"]);
    stage::start(resume).ended().await.unwrap().expect(0).told("2 hosts completed in 3 waves");
    assert_eq!(
        (actions(&test1), actions(&ns1)),
        (vec!["switch".to_owned()], vec!["fetch".to_owned(), "switch".to_owned()])
    );

    let no_systems = stage::start(command(&lab, "plan", &format!("revision = 'main'\nstage = true\n{PLAN}"), &[]));
    no_systems.ended().await.unwrap().expect(2).told("`stage` has hosts fetch their systems first, and there are none");
}

#[tokio::test]
async fn a_plan_that_was_saved_is_carried_out_as_it_was_or_not_at_all() {
    let lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    let (test1_listens, test1) = start(&lab, report(&lab, "test", "test1")).await;
    let (_ns1, ns1) = start(&lab, report(&lab, "prod", "ns1")).await;
    write_map(&lab, &["ns1", "test1"]);
    let save = command(&lab, "plan", PLAN, &[&MAP[..], &["--out", "planned.json"]].concat());
    stage::start(save).ended().await.unwrap().expect(0);
    let file = lab.home().join("planned.json");
    let saved = fs::read_to_string(&file).unwrap();
    // The file that the plan was made from may be gone by then.
    fs::remove_file(lab.home().join("systems.json")).unwrap();
    let carry_out = async |arguments: &[&str]| {
        let mut command = lab.operator(&lab.admin).unwrap();
        command.args(["apply", "planned.json", "--yes", "--discover-window", "500ms"]).args(arguments);
        stage::start(command).ended().await.unwrap()
    };

    let other_path = path(3, "ns1");
    for (what, other) in [
        (path(2, "ns1"), other_path.as_str()),
        (COMMIT.to_owned(), &"1".repeat(40)),
        ("\"test1\"".to_owned(), "\"test2\""),
    ] {
        assert!(saved.contains(&what));
        fs::write(&file, saved.replace(&what, other)).unwrap();
        carry_out(&[]).await.expect(2).told("planned.json has changed since it was written");
    }
    fs::write(&file, &saved).unwrap();
    carry_out(&["--exclude", "ns1"]).await.expect(2).told("a saved plan determines");
    drop(test1_listens);
    carry_out(&[]).await.expect(3).told("the hosts are not as they were").told("test1 does not answer now");
    let mut elsewhere = report(&lab, "test", "test1");
    elsewhere["revision"] = json!("2".repeat(40));
    let (moved, _) = start(&lab, elsewhere).await;
    carry_out(&[]).await.expect(3).told("test1 runs 2222222 now");
    drop(moved);
    assert_eq!((test1.try_iter().count(), ns1.try_iter().count()), (0, 0));

    let (_test1, test1) = start(&lab, report(&lab, "test", "test1")).await;
    carry_out(&[]).await.expect(0).told("2 hosts completed in 2 waves");
    assert_eq!(test1.try_iter().next().unwrap()["system"], json!(path(2, "test1")));
    assert_eq!(ns1.try_iter().next().unwrap()["system"], json!(path(2, "ns1")));
}

/// Returns what Nix says about a flake with the hosts ns1 and the.test.
fn flake_of_two() -> [(&'static str, Value); 2] {
    let drv = |number: u8| format!("/nix/store/{}-nixos-system.drv", number.to_string().repeat(32));
    let built = |number, host| json!({ "drvPath": drv(number), "outputs": { "out": path(2, host) } });
    [
        (
            "eval",
            json!({ "names": ["ns1", "the.test"], "derivations": { "ns1": drv(3), "the.test": drv(4), "ns2": null } }),
        ),
        // In another order.
        ("build", json!([built(4, "test1"), built(3, "ns1")])),
    ]
}

/// Returns a `homelab-deploy build` command without NATS, and the folder that records the calls of nix.
fn build(lab: &Lab, arguments: &[&str], answers: &[(&str, Value)]) -> (Command, PathBuf) {
    let mut command = lab.operator(&lab.admin).unwrap();
    command.env_remove("HOMELAB_DEPLOY_NATS_URL").env_remove("HOMELAB_DEPLOY_NKEY_FILE");
    command.arg("build").args(arguments);
    let folder = nix(lab, &mut command, answers);
    (command, folder)
}

#[tokio::test]
async fn the_systems_of_a_plan_are_built_in_one_evaluation_signed_and_copied() {
    let lab = stage::empty(&[]).await;
    stage::write_plan(&lab, &format!("revision = 'main'\n{PLAN}"));
    fs::write(lab.home().join("key"), "fleet-1:secret").unwrap();
    let arguments =
        ["plan", "--attr", "test1=the.test", "--sign-key", "key", "--copy-to", "file:///cache", "--out", "out.json"];
    let answers = [&flake_of_two()[..], &[("store-sign", Value::Null), ("copy", Value::Null)]].concat();
    let (command, folder) = build(&lab, &arguments, &answers);
    stage::start(command).ended().await.unwrap().expect(0).told("2 systems of");

    let head = lab.flake.head().unwrap();
    let map: Value = serde_json::from_str(&fs::read_to_string(lab.home().join("out.json")).unwrap()).unwrap();
    let systems = json!({ "ns1": path(2, "ns1"), "test1": path(2, "test1") });
    assert_eq!(map, json!({ "commit": head, "flake": lab.flake.url(), "cache": "file:///cache", "systems": systems }));
    let record = fs::read_to_string(folder.join("nix-record")).unwrap();
    let calls: Vec<&str> = record.split("--extra-experimental-features nix-command flakes ").skip(1).collect();
    let [evaluation, building, signing, copying] = calls.try_into().unwrap();
    assert!(
        evaluation.starts_with("eval ") && evaluation.contains(&format!("rev={head}#nixosConfigurations")),
        "{evaluation}"
    );
    assert!(building.starts_with("build --no-link --json ") && building.matches(".drv^out").count() == 2, "{building}");
    let both = format!("{} {}\n", path(2, "ns1"), path(2, "test1"));
    assert_eq!(signing, format!("store sign --recursive --key-file key {both}"));
    assert_eq!(copying, format!("copy --to file:///cache {both}"));
}

#[tokio::test]
async fn what_cannot_be_built_says_why_and_what_to_do() {
    let lab = stage::empty(&[]).await;
    let ended = async |arguments: &[&str], answers: &[(&str, Value)]| {
        let (command, folder) = build(&lab, arguments, answers);
        (stage::start(command).ended().await.unwrap(), folder.join("nix-record"))
    };
    let main = ["--revision", "main"];
    let (odd, record) = ended(&[&["ns2"], &main[..]].concat(), &flake_of_two()).await;
    odd.expect(3).told("the flake has no nixosConfigurations.ns2 for the host ns2").told("did you mean ns1?");
    fs::remove_file(&record).unwrap();
    let (keyless, record) = ended(&[&["ns1", "--sign-key", "nowhere"], &main[..]].concat(), &flake_of_two()).await;
    keyless.expect(3).told("cannot read the signing key nowhere");
    assert!(!record.exists(), "something was built before it was known that it can be signed");
    let (failing, _) = ended(&[&["ns1"], &main[..]].concat(), &[("eval", json!("not it"))]).await;
    failing.expect(3).told("`nix eval` gave an answer that cannot be read");
    ended(&["ns1"], &[]).await.0.expect(2).told("add --revision main");
    ended(&["ns1.x"], &[]).await.0.expect(2).told("\"ns1.x\" is neither a plan nor the name of a host");

    stage::write_plan(&lab, "revision = 'main'\n[[wave]]\ntargets = 'test.all'");
    ended(&["plan"], &[]).await.0.expect(2).told("there is no NATS server to ask the hosts");

    let (mut nowhere, folder) = build(&lab, &[&["ns1"], &main[..]].concat(), &[]);
    fs::remove_file(folder.join("nix")).unwrap();
    let git = String::from_utf8(Command::new("sh").args(["-c", "command -v git"]).output().unwrap().stdout).unwrap();
    std::os::unix::fs::symlink(git.trim(), folder.join("git")).unwrap();
    nowhere.env("PATH", &folder);
    stage::start(nowhere).ended().await.unwrap().expect(3).told("nix is not on the PATH");
}

#[tokio::test]
async fn apply_builds_for_the_hosts_that_are_there() {
    let lab = stage::empty(&["test.test1", "prod.ns1"]).await;
    let (_test1, test1) = start(&lab, report(&lab, "test", "test1")).await;
    let (_ns1, ns1) = start(&lab, report(&lab, "prod", "ns1")).await;
    let plan = "revision = 'main'\n[[wave]]\ntargets = 'test.all'\n[[wave]]\ntargets = 'prod.all'\n";
    let mut command = command(&lab, "apply", plan, &["--build", "--attr", "test1=the.test"]);
    nix(&lab, &mut command, &flake_of_two());
    stage::start(command).ended().await.unwrap().expect(0);
    for (host, requests) in [("test1", test1), ("ns1", ns1)] {
        assert_eq!(requests.try_iter().next().unwrap()["system"], json!(path(2, host)));
    }
}
