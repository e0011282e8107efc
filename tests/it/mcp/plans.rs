//! Tests `list_plans`, `preview_plan`, `apply_plan`, `rollout_status`, `abort_rollout` and `resume_rollout`.

use std::fs;

use serde_json::{Value, json};

use super::client::{Assistant, ERAS, Era, administrator, command, params, settings};
use super::deploy::hasty;
use crate::apply::stage::{self, open, order, ran, until};
use crate::apply::systems;
use crate::operator;
use crate::support::lab::Lab;
use crate::support::rebuild::GATE;
use crate::support::wait;

const TEST_ONLY: &str =
    "revision = 'main'\n[[wave]]\nname = 'one'\ntargets = 'test.test1'\n[[wave]]\ntargets = 'test.all'\n";
const BOTH: &str = "revision = 'main'\n[[wave]]\ntargets = 'test.all'\n[[wave]]\ntargets = 'prod.all'\n";

/// Returns a lab with three plans: one for test hosts, one for all hosts, and an invalid one.
async fn lab() -> Lab {
    let lab = stage::lab(&["test.test1", "test.test2", "prod.ns1"]).await;
    fs::create_dir_all(lab.home().join("plans")).unwrap();
    for (name, text) in [("tests", TEST_ONLY), ("everything", BOTH), ("broken", "revision = 1")] {
        fs::write(lab.home().join(format!("plans/{name}.toml")), text).unwrap();
    }
    lab
}

fn names(listing: &Value) -> Vec<&str> {
    listing["plans"].as_array().unwrap().iter().map(|plan| plan["name"].as_str().unwrap()).collect()
}

