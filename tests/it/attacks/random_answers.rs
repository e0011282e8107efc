//! Whatever a key says, on any subject that it may publish to: no host of another name or tier changes its state, is asked,
//! or has its commit chosen.
//!
//! The messages are random, made of what an answer is made of, and of every id that anybody has said so far: more than an
//! attacker can know.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use super::{Attacker, lab};
use crate::apply::stage;
use crate::apply::wiretap::Wiretap;
use crate::host;
use crate::support::keys::Key;
use crate::support::lab::Lab;
use crate::support::rebuild::FAIL;

const HOSTS: [&str; 6] = ["test.test1", "test.mole", "prod.spy", "prod.ns1", "prod.ns2", "prod.db"];

/// How many rollouts each key is tried on.
const ROUNDS: u64 = 4;

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        // Xorshift; the bound is small, so that the rest of a division is even enough.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    fn token(&mut self, known: &[String]) -> String {
        known.get(self.below(known.len().max(1))).cloned().unwrap_or_else(|| "x".to_owned())
    }

    /// A subject below one of these prefixes, or one of them itself when it does not end in a dot.
    fn subject(&mut self, prefixes: &[&str], known: &[String]) -> String {
        let prefix = self.pick(prefixes);
        if !prefix.ends_with('.') {
            return prefix.to_owned();
        }
        let tokens: Vec<String> = (0..=self.below(3)).map(|_| self.token(known)).collect();
        format!("{prefix}{}", tokens.join("."))
    }

    fn message(&mut self, known: &[String], evil: &str) -> Value {
        let name = self.pick(&["test1", "mole", "spy", "ns1", "ns2", "db", "ghost"]);
        let tier = self.pick(&["test", "prod"]);
        match self.below(8) {
            0..4 => self.response(name, known, evil),
            4 => json!({
                "hostname": name, "tier": tier, "deploy_subjects": [format!("deploy.prod.{name}"), "deploy.prod.db"],
                "features": ["id", "expires", "rollback", "log", "resolve"], "revision": evil,
                "flake": "git+http://127.0.0.1:1/x", "machine": self.token(known),
                "last": { "id": self.token(known), "status": "completed", "at": "2026-11-23T10:00:00Z" },
            }),
            5 => json!({ "rollout": {
                "id": self.token(known), "name": "x", "operator": "x", "tiers": [tier], "wave": 1, "waves": 1,
                "since": "2026-11-23T10:00:00Z",
            } }),
            6 => json!({ "stream": "deploy", "seq": self.below(100) }),
            _ => json!({
                "action": "switch", "revision": evil, "id": self.token(known), "confirmed": self.below(2) == 0,
                "reply_to": format!("deploy.responses.{}", self.token(known)),
            }),
        }
    }

    fn response(&mut self, name: &str, known: &[String], evil: &str) -> Value {
        let status = self.pick(&["accepted", "rejected", "started", "completed", "completed", "failed"]);
        let mut said = json!({ "hostname": name, "status": status, "message": "so it is", "revision": evil });
        for (field, value) in [
            ("id", json!(self.token(known))),
            ("instance", json!("11111111-1111-4111-8111-111111111111")),
            ("error", json!(self.pick(&["build_failed", "already_running", "moon_phase"]))),
            ("phase", json!(self.pick(&["build", "confirm", "return"]))),
            ("rolled_back", json!(self.below(2) == 0)),
        ] {
            if self.below(2) == 0 {
                said[field] = value;
            }
        }
        said
    }
}

/// Says random things with this key for as long as the value is kept. It learns each id that anybody says.
async fn babble(lab: &Lab, key: &Key, prefixes: &'static [&'static str], evil: String, seed: u64) -> JoinSet<()> {
    let witness = lab.server.connect(&lab.admin).await.unwrap();
    let mut heard = witness.subscribe("deploy.>").await.unwrap();
    let attacker = Attacker::connect(lab, key).await;
    let mut task = JoinSet::new();
    task.spawn(async move {
        let _witness = witness;
        let mut dice = Dice(seed);
        let mut known: Vec<String> = ["ns1", "ns2", "db", "test1", "mole", "probe"].map(str::to_owned).into();
        loop {
            tokio::select! {
                biased;
                Some(message) = heard.next() => {
                    let id = serde_json::from_slice::<Value>(&message.payload).ok().and_then(|m| m["id"].as_str().map(str::to_owned));
                    let tokens = message.subject.split('.').map(str::to_owned).chain(id);
                    for token in tokens.filter(|token| token.len() > 8) {
                        if !known.contains(&token) {
                            known.push(token);
                        }
                    }
                }
                () = sleep(Duration::from_millis(1)) => {
                    for _ in 0..4 {
                        let subject = dice.subject(prefixes, &known);
                        attacker.say(&subject, &dice.message(&known, &evil)).await;
                    }
                }
            }
        }
    });
    task
}

