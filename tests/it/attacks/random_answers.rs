//! Tests random messages with a key, on any subject that it may publish to: no host of another name or tier changes its
//! state, is sent a request, or has its commit chosen.
//!
//! The messages are made of the parts of real responses, and of every id sent so far, which is more than an attacker
//! can know.

use std::collections::BTreeMap;

use async_nats::Message;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use super::{Attacker, lab};
use crate::apply::stage;
use crate::apply::wiretap::Wiretap;
use crate::deployer::subscribe;
use crate::host;
use crate::support::keys::Key;
use crate::support::lab::Lab;
use crate::support::rebuild::FAIL;

const HOSTS: [&str; 6] = ["test.test1", "test.mole", "prod.spy", "prod.ns1", "prod.ns2", "prod.db"];

/// The number of rollouts for each key.
const ROUNDS: u64 = 4;

/// Random numbers that are the same in every run.
struct Dice(u64);

/// The ids sent so far, which a forged response could refer to.
struct Heard {
    /// Tokens of subjects that are ids.
    tokens: Vec<String>,
    /// The last two tokens of reply subjects, which name a rollout and a request, with the id of that request.
    requests: Vec<(String, String)>,
}

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        // Xorshift. The bound is small, so that the remainder is even enough.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Returns a random message on a subject below one of these prefixes, or on the prefix if it does not end in a dot.
    fn message(&mut self, prefixes: &[&str], heard: &Heard, evil: &str) -> (String, Value) {
        let (request, id) = match heard.requests.as_slice() {
            [] => ("x.y".to_owned(), "y".to_owned()),
            requests => self.pick(requests).clone(),
        };
        let prefix = *self.pick(prefixes);
        let subject = match (prefix.strip_suffix('.'), self.coin()) {
            (None, _) => prefix.to_owned(),
            (Some(prefix), true) => format!("{prefix}.{request}"),
            (Some(prefix), false) => {
                let tokens = (0..=self.below(3)).map(|_| format!(".{}", self.pick(&heard.tokens)));
                format!("{prefix}{}", tokens.collect::<String>())
            }
        };
        let id = if self.coin() { id } else { self.pick(&heard.tokens).clone() };
        (subject, self.payload(&id, heard, evil))
    }

    fn payload(&mut self, id: &str, heard: &Heard, evil: &str) -> Value {
        let name = *self.pick(&["test1", "mole", "spy", "ns1", "ns2", "db", "ghost"]);
        let tier = *self.pick(&["test", "prod"]);
        match self.below(8) {
            0..4 => self.response(name, id, evil),
            4 => json!({
                "hostname": name, "tier": tier, "deploy_subjects": [format!("deploy.prod.{name}"), "deploy.prod.db"],
                "features": ["id", "expires", "rollback", "log", "resolve"], "revision": evil,
                "flake": "git+http://127.0.0.1:1/x", "machine": self.pick(&heard.tokens),
                "last": { "id": id, "status": "completed", "at": "2026-11-23T10:00:00Z" },
            }),
            5 => json!({ "rollout": {
                "id": id, "name": "x", "operator": "x", "tiers": [tier], "wave": 1, "waves": 1,
                "since": "2026-11-23T10:00:00Z",
            } }),
            6 => json!({ "stream": "deploy", "seq": self.below(100) }),
            _ => json!({
                "action": "switch", "revision": evil, "id": id, "confirmed": self.coin(),
                "reply_to": format!("deploy.responses.{}", self.pick(&heard.tokens)),
            }),
        }
    }

    fn response(&mut self, name: &str, id: &str, evil: &str) -> Value {
        let status = self.pick(&["accepted", "rejected", "started", "completed", "completed", "failed"]);
        let mut said = json!({ "hostname": name, "status": status, "message": "so it is", "revision": evil });
        for (field, value) in [
            ("id", json!(id)),
            ("instance", json!("11111111-1111-4111-8111-111111111111")),
            ("error", json!(self.pick(&["build_failed", "already_running", "moon_phase"]))),
            ("phase", json!(self.pick(&["build", "confirm", "return"]))),
            ("rolled_back", json!(self.coin())),
        ] {
            if self.coin() {
                said[field] = value;
            }
        }
        said
    }
}

impl Heard {
    fn nothing() -> Self {
        let tokens = ["ns1", "ns2", "db", "test1", "mole", "probe"].map(str::to_owned).into();
        Self { tokens, requests: Vec::new() }
    }

    fn hear(&mut self, message: &Message) {
        for token in message.subject.split('.').filter(|token| token.len() > 8) {
            if !self.tokens.iter().any(|known| known == token) {
                self.tokens.push(token.to_owned());
            }
        }
        let said: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        if let (Some(reply_to), Some(id)) = (said["reply_to"].as_str(), said["id"].as_str()) {
            let tokens: Vec<&str> = reply_to.rsplitn(3, '.').collect();
            if let [request, rollout, ..] = tokens.as_slice() {
                let request = (format!("{rollout}.{request}"), id.to_owned());
                // The attacker's own messages arrive as well.
                if !self.requests.contains(&request) && self.requests.len() < 16 {
                    self.requests.push(request);
                }
            }
        }
    }
}

/// Publishes random messages with this key until the result is dropped.
async fn babble(lab: &Lab, key: &Key, prefixes: &'static [&'static str], evil: String, seed: u64) -> JoinSet<()> {
    let witness = lab.server.connect(&lab.admin).await.unwrap();
    let mut messages = subscribe(&witness, "deploy.>").await.unwrap();
    let attacker = Attacker::connect(lab, key).await;
    let mut task = JoinSet::new();
    task.spawn(async move {
        let _witness = witness;
        let (mut dice, mut heard) = (Dice(seed), Heard::nothing());
        loop {
            tokio::select! {
                biased;
                Some(message) = messages.next() => heard.hear(&message),
                () = sleep(Duration::from_millis(1)) => {
                    for _ in 0..4 {
                        let (subject, said) = dice.message(prefixes, &heard, &evil);
                        attacker.say(&subject, &said).await;
                    }
                }
            }
        }
    });
    task
}

/// Returns how each host of a rollout ended, by its JSON events.
fn outcomes(json: &str) -> BTreeMap<String, String> {
    let events = json.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let finals = events.filter(|event| event["event"] == "final");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    finals.map(|event| (text(&event["host"]), text(&event["outcome"]))).collect()
}

/// Rolls out several times to all hosts but the attacker's, which sends random messages meanwhile.
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

/// A test deployer may deploy to test hosts, so the rollout is for prod hosts.
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
