//! Tests an operator whose messages take 0.4 s to the server, and the responses 0.4 s back.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::apply::stage::{self, expect_recap, open, order, ran_sorted, until};
use crate::generations::{self, NEW};
use crate::host;
use crate::operator::Ended;
use crate::support::lab::Lab;
use crate::support::proxy::Proxy;
use crate::support::rebuild::GATE;

/// The delay in each direction.
const DELAY: Duration = Duration::from_millis(400);

const HOSTS: [&str; 3] = ["test.test1", "prod.ns1.dns", "prod.ns2.dns"];

const PLAN: &str = r#"
    revision = "main"
    [[wave]]
    targets = "test.all"
    [[wave]]
    targets      = "prod.all"
    max_parallel = 1
"#;

/// A lab whose hosts are near the server and whose operator is far away.
struct Far {
    lab: Lab,
    link: Proxy,
}

impl Far {
    async fn start() -> Self {
        let mut lab = Lab::start(super::program(), &HOSTS).await.unwrap();
        for name in ["test1", "ns1", "ns2"] {
            generations::install(&lab, name);
        }
        lab.listen_all().await.unwrap();
        let link = Proxy::start(lab.server.url(), DELAY).await.unwrap();
        Self { lab, link }
    }

    fn through(&self, command: &mut Command) {
        command.env("HOMELAB_DEPLOY_NATS_URL", self.link.url());
    }

    /// Returns a command that applies a plan as this operator.
    fn apply(&self, name: &str, plan: &str) -> Command {
        let mut command = stage::command(&self.lab, "apply", plan);
        self.through(command.args(["--yes", "--operator", name]));
        command
    }

    async fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = self.lab.operator(&self.lab.admin).unwrap();
        self.through(command.args(arguments));
        stage::start(command).ended().await.unwrap()
    }
}

#[tokio::test]
async fn a_rollout_works() {
    let far = Far::start().await;
    let ended = stage::start(far.apply("anna", PLAN)).ended().await.unwrap().expect(0);
    expect_recap(&ended, "3 hosts completed in 2 waves");
    assert_eq!(ran_sorted(&far.lab), ["ns1", "ns2", "test1"]);
}

#[tokio::test]
async fn a_deployment_is_confirmed_in_time() {
    let mut far = Far::start().await;
    // A host that is as far away has to receive the confirmation in half of the time.
    let link = Proxy::start(far.lab.server.url(), DELAY).await.unwrap();
    far.lab.fleet.reach(&host("ns1"), &link.url());
    far.lab.listen(&host("ns1"), &[]).await.unwrap();
    let arguments = ["deploy", "prod.role.dns", "--branch", "main", "--auto-rollback", "--confirm-timeout", "10s"];
    far.run(&arguments).await.expect(0).told("2 completed");
    assert_eq!(["ns1", "ns2"].map(|name| generations::runs(&far.lab, name)), [NEW; 2]);
}

#[tokio::test]
async fn every_host_is_listed_time_and_again() {
    let far = Far::start().await;
    // What the first roll call learned must not shorten the second one below the time of an answer.
    for _ in 0..2 {
        let listed: Vec<Value> = serde_json::from_str(&far.run(&["hosts", "--json"]).await.expect(0).stdout).unwrap();
        let mut names: Vec<&str> = listed.iter().map(|host| host["hostname"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["ns1", "ns2", "test1"]);
    }
}

#[tokio::test]
async fn another_operator_who_is_as_far_away_is_seen() {
    let far = Far::start().await;
    // The operator knows the fleet from now on, and the hosts answer long before the other operator does.
    far.run(&["hosts"]).await.expect(0);
    order(&far.lab, &["ns1"], GATE);
    let first = stage::start(far.apply("anna", "revision = 'main'\n[[wave]]\ntargets = 'prod.ns1'\n"));
    until(&far.lab, "ns1 start").await;
    let second = far.apply("bert", "revision = 'main'\n[[wave]]\ntargets = 'prod.ns2'\n");
    stage::start(second).ended().await.unwrap().expect(3).told("anna is rolling out");
    open(&far.lab, "ns1");
    first.ended().await.unwrap().expect(0);
    assert_eq!(ran_sorted(&far.lab), ["ns1"]);
}
