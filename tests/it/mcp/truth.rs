//! Tests that an assistant is told only what hosts are known to run: after rollbacks, failed builds, dry runs and
//! boots.

use std::fs;

use serde_json::{Value, json};

use super::client::{Assistant, ERAS, Era, over, settings, text};
use super::deploy::hasty;
use crate::apply::stage::{self, open, order, until};
use crate::generations;
use crate::operator;
use crate::support::lab::Lab;
use crate::support::rebuild::{FAIL, GATE};
use crate::support::wait;

fn host<'a>(answer: &'a Value, name: &str) -> &'a Value {
    answer["hosts"].as_array().unwrap().iter().find(|host| host["hostname"] == name).unwrap()
}

/// Returns a lab of two test hosts whose old and new systems are the first and second commit of `main`, and can roll
/// back.
async fn lab() -> (Lab, Assistant, String, String) {
    let mut lab = stage::empty(&["test.test1", "test.test2"]).await;
    let old = lab.flake.head().unwrap();
    let new = lab.flake.commit("a new one").unwrap();
    for name in ["test1", "test2"] {
        generations::install(&lab, name);
        generations::is_of_commit(&lab, name, generations::OLD, &old);
        generations::is_of_commit(&lab, name, generations::NEW, &new);
    }
    lab.listen_all().await.unwrap();
    fs::create_dir_all(lab.home().join("plans")).unwrap();
    let assistant = Assistant::beside(settings(&lab), Era::Handshake).await;
    (lab, assistant, old, new)
}

async fn apply(assistant: &Assistant, plan: &str) -> Value {
    let hash = assistant.ask("preview_plan", json!({ "plan": plan })).await["plan_hash"].clone();
    assistant.ask("apply_plan", json!({ "plan": plan, "plan_hash": hash })).await
}

#[tokio::test]
async fn a_host_that_was_rolled_back_runs_what_it_ran_before() {
    let (lab, assistant, old, new) = lab().await;
    let plan =
        "revision = 'main'\n[[wave]]\ntargets = ['test.test1', 'test.test2']\nmax_parallel = 1\nrollback = 'wave'\n";
    fs::write(lab.home().join("plans/back.toml"), plan).unwrap();
    order(&lab, &["test2"], FAIL);
    let result = apply(&assistant, "back").await;
    assert_eq!((&result["state"], &result["commit"]), (&json!("failed"), &json!(new)), "{result:#}");
    let returned = host(&result, "test1");
    assert_eq!((&returned["status"], &returned["runs_now"]), (&json!("returned"), &json!(old)), "{result:#}");
    assert_eq!(generations::runs(&lab, "test1"), generations::OLD, "as the host itself has it");
    let failed = host(&result, "test2");
    assert_eq!((&failed["status"], &failed["runs_now"]), (&json!("failed"), &json!(old)), "{result:#}");
    assert!(result["waves"][0]["why"].as_str().unwrap().contains("1 failed"), "{result:#}");
    let summary = result["summary"].as_str().unwrap();
    assert!(summary.contains("returned to what ran before"), "{summary}");

    // The terminal and --json say the same.
    let id = result["rollout_id"].as_str().unwrap();
    let terminal = operator::run(&lab, &["status", id]).await.unwrap().expect(1);
    assert!(terminal.stderr.contains(&format!("returned to what ran before ({})", &old[..7])), "{}", terminal.stderr);
    let lines = operator::run(&lab, &["status", id, "--json"]).await.unwrap().expect(1).stdout;
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of =
        |name: &str, event: &str| events.iter().find(|line| line["event"] == event && line["host"] == name).unwrap();
    assert_eq!(of("test1", "returned")["runs_now"], json!(old));
    assert_eq!(of("test2", "final")["runs_now"], json!(old));
}

