//! Tests the typed phrase and the validity of approvals. Integration tests with a client cover the exchange.

use std::cell::Cell;

use proptest::prelude::*;
use rmcp::model::InputResponses;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::plan::{Hook, ResolvedWave};
use crate::protocol::{Action, HostName, Tier};
use crate::rollout::Rollout;

thread_local! {
    /// The seconds since noon.
    static AFTER_NOON: Cell<i64> = const { Cell::new(0) };
}

fn clock() -> Timestamp {
    let noon: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
    noon + jiff::SignedDuration::from_secs(AFTER_NOON.get())
}

/// A call with the rollout that it would start.
#[derive(Debug, Clone)]
struct Deed {
    tool: &'static str,
    arguments: Value,
    phrase: &'static str,
    rollout: Rollout,
    plan_hash: Option<&'static str>,
    ahead: Vec<HostName>,
}

impl Deed {
    fn dns() -> Self {
        Self {
            tool: "deploy_admin",
            arguments: json!({"tier": "prod", "role": "dns", "branch": "main"}),
            phrase: "prod.role.dns",
            rollout: rollout(&["prod.ns1", "prod.ns2"]),
            plan_hash: None,
            ahead: Vec::new(),
        }
    }

    fn question(&self) -> ApprovalQuestion<'_> {
        let arguments = self.arguments.as_object().unwrap();
        let mut question = ApprovalQuestion::about(self.tool, arguments, self.phrase, &self.rollout, &self.ahead);
        question.plan_hash = self.plan_hash;
        question
    }

    fn wave(&mut self) -> &mut ResolvedWave {
        &mut self.rollout.plan.waves[0]
    }
}

/// Returns a rollout to hosts, each as `<tier>.<host>`.
fn rollout(hosts: &[&str]) -> Rollout {
    let waves = json!([{
        "name": "all", "action": "switch", "hosts": hosts.iter().copied().map(host).collect::<Vec<_>>(), "max_parallel": 1,
        "max_failures": 0, "min_hosts": 1, "ignore_unreachable": false, "accept_timeout": "15s", "timeout": "30m",
        "bake_time": "0s", "check": {"command": ["./smoke.sh", "dns\u{1b}[2J"], "timeout": "1m"}, "confirm": false, "retries": 0,
        "retry_delay": "30s",
    }]);
    serde_json::from_value(json!({
        "id": Uuid::nil(), "secret": Uuid::nil(), "operator": "ops@desk", "asked": "main",
        "revision": "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b", "plan": {"name": "deployment", "waves": waves},
    }))
    .unwrap()
}

fn host(text: &str) -> Value {
    let (tier, name) = text.split_once('.').unwrap();
    json!({"host": name, "tier": tier, "subject": format!("deploy.{text}"), "present": true, "knows_ids": true})
}

fn approvals() -> Approvals {
    AFTER_NOON.set(0);
    Approvals::new(ApprovalMode::Person, clock, Redactor::default())
}

fn call(state: Option<&str>, answer: Option<Value>) -> CallToolRequestParams {
    let mut request = CallToolRequestParams::new("deploy_admin");
    request.request_state = state.map(str::to_owned);
    request.input_responses = answer.map(|answer| InputResponses::from([("approval".to_owned(), answer)]));
    request
}

/// Calls for the first time, and returns the state that the answer has to come with.
fn asked(approvals: &Approvals, deed: &Deed) -> String {
    match approvals.take_answer(&deed.question(), &call(None, None)).unwrap() {
        ApprovalOutcome::Asked(question) => question.request_state.unwrap(),
        other => panic!("{other:?}"),
    }
}

fn typed(text: &str) -> Value {
    json!({"action": "accept", "content": {"approval": text}})
}

/// Calls again with an answer, and returns `given` or the code of the error.
fn again(approvals: &Approvals, deed: &Deed, state: &str, answer: Value) -> &'static str {
    match approvals.take_answer(&deed.question(), &call(Some(state), Some(answer))) {
        Ok(ApprovalOutcome::Given) => "given",
        Ok(other) => panic!("{other:?}"),
        Err(error) => error.code,
    }
}

