//! Tests typical tasks of assistants, each done by a scripted client in at most two calls. Every answer is compared
//! with what the hosts recorded.

use std::cell::Cell;
use std::fs;

use serde_json::{Value, json};

use super::approval::{Person, admin};
use super::client::{Assistant, ERAS, over, text};
use crate::apply::stage::{self, calls, open, order, ran, until};
use crate::operator;
use crate::support::lab::Lab;
use crate::support::rebuild::{FAIL, GATE};
use homelab_deploy::mcp::Server;

const PLAN: &str = "revision = 'main'\n[[wave]]\nname = 'first'\ntargets = 'test.all'\n[[wave]]\nname = 'production'\ntargets = 'prod.all'\nconfirm = true\n";

/// An assistant whose calls are counted.
struct Scripted<'a> {
    assistant: &'a Assistant<Person>,
    calls: Cell<usize>,
}

impl Scripted<'_> {
    async fn ask(&self, tool: &str, arguments: Value) -> Value {
        self.calls.set(self.calls.get() + 1);
        self.assistant.ask(tool, arguments).await
    }
}

/// Begins a task.
fn task(assistant: &Assistant<Person>) -> Scripted<'_> {
    Scripted { assistant, calls: Cell::new(0) }
}

impl Drop for Scripted<'_> {
    fn drop(&mut self) {
        assert!(self.calls.get() <= 2, "a task took {} calls", self.calls.get());
    }
}

fn host<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let hosts = answer["hosts"].as_array().unwrap_or_else(|| panic!("{answer:#}"));
    hosts.iter().find(|host| host["hostname"] == name).unwrap_or_else(|| panic!("no {name} in {answer:#}"))
}

