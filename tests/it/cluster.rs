//! Tests a cluster of three servers with a leaf node behind it, in which one server dies in the middle of a wave.

use std::fs;

use serde_json::Value;

use crate::apply::stage::{self, expect_recap, open, order, ran_sorted, story, until};
use crate::host;
use crate::operator::Running;
use crate::support::lab::Lab;
use crate::support::rebuild::GATE;
use crate::support::server::Server;
use crate::support::wait;

/// The last host can reach the leaf node only.
const HOSTS: [&str; 5] = ["test.test1", "test.test2", "prod.ns1", "prod.ns2", "prod.far"];

/// A plan with the host of the leaf node in the first wave, beside others.
const PLAN: &str = r#"
    revision = "main"
    [[wave]]
    targets = ["test.test1", "test.test2", "prod.far"]
    [[wave]]
    targets = ["prod.ns1", "prod.ns2"]
"#;

/// The credentials by which a server connects as a leaf node.
const LEAVES: &str = "authorization { user: leaf, password: leaf }";

/// The servers, except the first one, which is that of the lab. Each knows the same keys.
// Fields are dropped in this order: listeners before servers.
struct Cluster {
    lab: Lab,
    second: Server,
    third: Server,
    leaf: Server,
}

impl Cluster {
    /// Starts the lab. One host listens at the leaf node, and each other host at a server of its own, which tells it
    /// the others. The leaf node is connected to the second server, and knows the third.
    async fn start() -> Self {
        let mut lab = Lab::start(super::program(), &HOSTS).await.unwrap();
        let users = fs::read_to_string(lab.folder().join("server/server.conf")).unwrap();
        let member = |routes: &[&str]| {
            format!(
                "cluster {{ name: c, listen: \"127.0.0.1:-1\", routes: {routes:?} }}\n\
                 leafnodes {{ listen: \"127.0.0.1:-1\", {LEAVES}, no_advertise: true }}\n{users}"
            )
        };
        let start = async |name: &str, configuration: &str| {
            Server::start_with(&lab.folder().join(name), configuration).await.unwrap()
        };
        let first = start("first", &member(&[])).await;
        let second = start("second", &member(&[first.cluster_url().unwrap()])).await;
        let third = start("third", &member(&[first.cluster_url().unwrap()])).await;
        let remotes = [&second, &third].map(|server| format!("nats-leaf://leaf:leaf@{}", takes_leaves_at(server)));
        let leaf =
            format!("leafnodes {{ reconnect: 1, remotes: [{{ no_randomize: true, urls: {remotes:?} }}] }}\n{users}");
        let leaf = start("leaf", &leaf).await;

        let urls = [&first, &second, &third].map(|server| server.url().to_owned());
        for (index, name) in ["test1", "test2", "ns1", "ns2"].into_iter().enumerate() {
            let mut urls = urls.clone();
            urls.rotate_left(index % 3);
            lab.fleet.reach(&host(name), &urls.join(","));
        }
        lab.fleet.reach(&host("far"), leaf.url());
        lab.server = first;
        lab.listen_all().await.unwrap();
        order(&lab, &["test1", "test2", "far"], GATE);
        Self { lab, second, third, leaf }
    }

    /// Applies the plan on a machine that reaches these servers.
    fn apply(&self, urls: &[&str]) -> Running {
        let mut command = stage::command(&self.lab, "apply", PLAN);
        command.arg("--yes").env("HOMELAB_DEPLOY_NATS_URL", urls.join(","));
        stage::start(command)
    }

    /// Waits until each host of the first wave runs.
    async fn under_way(&self) {
        for name in ["test1", "test2", "far"] {
            until(&self.lab, &format!("{name} start")).await;
        }
    }

    /// Stops the second server. The leaf node connects to the third one soon after.
    async fn lose_second(&mut self) {
        self.second.stop();
        let leaf = self.leaf.process().unwrap();
        let again = async || Ok((leaf.output().matches("Leafnode connection created").count() == 2).then_some(()));
        wait::until("the leaf node is connected again", again).await.unwrap();
    }

    /// Opens the gates of the first wave, and waits for the end of the rollout.
    async fn finish(&self, rollout: Running) {
        for name in ["test1", "test2", "far"] {
            open(&self.lab, name);
        }
        expect_recap(&rollout.ended().await.unwrap().expect(0), "5 hosts completed in 2 waves");
        assert_eq!(ran_sorted(&self.lab), ["far", "ns1", "ns2", "test1", "test2"], "each ran once");
        let story = story(&self.lab);
        let first_end = story.iter().position(|event| event.starts_with("ns")).unwrap();
        assert_eq!(story[..first_end].iter().filter(|event| event.ends_with("end 0")).count(), 3, "{story:?}");
    }
}

/// Returns the address for leaf nodes, which only the log contains.
fn takes_leaves_at(server: &Server) -> String {
    let log = server.process().unwrap().output();
    let (_, address) = log.split_once("Listening for leafnode connections on ").unwrap();
    address.lines().next().unwrap().to_owned()
}

#[tokio::test]
async fn the_server_of_the_operator_dies_in_a_wave() {
    let mut cluster = Cluster::start().await;
    // The second server is also that of test2, and the one that connects the leaf node.
    let urls = [cluster.second.url(), cluster.lab.server.url(), cluster.third.url()];
    let mut rollout = cluster.apply(&urls);
    cluster.under_way().await;
    cluster.lose_second().await;
    rollout.tells("reconnected").await.unwrap();
    cluster.finish(rollout).await;
}

#[tokio::test]
async fn the_server_behind_the_leaf_node_of_the_operator_dies_in_a_wave() {
    let mut cluster = Cluster::start().await;
    let rollout = cluster.apply(&[cluster.leaf.url()]);
    cluster.under_way().await;
    cluster.lose_second().await;
    cluster.finish(rollout).await;
}

#[tokio::test]
async fn the_first_server_of_the_list_is_dead_from_the_beginning() {
    let mut cluster = Cluster::start().await;
    let urls = [cluster.third.url(), cluster.lab.server.url(), cluster.second.url()].map(str::to_owned);
    cluster.third.stop();
    // The listener that was connected to it answers again.
    let mut hosts = cluster.lab.operator(&cluster.lab.admin).unwrap();
    hosts.args(["hosts", "--json"]).env("HOMELAB_DEPLOY_NATS_URL", urls.join(","));
    let all = async || {
        let ended = Running::start(&mut hosts)?.ended().await?.expect(0);
        let listed: Vec<Value> = serde_json::from_str(&ended.stdout).unwrap();
        Ok((listed.len() == HOSTS.len()).then_some(()))
    };
    wait::until("every host is there", all).await.unwrap();
    let rollout = cluster.apply(&urls.each_ref().map(String::as_str));
    cluster.under_way().await;
    cluster.finish(rollout).await;
}