#[test]
fn what_changes_is_shown_and_is_part_of_what_is_approved() {
    let deed = Deed::dns();
    let changing = |line: &str| {
        let mut question = deed.question();
        question.lines.push(("change", line.to_owned()));
        question
    };
    let asked = changing("linux   6.12.60 -> 6.12.63   2 hosts: reboot   ns1 ns2");
    assert!(asked.to_string().contains("\nchange:  linux   6.12.60 -> 6.12.63"), "{asked}");
    assert_ne!(asked.binding(), changing("linux   6.12.60 -> 6.12.64   2 hosts: reboot   ns1 ns2").binding());
}

#[test]
fn a_person_sees_what_is_to_be_done() {
    insta::assert_snapshot!(Deed::dns().question(), @"
    An assistant wants to deploy to prod.

    target:  prod.role.dns
    commit:  8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b (main)
    hosts:   ns1, ns2 (2)
    step:    all: switch ns1, ns2, then runs ./smoke.sh dns here

    Type prod.role.dns to approve. The author of this commit controls these hosts.
    ");
}

#[test]
fn what_is_typed_has_to_be_the_target() {
    let approvals = approvals();
    let deed = Deed::dns();
    let answer = |answer| again(&approvals, &deed, &asked(&approvals, &deed), answer);
    assert_eq!(answer(typed("prod.role.dns")), "given");
    assert_eq!(answer(typed(" prod.role.dns\n")), "given");
    for text in ["yes", "", "prod", "PROD.ROLE.DNS", "prod.role.dns prod.all"] {
        assert_eq!(answer(typed(text)), "approval_mistyped", "{text}");
    }
    for odd in [json!({"action": "accept"}), json!({"action": "accept", "content": {"approval": true}}), json!("yes")] {
        assert_eq!(answer(odd.clone()), "approval_mistyped", "{odd}");
    }
    let declined = json!({"action": "decline", "content": {"approval": "prod.role.dns"}});
    assert_eq!(answer(declined), "approval_declined");
    assert_eq!(answer(json!({"action": "cancel"})), "approval_declined");
}

#[test]
fn an_approval_is_for_what_was_shown_and_nothing_else() {
    let approvals = approvals();
    let others: [fn(&mut Deed); 12] = [
        |deed| deed.tool = "apply_plan",
        |deed| deed.arguments = json!({"tier": "prod", "role": "dns", "branch": "main", "action": "boot"}),
        |deed| deed.arguments = json!({"tier": "prod", "role": "web", "branch": "main"}),
        |deed| deed.wave().hosts.truncate(1),
        |deed| deed.wave().hosts[0].tier = Tier::Test,
        |deed| deed.wave().action = Action::Boot,
        |deed| deed.wave().limits.check = None,
        |deed| deed.rollout.asked = "evil".parse().unwrap(),
        |deed| deed.rollout.revision = "0000000000000000000000000000000000000000".parse().unwrap(),
        |deed| deed.plan_hash = Some("another"),
        |deed| deed.ahead = vec!["ns1".parse().unwrap()],
        |deed| deed.phrase = "prod.all",
    ];
    for other in others {
        let deed = Deed::dns();
        let state = asked(&approvals, &deed);
        let mut changed = deed.clone();
        other(&mut changed);
        assert_eq!(again(&approvals, &changed, &state, typed(changed.phrase)), "approval_invalid", "{changed:?}");
        assert_eq!(again(&approvals, &deed, &state, typed("prod.role.dns")), "given");
    }
}

#[test]
fn an_approval_is_good_for_one_call() {
    let approvals = approvals();
    let deed = Deed::dns();
    let state = asked(&approvals, &deed);
    assert_eq!(again(&approvals, &deed, &state, typed("prod.role.dns")), "given");
    assert_eq!(again(&approvals, &deed, &state, typed("prod.role.dns")), "approval_used");
    let state = asked(&approvals, &deed);
    assert_eq!(again(&approvals, &deed, &state, json!({"action": "decline"})), "approval_declined");
    assert_eq!(again(&approvals, &deed, &state, typed("prod.role.dns")), "approval_used");
}

#[test]
fn an_approval_holds_for_ten_minutes() {
    let approvals = approvals();
    let deed = Deed::dns();
    let (early, late) = (asked(&approvals, &deed), asked(&approvals, &deed));
    AFTER_NOON.set(599);
    assert_eq!(again(&approvals, &deed, &early, typed("prod.role.dns")), "given");
    AFTER_NOON.set(600);
    assert_eq!(again(&approvals, &deed, &late, typed("prod.role.dns")), "approval_expired");
    AFTER_NOON.set(6000);
    assert_eq!(again(&approvals, &deed, &late, typed("prod.role.dns")), "approval_expired");
    assert_eq!(again(&approvals, &deed, &early, typed("prod.role.dns")), "approval_expired");
}

#[test]
fn an_answer_without_a_question_asks_it() {
    let approvals = approvals();
    let deed = Deed::dns();
    let state = asked(&approvals, &deed);
    for half in [call(None, Some(typed("prod.role.dns"))), call(Some(&state), None)] {
        let outcome = approvals.take_answer(&deed.question(), &half).unwrap();
        assert!(matches!(outcome, ApprovalOutcome::Asked(_)));
    }
}

#[test]
fn a_question_shows_which_hosts_go_back() {
    let mut deed = Deed::dns();
    deed.ahead = vec!["ns2".parse().unwrap()];
    deed.wave().hosts[1].revision = Some("dd2c4d7dd2c4d7dd2c4d7dd2c4d7dd2c4d7dd2c4".parse().unwrap());
    assert!(deed.question().to_string().contains("\nWARNING: ns2 goes BACK from dd2c4d7\n"), "{}", deed.question());
}

#[test]
fn the_token_of_another_server_is_refused() {
    let deed = Deed::dns();
    let state = asked(&approvals(), &deed);
    assert_eq!(again(&approvals(), &deed, &state, typed("prod.role.dns")), "approval_invalid");
}

#[test]
fn only_the_test_tier_needs_no_person() {
    let needs = |hosts: &[&str]| Deed { rollout: rollout(hosts), ..Deed::dns() }.question().needs_a_person;
    assert!(!needs(&["test.a", "test.b"]));
    assert!(needs(&["prod.a"]));
    assert!(needs(&["test.a", "prod.b", "test.c"]));
    let mut deed = Deed { rollout: rollout(&["test.a"]), ..Deed::dns() };
    for subject in ["deploy.prod.a", "deploy.elsewhere"] {
        deed.wave().hosts[0].shared_subject = Some(subject.parse().unwrap());
        assert!(deed.question().needs_a_person, "a test host on a subject that another host may hear");
    }
    assert!(needs(&[]), "a question about no host may be about any host");
}

#[test]
fn a_client_says_whether_it_can_ask() {
    let can = |capabilities: Value| can_ask(serde_json::from_value(capabilities).unwrap());
    assert!(can(json!({"elicitation": {}})));
    assert!(can(json!({"elicitation": {"form": {}, "url": {}}})));
    assert!(!can(json!({"elicitation": {"url": {}}})));
    assert!(!can(json!({"sampling": {}})));
}

proptest! {
    #[test]
    fn a_token_that_was_changed_is_refused(at in any::<prop::sample::Index>(), byte in 33_u8..127) {
        let approvals = approvals();
        let deed = Deed::dns();
        let state = asked(&approvals, &deed);
        let mut forged = state.clone().into_bytes();
        let at = at.index(forged.len());
        prop_assume!(forged[at] != byte);
        forged[at] = byte;
        let forged = String::from_utf8(forged).unwrap();
        prop_assert_eq!(again(&approvals, &deed, &forged, typed("prod.role.dns")), "approval_invalid");
    }
}

#[test]
fn programs_that_would_run_here_are_shown_and_part_of_what_is_approved() {
    let deed = Deed::dns();
    let mut told = deed.clone();
    told.rollout.plan.hooks.insert(Hook::OnFinish, ["./tell", "x\u{1b}[2J"].map(str::to_owned).to_vec());
    let question = told.question().to_string();
    assert!(question.contains("on_finish: runs ./tell x here"), "{question}");
    let mut other = told.clone();
    other.rollout.plan.hooks.insert(Hook::OnFinish, vec!["./other".to_owned()]);
    let bindings = [&deed, &told, &other].map(|deed| deed.question().binding());
    assert!(bindings[0] != bindings[1] && bindings[1] != bindings[2]);
}
