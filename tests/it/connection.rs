//! Tests slow, stalled and dead networks, servers that are down, and keys that change.

use std::fs;
use std::time::Duration;

use nkeys::KeyPair;
use tokio::time::sleep;

use crate::apply::stage::{self, open, order, ran_sorted, until};
use crate::deployer::{Deployer, is_final};
use crate::generations::{self, SWITCH};
use crate::host;
use crate::operator::{Ended, Running};
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;
use crate::support::proxy::{Passes, Proxy};
use crate::support::rebuild::GATE;
use crate::support::wait;

/// An address at which nothing listens.
const DEAD: &str = "nats://127.0.0.1:1";

const NONE: Duration = Duration::ZERO;

/// Starts a proxy to the lab's server.
async fn proxy(lab: &Lab, delay: Duration) -> Proxy {
    Proxy::start(lab.server.url(), delay).await.unwrap()
}

/// Runs the program as the admin with these server addresses.
async fn run(lab: &Lab, servers: &[&str], arguments: &[&str]) -> Ended {
    let mut command = lab.operator(&lab.admin).unwrap();
    command.env("HOMELAB_DEPLOY_NATS_URL", servers.join(",")).args(arguments);
    Running::start(&mut command).unwrap().ended().await.unwrap()
}

#[tokio::test]
async fn a_server_that_swallows_packets_costs_a_moment() {
    let lab = stage::lab(&["prod.ns1"]).await;
    let silent = [proxy(&lab, NONE).await, proxy(&lab, NONE).await];
    for proxy in &silent {
        proxy.let_pass(Passes::ToServer);
    }
    let servers = [&silent[0].url(), DEAD, &silent[1].url(), lab.server.url()];
    let ended = run(&lab, &servers, &["hosts", "--discover-window", "100ms"]).await.expect(0);
    // The timeout for a single server is five seconds.
    assert!(ended.took < Duration::from_secs(3), "{:?}", ended.took);

    let ended = run(&lab, &[&silent[0].url(), DEAD], &["hosts"]).await.expect(3);
    ended.told("(something accepts connections there").told("127.0.0.1:1");
}

#[tokio::test]
async fn three_servers_are_reached_through_a_slow_network() {
    let lab = stage::lab(&["prod.ns1"]).await;
    let delay = Duration::from_millis(800);
    let ways = [proxy(&lab, delay).await, proxy(&lab, delay).await, proxy(&lab, delay).await];
    let urls = ways.each_ref().map(Proxy::url);
    run(&lab, &urls.each_ref().map(String::as_str), &["deploy", "prod.ns1"]).await.expect(0);
    assert_eq!(ran_sorted(&lab), ["ns1"]);
}

#[tokio::test]
async fn a_short_patience_is_with_the_hosts_and_not_with_the_network() {
    let lab = stage::lab(&["test.test1", "test.test2"]).await;
    let way = proxy(&lab, NONE).await;
    let plan = "revision = 'main'\n[defaults]\naccept_timeout = '1s'\n\
                [[wave]]\ntargets = ['test.test1']\nbake_time = '2s'\n[[wave]]\ntargets = ['test.test2']";
    let mut command = stage::command(&lab, "apply", plan);
    command.arg("--yes").env("HOMELAB_DEPLOY_NATS_URL", way.url());
    let mut rollout = stage::start(command);
    rollout.tells("baking").await.unwrap();
    way.let_pass(Passes::ToServer);
    until(&lab, "test2 end 0").await;
    // The host's message is delayed for longer than the operator waits.
    sleep(Duration::from_secs(2)).await;
    way.let_pass(Passes::Both);
    rollout.ended().await.unwrap().expect(0).told("2 completed");
}