async fn hash(assistant: &Assistant, plan: &str) -> String {
    let preview = assistant.ask("preview_plan", json!({ "plan": plan })).await;
    preview["plan_hash"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_plan_is_carried_out_as_it_was_previewed() {
    let lab = lab().await;
    for era in ERAS {
        let assistant = Assistant::beside(settings(&lab), era).await;
        let preview = assistant.ask("preview_plan", json!({ "plan": "tests" })).await;
        assert_eq!(preview["commit"], lab.flake.head().unwrap());
        assert_eq!((&preview["tiers"], preview["hosts"].as_array().unwrap().len()), (&json!(["test"]), 2));
        assert_eq!(preview["waves"][0]["name"], "one");
        let hash = preview["plan_hash"].clone();
        assert_eq!(hash, super::plans::hash(&assistant, "tests").await, "the same as long as nothing changes");

        let answer = assistant.ask("apply_plan", json!({ "plan": "tests", "plan_hash": hash })).await;
        assert_eq!(answer["state"], "succeeded", "{answer:#}");
        let id = answer["rollout_id"].as_str().unwrap();
        let listed = operator::run(&lab, &["rollouts"]).await.unwrap().expect(0).stdout;
        assert!(listed.contains(&id[..8]) && listed.contains("succeeded"), "{listed}");
    }
    assert_eq!(ran(&lab), ["test1", "test2", "test1", "test2"]);
}

#[tokio::test]
async fn what_has_changed_since_the_preview_is_refused() {
    let mut lab = stage::lab(&["test.test1", "test.test2", "test.test3"]).await;
    fs::create_dir_all(lab.home().join("plans")).unwrap();
    fs::write(lab.home().join("plans/tests.toml"), TEST_ONLY).unwrap();
    let assistant = Assistant::beside(settings(&lab), Era::Stateless).await;
    let apply = async |hash: &str| assistant.refused("apply_plan", json!({ "plan": "tests", "plan_hash": hash })).await;
    let first = hash(&assistant, "tests").await;
    lab.flake.commit("another").unwrap();
    assert!(apply(&first).await.starts_with("stale_plan: "));

    let second = hash(&assistant, "tests").await;
    fs::write(lab.home().join("plans/tests.toml"), format!("{TEST_ONLY}\n# changed\n")).unwrap();
    assert!(apply(&second).await.starts_with("stale_plan: "));

    let third = hash(&assistant, "tests").await;
    lab.fleet.kill(&crate::host("test2"));
    assert!(apply(&third).await.starts_with("stale_plan: "));
    assert!(apply("").await.starts_with("stale_plan: "));
    assert_eq!(ran(&lab), [""; 0]);
}

#[tokio::test]
async fn a_plan_for_more_than_test_hosts_is_there_for_administrators_only() {
    let lab = lab().await;
    let assistant = Assistant::beside(settings(&lab), Era::Handshake).await;
    let listing = assistant.ask("list_plans", json!({})).await;
    assert_eq!(names(&listing), ["broken", "tests"]);
    assert!(listing["plans"][0]["problem"].as_str().unwrap().starts_with("invalid_plan: "), "{listing:#}");
    for tool in ["preview_plan", "apply_plan"] {
        let mut arguments = json!({ "plan": "everything" });
        if tool == "apply_plan" {
            arguments["plan_hash"] = json!("x");
        }
        assert!(assistant.refused(tool, arguments).await.starts_with("admin_disabled: "));
    }
    for plan in ["../plans/tests", "tests.toml", "", "/etc/passwd", "nowhere"] {
        let told = assistant.refused("preview_plan", json!({ "plan": plan })).await;
        assert!(told.starts_with("invalid_plan: ") || told.starts_with("unknown_plan: "), "{told}");
    }

    let assistant = Assistant::beside(administrator(&lab), Era::Stateless).await;
    assert_eq!(names(&assistant.ask("list_plans", json!({})).await), ["broken", "everything", "tests"]);
    let plan_hash = hash(&assistant, "everything").await;
    let answer = assistant.ask("apply_plan", json!({ "plan": "everything", "plan_hash": plan_hash })).await;
    assert_eq!(answer["state"], "succeeded", "{answer:#}");
    assert_eq!(ran(&lab).last().map(String::as_str), Some("ns1"));
}

#[tokio::test]
async fn a_rollout_outlives_its_server_and_is_stopped_by_another() {
    let lab = lab().await;
    order(&lab, &["test1"], GATE);
    let mut dying = command(&lab, &["--plans-dir", lab.home().join("plans").to_str().unwrap()]);
    // Some clients kill the whole server after a cancelled call.
    dying.process_group(0);
    let assistant = Assistant::spawn(&mut dying, Era::Stateless).await;
    let arguments = json!({ "plan": "tests", "plan_hash": hash(&assistant, "tests").await });
    let pid = assistant.pid();
    let calling = assistant.client.call_tool(params("apply_plan", arguments));
    let killing = async {
        until(&lab, "test1 start").await;
        rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).unwrap();
    };
    let (broken, ()) = tokio::join!(calling, killing);
    assert!(broken.is_err(), "{broken:?}");

    let next = Assistant::beside(settings(&lab), Era::Handshake).await;
    let answer = next.ask("rollout_status", json!({})).await;
    assert_eq!((&answer["state"], &answer["waves"][0]["state"]), (&json!("running"), &json!("running")), "{answer:#}");
    let id = answer["rollout_id"].clone();
    assert_eq!(next.ask("abort_rollout", json!({ "rollout_id": id })).await["state"], "stopping");
    stage_interrupted(&lab, &next, &id).await;
    open(&lab, "test1");
    let answer = next.ask("rollout_status", json!({ "rollout_id": id, "wait_seconds": 45 })).await;
    assert_eq!(answer["state"], "interrupted", "{answer:#}");
    assert_eq!(ran(&lab), ["test1"]);
    let told = next.refused("abort_rollout", json!({ "rollout_id": id })).await;
    assert!(told.starts_with("not_running: "), "{told}");
}

/// Waits until the process of a rollout has seen the stop file.
async fn stage_interrupted(lab: &Lab, assistant: &Assistant, id: &Value) {
    let stop_file = lab.home().join(format!("state/homelab-deploy/rollouts/{}.stop", id.as_str().unwrap()));
    let seen = async || Ok((!stop_file.exists()).then_some(()));
    wait::until("the wish to stop is seen", seen).await.unwrap();
    assert_eq!(assistant.ask("rollout_status", json!({ "rollout_id": id })).await["state"], "running");
}

#[tokio::test]
async fn without_the_administrators_key_a_rollout_of_prod_does_not_exist() {
    let lab = lab().await;
    order(&lab, &["test1"], GATE);
    let strong = Assistant::beside(hasty(administrator(&lab)), Era::Handshake).await;
    let plan_hash = hash(&strong, "everything").await;
    let answer = strong.ask("apply_plan", json!({ "plan": "everything", "plan_hash": plan_hash })).await;
    assert_eq!(answer["state"], "running", "{answer:#}");
    let id = answer["rollout_id"].clone();
    let weak = Assistant::beside(settings(&lab), Era::Handshake).await;
    for tool in ["abort_rollout", "rollout_status", "resume_rollout", "rollback"] {
        let told = weak.refused(tool, json!({ "rollout_id": id })).await;
        assert!(told.starts_with("unknown_id: "), "{tool}: {told}");
    }
    for tool in ["rollout_status", "abort_rollout"] {
        let told = weak.refused(tool, json!({})).await;
        assert_eq!(told, "unknown_id: no rollout is on record here. Next: deploy or apply_plan begins one.");
    }
    let told = weak.refused("resume_rollout", json!({})).await;
    assert!(told.starts_with("unknown_id: no rollout on record here is paused or cut off. Next: "), "{told}");
    assert_eq!(weak.ask("rollout_status", json!({ "list": true })).await["rollouts"], json!([]));
    let told = weak.refused("host_log", json!({ "hostname": "test1", "rollout_id": id })).await;
    assert!(told.starts_with("unknown_id: "), "{told}");
    let told = weak.refused("deploy", json!({ "hostname": "test2", "branch": "main" })).await;
    assert!(told.starts_with("another_rollout: "), "{told}");
    open(&lab, "test1");
    let patient = Assistant::beside(administrator(&lab), Era::Handshake).await;
    let answer = patient.ask("rollout_status", json!({ "wait_seconds": 45 })).await;
    assert_eq!(answer["state"], "succeeded", "{answer:#}");
}

#[tokio::test]
async fn without_the_administrators_key_no_id_of_a_hidden_rollout_is_told() {
    let lab = lab().await;
    let strong = Assistant::beside(administrator(&lab), Era::Handshake).await;
    let ns1 = json!({ "tier": "prod", "hostname": "ns1", "branch": "main" });
    let id = strong.ask("deploy_admin", ns1).await["rollout_id"].as_str().unwrap().to_owned();
    // A second rollout, whose id begins as that of the first.
    let twin = format!("{}{}", &id[..id.len() - 1], if id.ends_with('0') { '1' } else { '0' });
    let journal = |id: &str| lab.home().join(format!("state/homelab-deploy/rollouts/{id}.jsonl"));
    fs::write(journal(&twin), fs::read_to_string(journal(&id)).unwrap().replace(&id, &twin)).unwrap();
    let beginning = json!({ "rollout_id": &id[..8] });
    let told = strong.refused("rollout_status", beginning.clone()).await;
    assert!(told.starts_with("unknown_id: several rollouts begin with ") && told.contains(&twin), "{told}");
    let weak = Assistant::beside(settings(&lab), Era::Handshake).await;
    let told = weak.refused("rollout_status", beginning).await;
    assert!(told.starts_with("unknown_id: there is no rollout ") && !told.contains(&twin), "{told}");
}

#[tokio::test]
async fn a_rollout_of_test_hosts_that_was_cut_off_after_the_last_one_goes_on_without_a_person() {
    let lab = lab().await;
    let assistant = Assistant::beside(settings(&lab), Era::Handshake).await;
    let arguments = json!({ "plan": "tests", "plan_hash": hash(&assistant, "tests").await });
    let id = assistant.ask("apply_plan", arguments).await["rollout_id"].as_str().unwrap().to_owned();
    // As if the process had ended before it recorded the end of the last wave.
    let journal = lab.home().join(format!("state/homelab-deploy/rollouts/{id}.jsonl"));
    let written = fs::read_to_string(&journal).unwrap();
    let last = written.rfind(r#""event":"wave_ended""#).unwrap();
    let left = written[..last].rfind('\n').unwrap() + 1;
    fs::write(&journal, &written[..left]).unwrap();
    assert_eq!(assistant.ask("rollout_status", json!({ "rollout_id": id })).await["state"], "cut_off");
    let answer = assistant.ask("resume_rollout", json!({})).await;
    assert_eq!((&answer["state"], &answer["rollout_id"]), (&json!("succeeded"), &json!(id)), "{answer:#}");
}

#[tokio::test]
async fn without_the_administrators_key_a_rollout_on_a_subject_that_any_host_may_hear_does_not_exist() {
    let lab = lab().await;
    let weak = Assistant::beside(settings(&lab), Era::Handshake).await;
    let arguments = json!({ "plan": "tests", "plan_hash": hash(&weak, "tests").await });
    let id = weak.ask("apply_plan", arguments).await["rollout_id"].clone();
    assert_eq!(weak.ask("rollout_status", json!({ "rollout_id": id })).await["state"], "succeeded");
    // As if the plan had spelled a subject of its own for the hosts.
    let journal = lab.home().join(format!("state/homelab-deploy/rollouts/{}.jsonl", id.as_str().unwrap()));
    let own = r#""tier":"test","present""#;
    let written = fs::read_to_string(&journal).unwrap();
    assert_eq!(written.matches(own).count(), 2, "{written}");
    fs::write(&journal, written.replace(own, r#""tier":"test","subject":"deploy.elsewhere","present""#)).unwrap();
    for tool in ["rollout_status", "resume_rollout", "rollback"] {
        let told = weak.refused(tool, json!({ "rollout_id": id })).await;
        assert!(told.starts_with("unknown_id: "), "{tool}: {told}");
    }
    let strong = Assistant::beside(administrator(&lab), Era::Handshake).await;
    assert_eq!(strong.ask("rollout_status", json!({ "rollout_id": id })).await["state"], "succeeded");
}

#[tokio::test]
async fn a_wave_that_has_to_be_confirmed_waits_for_a_person() {
    let lab = lab().await;
    let plan =
        "revision = 'main'\n[[wave]]\ntargets = 'test.test1'\n[[wave]]\ntargets = 'test.test2'\nconfirm = true\n";
    fs::write(lab.home().join("plans/tests.toml"), plan).unwrap();
    let assistant = Assistant::beside(settings(&lab), Era::Stateless).await;
    let arguments = json!({ "plan": "tests", "plan_hash": hash(&assistant, "tests").await });
    let answer = assistant.ask("apply_plan", arguments).await;
    assert_eq!(answer["state"], "paused", "{answer:#}");
    // This client cannot ask its user, and the wave has to be confirmed.
    let told = assistant.refused("resume_rollout", json!({})).await;
    assert!(told.starts_with("approval_unavailable: "), "{told}");
    assert_eq!(ran(&lab), ["test1"]);
    let told = assistant.refused("rollback", json!({ "hostname": "test2" })).await;
    assert!(told.starts_with("nothing_to_undo: "), "{told}");
}

#[tokio::test]
async fn what_changes_is_previewed_and_other_systems_are_another_plan() {
    let lab = stage::empty(&["test.test1"]).await;
    let mut report = systems::report(&lab, "test", "test1");
    report["system"] = json!(systems::path(1, "ns1"));
    let (_test1, requests) = systems::start(&lab, report).await;
    fs::create_dir_all(lab.home().join("plans")).unwrap();
    fs::write(lab.home().join("plans/built.toml"), "systems = '../systems.json'\n[[wave]]\ntargets = 'test.test1'\n")
        .unwrap();
    let map = |number: u8| {
        let systems = json!({ "test1": systems::path(number, "ns1") });
        let map = json!({ "commit": systems::COMMIT, "systems": systems });
        fs::write(lab.home().join("systems.json"), map.to_string()).unwrap();
    };
    map(2);
    let mut command = command(&lab, &["--plans-dir", "plans"]);
    command.env("PATH", systems::told_nix(&lab, &systems::told_of_ns1()).1);
    let assistant = Assistant::spawn(&mut command, Era::Stateless).await;
    let preview = assistant.ask("preview_plan", json!({ "plan": "built" })).await;
    let changes: Vec<&str> = preview["changes"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(changes[0].starts_with("linux") && changes[0].ends_with("1 host: reboot   test1"), "{changes:?}");
    map(3);
    let arguments = json!({ "plan": "built", "plan_hash": preview["plan_hash"] });
    let stale = assistant.call("apply_plan", arguments).await;
    assert!(format!("{stale:?}").contains("stale_plan"), "{stale:?}");
    assert_eq!(requests.try_iter().count(), 0);
}

#[tokio::test]
async fn programs_that_a_plan_tells_are_shown_and_run_for_it() {
    let lab = stage::lab(&["test.test1", "test.test2"]).await;
    let folder = lab.home().join("plans");
    fs::create_dir_all(&folder).unwrap();
    let told = folder.join("told");
    let plan = |file: &str| format!("on_finish = ['sh', '-c', 'cat >{file}']\n{TEST_ONLY}");
    fs::write(folder.join("tests.toml"), plan(told.to_str().unwrap())).unwrap();
    let assistant = Assistant::beside(settings(&lab), Era::Stateless).await;
    let preview = assistant.ask("preview_plan", json!({ "plan": "tests" })).await;
    assert_eq!(preview["hooks"], json!({ "on_finish": format!("sh -c cat >{}", told.display()) }));
    let answer = assistant.ask("apply_plan", json!({ "plan": "tests", "plan_hash": preview["plan_hash"] })).await;
    assert_eq!(answer["state"], "succeeded", "{answer:#}");
    let written = async || Ok(fs::read(&told).ok().filter(|text| text.ends_with(b"\n")));
    let summary: Value = serde_json::from_slice(&wait::until("the program was told", written).await.unwrap()).unwrap();
    assert_eq!(summary["hosts"]["completed"], 2);

    fs::write(folder.join("tests.toml"), plan("elsewhere")).unwrap();
    let stale = json!({ "plan": "tests", "plan_hash": preview["plan_hash"] });
    let refused = assistant.refused("apply_plan", stale).await;
    assert!(refused.starts_with("stale_plan: "), "{refused}");
}