/// Asserts that each host that the answer reports as completed recorded a run of the reported commit.
#[track_caller]
fn is_true(lab: &Lab, answer: &Value) {
    for host in answer["hosts"].as_array().unwrap().iter().filter(|host| host["status"] == "completed") {
        let call = format!(
            "{} --flake {}?rev={}#{}",
            word(&answer["action"]),
            lab.flake.url(),
            word(&answer["commit"]),
            word(&host["hostname"])
        );
        assert!(calls(lab).contains(&call), "{call} is not in {:?}", calls(lab));
        if answer["action"] == "switch" {
            assert_eq!(host["runs_now"], answer["commit"], "{answer:#}");
        }
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "it is one story of twelve tasks")]
async fn twelve_tasks_take_two_calls_each_and_what_is_told_is_true() {
    for era in ERAS {
        let lab = stage::lab(&["test.test1.web", "test.test2", "prod.ns1"]).await;
        stage::write_plan(&lab, PLAN);
        lab.flake.branch("feature").unwrap();
        let person = Person::who_types("plan");
        let assistant = Assistant::meeting(person, Server::new(admin(&lab)).unwrap(), era).await;
        let first = lab.flake.head().unwrap();

        // Update the test hosts, and tell what changed.
        let one = task(&assistant);
        let updated = one.ask("deploy", json!({ "all": true, "branch": "main" })).await;
        assert_eq!((&updated["state"], &updated["commit"]), (&json!("succeeded"), &json!(first)), "{updated:#}");
        is_true(&lab, &updated);

        // How far is test1 behind?
        let second = lab.flake.commit("dns: serve the new zone").unwrap();
        let two = task(&assistant);
        let behind = two.ask("list_hosts", json!({ "hostname": "test1", "branch": "main" })).await;
        let test1 = host(&behind, "test1");
        assert_eq!((&test1["behind"], &test1["runs_now"]), (&json!(1), &json!(first)), "{behind:#}");
        assert!(word(&test1["subjects"][0]).ends_with("dns: serve the new zone"), "{behind:#}");

        // Roll out the plan, and stop before production.
        let three = task(&assistant);
        let part = json!({ "plan": "plan", "until": "first" });
        let preview = three.ask("preview_plan", part).await;
        let apply = json!({ "plan": "plan", "until": "first", "plan_hash": preview["plan_hash"] });
        let rolled = three.ask("apply_plan", apply).await;
        assert_eq!((&rolled["state"], &rolled["commit"]), (&json!("succeeded"), &json!(second)), "{rolled:#}");
        is_true(&lab, &rolled);
        assert!(!ran(&lab).contains(&"ns1".to_owned()));

        // Branch feature to test2 as dry-activate: what would change?
        let four = task(&assistant);
        let dry =
            json!({ "hostname": "test2", "branch": "feature", "action": "dry-activate", "allow_downgrade": true });
        let dry = four.ask("deploy", dry).await;
        assert_eq!((&dry["state"], &dry["action"]), (&json!("succeeded"), &json!("dry-activate")), "{dry:#}");
        assert_eq!(host(&dry, "test2")["runs_now"], json!(second), "{dry:#}");
        is_true(&lab, &dry);

        // What runs where?
        let five = task(&assistant);
        let hosts = five.ask("list_hosts", json!({})).await;
        assert_eq!(
            (&host(&hosts, "test1")["runs_now"], hosts["total"].as_u64()),
            (&json!(second), Some(3)),
            "{hosts:#}"
        );

        // Go on with a paused rollout.
        let preview = assistant.ask("preview_plan", json!({ "plan": "plan" })).await;
        let paused = assistant.ask("apply_plan", json!({ "plan": "plan", "plan_hash": preview["plan_hash"] })).await;
        assert_eq!(paused["state"], "paused", "{paused:#}");
        let six = task(&assistant);
        let resumed = six.ask("resume_rollout", json!({})).await;
        assert_eq!(
            (&resumed["state"], &resumed["rollout_id"]),
            (&json!("succeeded"), &paused["rollout_id"]),
            "{resumed:#}"
        );
        assert_eq!(host(&resumed, "ns1")["runs_now"], json!(second), "{resumed:#}");
        is_true(&lab, &resumed);

        // Why did test1 fail? With the decisive line of the log.
        order(&lab, &["test1"], FAIL);
        let third = lab.flake.commit("web: a typo").unwrap();
        let seven = task(&assistant);
        let failed = seven.ask("deploy", json!({ "hostname": "test1", "branch": "main" })).await;
        assert!(word(&host(&failed, "test1")["log"]).contains("attribute 'unboundd' missing"), "{failed:#}");
        let log = seven.ask("host_log", json!({ "hostname": "test1" })).await;
        assert!(word(&host(&log, "test1")["log"]).contains("attribute 'unboundd' missing"), "{log:#}");
        assert_eq!(host(&log, "test1")["runs_now"], json!(second), "{log:#}");

        // Deploy two hosts.
        order(&lab, &["test1"], "true");
        let eight = task(&assistant);
        for name in ["test1", "test2"] {
            let deployed = eight.ask("deploy", json!({ "hostname": name, "branch": third })).await;
            assert_eq!(deployed["state"], "succeeded", "{deployed:#}");
            is_true(&lab, &deployed);
        }

        // Return test1.
        let nine = task(&assistant);
        let back = nine.ask("rollback", json!({ "hostname": "test1" })).await;
        assert_eq!(
            (&back["state"], &host(&back, "test1")["runs_now"]),
            (&json!("succeeded"), &json!(second)),
            "{back:#}"
        );
        is_true(&lab, &back);

        // Abort what runs, and wait until it is done.
        order(&lab, &["test1", "test2"], GATE);
        let hasty = Server::new(super::deploy::hasty(admin(&lab))).unwrap();
        let hasty = Assistant::meeting(Person::who_types("plan"), hasty, era).await;
        let running = hasty.ask("deploy", json!({ "hostname": "test1", "branch": third })).await;
        assert_eq!(running["state"], "running", "{running:#}");
        until(&lab, "test1 start").await;
        let ten = task(&assistant);
        let stopping = ten.ask("abort_rollout", json!({})).await;
        assert_eq!((&stopping["state"], &stopping["rollout_id"]), (&json!("stopping"), &running["rollout_id"]));
        let eleven = task(&assistant);
        let ended = async {
            open(&lab, "test1");
            eleven.ask("rollout_status", json!({ "wait_seconds": 45 })).await
        };
        let ended = ended.await;
        assert_ne!(ended["state"], "running", "{ended:#}");
        is_true(&lab, &ended);

        // Which rollouts were there this week?
        let twelve = task(&assistant);
        let list = twelve.ask("rollout_status", json!({ "list": true })).await;
        let told = list["rollouts"].as_array().unwrap();
        let listed = operator::run(&lab, &["rollouts"]).await.unwrap().expect(0).stdout;
        assert_eq!(told.len(), listed.lines().count() - 1, "as the terminal lists them:\n{listed}\n{list:#}");
        for rollout in told {
            assert!(listed.contains(&word(&rollout["rollout_id"])[..8]), "{listed}");
        }
        over(&lab).await;
        fs::remove_file(lab.fleet.rebuild().folder().join("test1.open")).unwrap();
        let errors = assistant.call("rollout_status", json!({ "rollout_id": "nope" })).await;
        assert!(text(&errors).starts_with("unknown_id: "), "{}", text(&errors));
    }
}