/// Stalls the operator's network in the middle of a rollout, except for what `stalled` lets pass.
async fn rollout_over(stalled: Passes) {
    let lab = stage::lab(&["test.test1", "test.test2", "test.test3"]).await;
    order(&lab, &["test1", "test2"], GATE);
    let way = proxy(&lab, NONE).await;
    let plan = "revision = 'main'\n[[wave]]\ntargets = ['test.test1', 'test.test2', 'test.test3']\nmax_parallel = 2";
    let mut command = stage::command(&lab, "apply", plan);
    command.arg("--yes").env("HOMELAB_DEPLOY_NATS_URL", way.url());
    let mut rollout = stage::start(command);
    until(&lab, "test1 start").await;
    until(&lab, "test2 start").await;
    way.let_pass(stalled);
    // If the operator receives the result, it sends the third request, which is lost.
    open(&lab, "test1");
    rollout.tells("connection lost").await.unwrap();
    way.let_pass(Passes::Both);
    rollout.tells("reconnected").await.unwrap();
    open(&lab, "test2");
    rollout.ended().await.unwrap().expect(0).not_told("unreachable");
    assert_eq!(ran_sorted(&lab), ["test1", "test2", "test3"]);
}

#[tokio::test]
async fn a_network_that_stands_still_is_an_outage() {
    rollout_over(Passes::Nothing).await;
}

#[tokio::test]
async fn requests_that_go_nowhere_are_no_silence_of_hosts() {
    rollout_over(Passes::ToClient).await;
}

#[tokio::test]
async fn answers_that_come_from_nowhere_are_no_silence_of_hosts() {
    rollout_over(Passes::ToServer).await;
}

#[tokio::test]
async fn the_twelfth_confirmation_is_as_quick_as_the_first_though_a_server_is_down() {
    let mut lab = Lab::start_with(super::program(), &["prod.ns1"], Permissions::Compatible).await.unwrap();
    generations::install(&lab, "ns1");
    lab.listen(&host("ns1"), &["--nats-url", DEAD]).await.unwrap();
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    let back = SWITCH.replace("new", "old").replace("42", "41");
    for (number, script) in [SWITCH, &back].into_iter().cycle().take(12).enumerate() {
        lab.fleet.rebuild().on(&host("ns1"), script).unwrap();
        let mut request = deployer.request(&format!("r-{number}"));
        request["confirm_timeout_s"] = 5.into();
        deployer.say("deploy.prod.ns1", &request).await.unwrap();
        // The result of the last run may be sent once more.
        let heard = async |deployer: &mut Deployer| loop {
            let answer = deployer.hear().await.unwrap();
            if answer["id"] == request["id"] && (answer["phase"] == "confirm" || is_final(&answer)) {
                return answer;
            }
        };
        let waits = heard(&mut deployer).await;
        assert_eq!(waits["status"], "started", "{number}: {waits}");
        let mut confirmation = request.clone();
        confirmation["confirmed"] = true.into();
        let mut end = waits;
        while !is_final(&end) {
            // A deployer confirms as often as the host asks.
            deployer.say("deploy.prod.ns1", &confirmation).await.unwrap();
            end = heard(&mut deployer).await;
        }
        assert_eq!(end["status"], "completed", "{number}: {end}");
    }
}

#[tokio::test]
async fn a_key_that_was_changed_is_taken_up_with_the_next_connection() {
    let mut lab = stage::lab(&["prod.ns1"]).await;
    let seed_file = lab.key(&host("ns1")).unwrap().seed_file().to_owned();
    let old = KeyPair::from_seed(fs::read_to_string(&seed_file).unwrap().trim()).unwrap();
    let new = KeyPair::new_user();
    let configuration = lab.folder().join("server/server.conf");
    let text = fs::read_to_string(&configuration).unwrap().replace(&old.public_key(), &new.public_key());
    fs::write(&configuration, text).unwrap();
    fs::write(&seed_file, new.seed().unwrap()).unwrap();
    lab.server.restart().await.unwrap();
    let listener = lab.fleet.listener(&host("ns1")).unwrap();
    let again = async || Ok(listener.output().contains("connected again").then_some(()));
    wait::until("the listener connects again", again).await.unwrap();
    run(&lab, &[lab.server.url()], &["deploy", "prod.ns1"]).await.expect(0);
}