#[tokio::test]
async fn failed_builds_dry_runs_and_boots_change_nothing() {
    let (lab, assistant, old, new) = lab().await;
    let boots = "ln -sfn /nix/store/new $here/../$host/root/nix/var/nix/profiles/system-42-link
        ln -sfn system-42-link $here/../$host/root/nix/var/nix/profiles/system";
    for (action, script) in [("dry-activate", "true"), ("boot", boots)] {
        order(&lab, &["test1"], script);
        let arguments = json!({ "hostname": "test1", "branch": "main", "action": action });
        let result = assistant.call("deploy", arguments).await;
        let answer = result.structured_content.clone().unwrap();
        let told = host(&answer, "test1");
        assert_eq!((&answer["action"], &answer["commit"]), (&json!(action), &json!(new)));
        assert_eq!(told["runs_now"], json!(old), "{action}: {answer:#}");
        assert!(!text(&result).contains(&format!("runs_now: {new}")), "{}", text(&result));
    }
    order(&lab, &["test1"], FAIL);
    let answer = assistant.ask("deploy", json!({ "hostname": "test1", "branch": "main" })).await;
    let told = host(&answer, "test1");
    assert_eq!((&told["status"], &told["runs_now"]), (&json!("failed"), &json!(old)), "{answer:#}");
    // What the activation left behind is unknown.
    order(&lab, &["test1"], "echo activating the configuration... >&2; exit 4");
    let answer = assistant.ask("deploy", json!({ "hostname": "test1", "branch": "main" })).await;
    let told = host(&answer, "test1");
    if told["status"] == "failed" && told["error"] != "build_failed" {
        assert_eq!(told.get("runs_now"), None, "{answer:#}");
    }
}

#[tokio::test]
async fn a_host_in_flight_is_told_with_its_phase_and_how_long_it_takes() {
    let lab = stage::lab(&["test.test1"]).await;
    order(&lab, &["test1"], GATE);
    for era in ERAS {
        let assistant = Assistant::beside(hasty(settings(&lab)), era).await;
        assistant.ask("deploy", json!({ "hostname": "test1", "branch": "main" })).await;
        until(&lab, "test1 start").await;
        let moving = async || {
            let answer = assistant.ask("rollout_status", json!({})).await;
            let host = answer["hosts"][0].clone();
            assert_eq!(host["status"], "in_flight", "{answer:#}");
            Ok((host["phase"] == "building").then_some(host))
        };
        let host = wait::until("the phase is told", moving).await.unwrap();
        assert!(host["seconds"].is_i64(), "{host:#}");
        open(&lab, "test1");
        over(&lab).await;
        fs::remove_file(lab.fleet.rebuild().folder().join("test1.open")).unwrap();
    }
}

/// Prints a seed in a log, at each place where the log may be cut.
#[tokio::test]
async fn no_part_of_a_seed_comes_through_wherever_a_text_is_cut() {
    let lab = stage::lab(&["test.test1"]).await;
    let seed = fs::read_to_string(lab.admin.seed_file()).unwrap().trim().to_owned();
    let assistant = Assistant::beside(settings(&lab), Era::Stateless).await;
    // The log is cut at its beginning, each time after another character of the seed.
    for padding in (1_440..1_500).step_by(8) {
        let lines = format!(
            "for n in 1 2 3 4 5 6 7; do printf '%0200d\\n' 0; done; printf '%0{}d\\n' 0",
            padding - 7 * 201 - 1
        );
        order(&lab, &["test1"], &format!("{{ echo 'error: {seed}'; {lines}; }} >&2; exit 1"));
        let answer = assistant.call("deploy", json!({ "hostname": "test1", "branch": "main" })).await;
        let told = serde_json::to_string(&answer).unwrap();
        let leaked = (10..=seed.len())
            .rev()
            .find(|length| (0..=seed.len() - length).any(|at| told.contains(&seed[at..at + length])));
        assert_eq!(leaked, None, "so many characters of a seed came through with {padding}");
    }
}