/// How each host of a rollout ended, by its JSON.
fn outcomes(json: &str) -> BTreeMap<String, String> {
    let events = json.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let finals = events.filter(|event| event["event"] == "final");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    finals.map(|event| (text(&event["host"]), text(&event["outcome"]))).collect()
}

/// Rolls out to all but the attacker while it says random things, several times.
async fn withstand(key: fn(&Lab) -> &Key, prefixes: &'static [&'static str], waves: &str, expected: &[(&str, &str)]) {
    let lab = lab(&HOSTS, &["test1", "ns1", "ns2", "db"]).await;
    let evil = lab.flake.branch("evil").unwrap();
    stage::order(&lab, &["test1", "ns1"], "sleep 0.3");
    stage::order(&lab, &["ns2"], &format!("sleep 0.3; {FAIL}"));
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(host, outcome)| ((*host).to_owned(), (*outcome).to_owned())).collect();
    let plan = format!("revision = 'main'\nflake = '{}'\n{waves}", lab.flake.url());
    for round in 1..=ROUNDS {
        let commit = lab.flake.commit("the next one").unwrap();
        let mut tap = Wiretap::begin(&lab).await;
        let babble = babble(&lab, key(&lab), prefixes, evil.clone(), round).await;
        let mut command = stage::command(&lab, "apply", &plan);
        command.args(["--yes", "--json"]);
        let ended = stage::start(command).ended().await.unwrap().expect(1);
        drop(babble);
        assert_eq!(outcomes(&ended.stdout), expected, "round {round}: {}", ended.stdout);
        for (subject, request) in tap.requests_in_full().await {
            if subject.starts_with("deploy.prod.") {
                assert!(["deploy.prod.ns1", "deploy.prod.ns2"].contains(&subject.as_str()), "{subject}");
                assert_eq!(request["revision"], commit.as_str(), "{request}");
            }
        }
        let calls = lab.fleet.rebuild().calls(&host("ns1"));
        assert!(calls.iter().all(|call| !call.contains(&evil)) && calls.last().unwrap().contains(&commit), "{calls:?}");
        assert!(lab.fleet.rebuild().calls(&host("db")).is_empty());
    }
}

const BOTH_TIERS: &str = "[[wave]]\ntargets = 'test.test1'\n[[wave]]\ntargets = ['prod.ns1', 'prod.ns2']\n";
const PROD: &str = "[[wave]]\ntargets = ['prod.ns1', 'prod.ns2']\n";
const ALL_THREE: &[(&str, &str)] = &[("test1", "completed"), ("ns1", "completed"), ("ns2", "failed")];

#[tokio::test]
async fn of_a_test_host() {
    withstand(|lab| lab.key(&host("mole")).unwrap(), &["deploy.responses.test.mole."], BOTH_TIERS, ALL_THREE).await;
}

#[tokio::test]
async fn of_a_prod_host() {
    withstand(|lab| lab.key(&host("spy")).unwrap(), &["deploy.responses.prod.spy."], BOTH_TIERS, ALL_THREE).await;
}

/// What it does to test hosts is what it is for, so the rollout is one to prod hosts.
#[tokio::test]
async fn of_a_test_deployer() {
    let prefixes = &[
        "deploy.test.test1",
        "deploy.test.all",
        "deploy.test.",
        "deploy.discover",
        "deploy.discover.test",
        "deploy.operators.test.",
    ];
    withstand(|lab| &lab.test_deployer, prefixes, PROD, &[("ns1", "completed"), ("ns2", "failed")]).await;
}
