//! Tests that a person approves everything outside the test tier, and that exactly the approved rollout happens.

use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use homelab_deploy::clock;
use homelab_deploy::mcp::{ApprovalMode, RevisionPolicy, Server, Settings};
use jiff::{SignedDuration, Timestamp};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ClientCapabilities, ClientConfig, ElicitRequestParams, ElicitResult,
    ElicitationAction, InputResponses, ProgressNotificationParam,
};
use rmcp::service::{NotificationContext, RequestContext};
use rmcp::{ClientHandler, ErrorData, RoleClient};
use serde_json::{Value, json};

use super::client::{Assistant, ERAS, Era, administrator, config, params, text};
use crate::apply::stage::{self, ran_sorted};
use crate::support::lab::Lab;
use crate::support::rebuild::GATE;
use crate::support::wait;

/// Two waves, of which the second is above the test tier.
const PLAN: &str = r#"
revision = "main"
[[wave]]
targets = "test.all"
[[wave]]
targets = "prod.all"
"#;

/// A client whose user can be asked.
#[derive(Clone)]
pub struct Person {
    types: &'static str,
    seen: Arc<Mutex<Vec<String>>>,
    /// What happens before this person answers.
    meanwhile: Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Person {
    pub fn who_types(types: &'static str) -> Self {
        Self { types, seen: Arc::default(), meanwhile: Arc::new(|| Box::pin(async {})), heard: Arc::default() }
    }

    /// Returns what this person was asked, in order.
    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// Makes the person type `prod.ns1` only after the client was told about the waiting.
const SLOW: &str = "slow";

impl ClientHandler for Person {
    async fn on_progress(&self, progress: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.heard.lock().unwrap().extend(progress.message);
    }

    fn get_info(&self) -> ClientConfig {
        let capabilities = ClientCapabilities::builder().enable_elicitation().build();
        ClientConfig::new(capabilities, config().client_info)
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let ElicitRequestParams::FormElicitationParams { message, .. } = request else { panic!("{request:?}") };
        self.seen.lock().unwrap().push(message);
        (self.meanwhile)().await;
        // A person takes longer than a client waits without news.
        if self.types == SLOW {
            let heard = Arc::clone(&self.heard);
            let progress = async move {
                while heard.lock().unwrap().len() < 3 {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            };
            wait::event("progress is heard while a person is asked", progress).await.unwrap();
        }
        match self.types {
            "" => Ok(ElicitResult::new(ElicitationAction::Decline)),
            SLOW => Ok(ElicitResult::new(ElicitationAction::Accept).with_content(json!({ "approval": "prod.ns1" }))),
            text => Ok(ElicitResult::new(ElicitationAction::Accept).with_content(json!({ "approval": text }))),
        }
    }
}

/// Returns the settings of a server with the key of an administrator, and an audit file.
pub fn admin(lab: &Lab) -> Settings {
    let audit_file = Some(lab.folder().join("audit.jsonl"));
    Settings { approval: ApprovalMode::Person, revisions: RevisionPolicy::new(&[]), audit_file, ..administrator(lab) }
}

/// Returns the lines of the audit file, each as outcome, code and approval.
fn record(lab: &Lab) -> Vec<String> {
    let lines = std::fs::read_to_string(lab.folder().join("audit.jsonl")).unwrap();
    let word = |line: &Value, name: &str| line[name].as_str().map(|word| format!(" {word}")).unwrap_or_default();
    let told = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        ["tool", "outcome", "code", "tier", "approval"].map(|name| word(&line, name)).concat().trim().to_owned()
    };
    lines.lines().filter(|line| line.contains(r#""event":"ended""#)).map(told).collect()
}

async fn meet(lab: &Lab, person: &Person, era: Era) -> Assistant<Person> {
    Assistant::meeting(person.clone(), Server::new(admin(lab)).unwrap(), era).await
}

fn ns1() -> Value {
    json!({ "tier": "prod", "hostname": "ns1", "branch": "main" })
}

#[tokio::test]
async fn what_a_person_has_typed_happens() {
    for era in ERAS {
        let lab = stage::lab(&["prod.ns1"]).await;
        let person = Person::who_types("prod.ns1");
        let assistant = meet(&lab, &person, era).await;
        let answer = assistant.ask("deploy_admin", ns1()).await;
        assert_eq!(answer["state"], "succeeded", "{answer:#}");
        assert_eq!(ran_sorted(&lab), ["ns1"]);
        let question = person.seen().concat();
        assert!(question.contains(answer["commit"].as_str().unwrap()), "{question}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(question.replace(answer["commit"].as_str().unwrap(), "COMMIT"), @"
            An assistant wants to deploy to prod.

            target:  prod.ns1
            commit:  COMMIT (main)
            hosts:   ns1 (1)
            step:    prod.ns1: switch ns1

            Type prod.ns1 to approve. The author of this commit controls these hosts.
            ");
        }
        let asked = if era == Era::Stateless { vec!["deploy_admin asked prod"] } else { Vec::new() };
        assert_eq!(record(&lab), [asked, vec!["deploy_admin ok prod given"]].concat());
    }
}

#[tokio::test]
async fn anything_but_a_yes_is_a_no() {
    let lab = stage::lab(&["prod.ns1"]).await;
    for era in ERAS {
        for (types, code) in
            [("", "approval_declined"), ("yes", "approval_mistyped"), ("prod.ns2", "approval_mistyped")]
        {
            let assistant = meet(&lab, &Person::who_types(types), era).await;
            let told = assistant.refused("deploy_admin", ns1()).await;
            assert!(told.starts_with(code) && told.contains("nothing was done"), "{told}");
        }
        let assistant = Assistant::beside(admin(&lab), era).await;
        let told = assistant.refused("deploy_admin", ns1()).await;
        assert!(told.starts_with("approval_unavailable: "), "{told}");
    }
    assert_eq!(ran_sorted(&lab), [""; 0]);
    assert!(record(&lab).iter().all(|line| !line.contains(" ok") && !line.contains("given")), "{:?}", record(&lab));
    assert!(record(&lab).contains(&"deploy_admin error approval_unavailable prod".to_owned()), "{:?}", record(&lab));
}

#[tokio::test]
async fn plans_above_test_ask_for_their_name_and_plans_for_test_do_not_ask() {
    let lab = stage::lab(&["prod.ns1", "test.test1"]).await;
    stage::write_plan(&lab, PLAN);
    std::fs::write(lab.home().join("plans/tests.toml"), "revision = 'main'\n[[wave]]\ntargets = 'test.all'\n").unwrap();
    for era in ERAS {
        let person = Person::who_types("plan");
        let assistant = meet(&lab, &person, era).await;
        let preview = async |plan: &str| {
            let preview = assistant.ask("preview_plan", json!({ "plan": plan })).await;
            json!({ "plan": plan, "plan_hash": preview["plan_hash"] })
        };
        let answer = assistant.ask("apply_plan", preview("tests").await).await;
        assert_eq!((&answer["state"], person.seen().len()), (&json!("succeeded"), 0), "{answer:#}");
        let answer = assistant.ask("apply_plan", preview("plan").await).await;
        assert_eq!((&answer["state"], person.seen().len()), (&json!("succeeded"), 1), "{answer:#}");
        let question = person.seen().concat();
        assert!(question.contains("to test and prod.") && question.contains("Type plan to approve"), "{question}");
        let answer = assistant.ask("deploy_admin", json!({ "tier": "test", "all": true, "branch": "main" })).await;
        assert_eq!((&answer["state"], person.seen().len()), (&json!("succeeded"), 1), "{answer:#}");
    }
}

#[tokio::test]
async fn a_waived_approval_is_on_record() {
    let lab = stage::lab(&["prod.ns1"]).await;
    let settings = Settings { approval: ApprovalMode::Waived, ..admin(&lab) };
    let assistant = Assistant::beside(settings, Era::Handshake).await;
    assert_eq!(assistant.ask("deploy_admin", ns1()).await["state"], "succeeded");
    assert_eq!(record(&lab), ["deploy_admin ok prod waived"]);
}

#[tokio::test]
async fn a_revision_that_is_not_allowed_is_not_even_asked_about() {
    let lab = stage::lab(&["prod.ns1", "test.test1"]).await;
    stage::write_plan(&lab, PLAN);
    for era in ERAS {
        let person = Person::who_types("prod.ns1");
        let rules: Vec<_> = ["prod=release/*", "test=dev"].iter().map(|rule| rule.parse().unwrap()).collect();
        let settings = Settings { revisions: RevisionPolicy::new(&rules), ..admin(&lab) };
        let assistant = Assistant::meeting(person.clone(), Server::new(settings).unwrap(), era).await;
        let commit = lab.flake.commit("a commit on main").unwrap();
        let preview = assistant.ask("preview_plan", json!({ "plan": "plan" })).await;
        for (tool, arguments) in [
            ("deploy", json!({ "hostname": "test1", "branch": "main" })),
            ("deploy_admin", ns1()),
            ("deploy_admin", json!({ "tier": "prod", "all": true, "branch": commit })),
            ("apply_plan", json!({ "plan": "plan", "plan_hash": preview["plan_hash"] })),
        ] {
            let told = assistant.refused(tool, arguments).await;
            assert!(told.starts_with("revision_not_allowed: "), "{tool}: {told}");
            assert!(told.contains("allowed there: "), "{told}");
        }
        assert_eq!(person.seen(), [""; 0]);
    }
    assert_eq!(ran_sorted(&lab), [""; 0]);
}

/// A client of the newest protocol that answers questions as the test says.
struct Scripted<'a> {
    assistant: &'a Assistant<Person>,
}

impl Scripted<'_> {
    /// Calls the tool, and returns the state that the answer has to carry.
    async fn asked(&self, arguments: Value) -> String {
        match self.call(params("deploy_admin", arguments)).await {
            CallToolResponse::InputRequired(question) => question.request_state.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Calls the tool again with an answer, and returns the error of the refusal.
    async fn refused(&self, arguments: Value, state: &str) -> String {
        match self.again(arguments, state).await {
            CallToolResponse::Complete(result) if result.is_error == Some(true) => text(&result),
            other => panic!("{other:?}"),
        }
    }

    async fn again(&self, arguments: Value, state: &str) -> CallToolResponse {
        let answer = json!({ "action": "accept", "content": { "approval": "prod.ns1" } });
        let answers = InputResponses::from([("approval".to_owned(), answer)]);
        self.call(params("deploy_admin", arguments).with_input_responses(answers).with_request_state(state)).await
    }

    async fn call(&self, call: CallToolRequestParams) -> CallToolResponse {
        self.assistant.client.call_tool_once(call).await.unwrap()
    }
}

#[tokio::test]
async fn an_approval_is_good_once_and_for_what_was_shown() {
    let lab = stage::lab(&["prod.ns1"]).await;
    let assistant = meet(&lab, &Person::who_types("prod.ns1"), Era::Stateless).await;
    let client = Scripted { assistant: &assistant };

    let state = client.asked(ns1()).await;
    let boot = json!({ "tier": "prod", "hostname": "ns1", "branch": "main", "action": "boot" });
    let told = client.refused(boot, &state).await;
    assert!(told.starts_with("approval_invalid: "), "{told}");
    let mut forged = state.clone();
    forged.insert(10, 'A');
    let told = client.refused(ns1(), &forged).await;
    assert!(told.starts_with("approval_invalid: "), "{told}");
    assert_eq!(ran_sorted(&lab), [""; 0]);

    assert!(matches!(client.again(ns1(), &state).await, CallToolResponse::Complete(_)));
    stage::until(&lab, "ns1 end 0").await;
    let told = client.refused(ns1(), &state).await;
    assert!(told.starts_with("approval_used: "), "{told}");

    let state = client.asked(ns1()).await;
    lab.flake.commit("something that nobody has seen").unwrap();
    let told = client.refused(ns1(), &state).await;
    assert!(told.starts_with("approval_invalid: "), "{told}");
    assert_eq!(ran_sorted(&lab), ["ns1"]);
}

/// The offset of the clock in the test below, in seconds.
static LATE_S: AtomicI64 = AtomicI64::new(0);

fn late() -> Timestamp {
    clock::now() + SignedDuration::from_secs(LATE_S.load(Ordering::SeqCst))
}

#[tokio::test]
async fn an_approval_expires() {
    let lab = stage::lab(&["prod.ns1"]).await;
    let server = Server::new(Settings { clock: late, ..admin(&lab) }).unwrap();
    let assistant = Assistant::meeting(Person::who_types("prod.ns1"), server, Era::Stateless).await;
    let client = Scripted { assistant: &assistant };
    let state = client.asked(ns1()).await;
    LATE_S.store(601, Ordering::SeqCst);
    let told = client.refused(ns1(), &state).await;
    assert!(told.starts_with("approval_expired: "), "{told}");
    assert_eq!(ran_sorted(&lab), [""; 0]);
}

#[tokio::test]
async fn progress_is_told_while_a_person_is_asked() {
    let lab = stage::lab(&["prod.ns1"]).await;
    let person = Person::who_types(SLOW);
    let server = Server::new(super::deploy::hasty(admin(&lab))).unwrap();
    let assistant = Assistant::meeting(person.clone(), server, Era::Handshake).await;
    let answer = assistant.ask("deploy_admin", ns1()).await;
    assert_eq!(answer["state"], "succeeded", "{answer:#}");
    let heard = person.heard.lock().unwrap().clone();
    assert!(heard.starts_with(&["a person is asked to approve".to_owned()]), "{heard:?}");
}

#[tokio::test]
async fn what_changes_while_a_person_is_asked_was_not_approved() {
    let lab = Arc::new(Mutex::new(stage::lab(&["prod.ns1"]).await));
    let settings = admin(&lab.lock().unwrap());
    let mut person = Person::who_types("prod.ns1");
    let flake = Arc::clone(&lab);
    person.meanwhile = Arc::new(move || {
        flake.lock().unwrap().flake.commit("pushed while a person thinks").unwrap();
        Box::pin(async {})
    });
    let assistant = Assistant::meeting(person, Server::new(settings).unwrap(), Era::Handshake).await;
    let told = assistant.refused("deploy_admin", ns1()).await;
    assert!(told.starts_with("approval_outdated: ") && told.contains("nothing was done"), "{told}");
    assert_eq!(ran_sorted(&lab.lock().unwrap()), [""; 0]);
}

#[tokio::test]
async fn another_operator_who_begins_while_a_person_is_asked_is_noticed() {
    let lab = stage::lab(&["prod.ns1", "prod.ns2"]).await;
    stage::order(&lab, &["ns2"], GATE);
    let mut person = Person::who_types("prod.ns1");
    let begin = lab.operator(&lab.admin).map(Mutex::new).unwrap();
    begin.lock().unwrap().args(["apply", &stage::write_plan(&lab, ONE), "--yes"]);
    let started = lab.fleet.rebuild().folder().join("record");
    let operators = Arc::new(Mutex::new(Vec::new()));
    let other = Arc::clone(&operators);
    person.meanwhile = Arc::new(move || {
        let mut command = begin.lock().unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        other.lock().unwrap().push(child);
        let started = started.clone();
        Box::pin(async move {
            let other_begins = async {
                while !std::fs::read_to_string(&started).unwrap_or_default().contains("ns2 start") {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            };
            wait::event("the other rollout begins", other_begins).await.unwrap();
        })
    });
    let assistant = Assistant::meeting(person, Server::new(admin(&lab)).unwrap(), Era::Handshake).await;
    let told = assistant.refused("deploy_admin", ns1()).await;
    assert!(told.starts_with("another_rollout: "), "{told}");
    assert_eq!(ran_sorted(&lab), ["ns2"]);
    stage::open(&lab, "ns2");
    operators.lock().unwrap().iter_mut().for_each(|operator| assert!(operator.wait().unwrap().success()));
}

/// A plan for one prod host.
const ONE: &str = "revision = 'main'\n[[wave]]\ntargets = 'prod.ns2'\n";

/// Like [`PLAN`], with a check after each wave, and confirmation of the second wave.
const CHECKED: &str = r#"
revision = "main"
[[wave]]
targets = "test.all"
check = ["true", "the first"]
[[wave]]
targets = "prod.all"
confirm = true
check = ["true", "the second"]
"#;

#[tokio::test]
async fn a_person_who_resumes_sees_the_checks_of_the_waves_that_are_left() {
    let lab = stage::lab(&["prod.ns1", "test.test1"]).await;
    stage::write_plan(&lab, CHECKED);
    for era in ERAS {
        let person = Person::who_types("plan");
        let assistant = meet(&lab, &person, era).await;
        let preview = assistant.ask("preview_plan", json!({ "plan": "plan" })).await;
        let apply = json!({ "plan": "plan", "plan_hash": preview["plan_hash"] });
        assert_eq!(assistant.ask("apply_plan", apply).await["state"], "paused");
        let answer = assistant.ask("resume_rollout", json!({})).await;
        assert_eq!(answer["state"], "succeeded", "{answer:#}");
        let questions = person.seen();
        assert_eq!(questions.len(), 2, "{questions:?}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(questions[1].replace(answer["commit"].as_str().unwrap(), "COMMIT"), @"
            An assistant wants to deploy to prod.

            target:  plan
            commit:  COMMIT (main)
            hosts:   ns1 (1)
            step:    prod-all: switch ns1, then runs true the second here
            step:    this confirms wave prod-all

            Type plan to approve. The author of this commit controls these hosts.
            ");
        }
        lab.flake.commit("what the next client deploys").unwrap();
    }
}
