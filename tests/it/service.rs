//! Tests the listener as a service: its messages to systemd and the journal, and the metrics for Prometheus.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use homelab_deploy::nats_config::ListenerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixDatagram};

use crate::deployer::Deployer;
use crate::host;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;
use crate::support::rebuild::{FAIL, GATE};
use crate::support::wait;

const NS1: &str = "deploy.prod.ns1";

/// Returns a lab with the single host `ns1`, which does not listen yet.
async fn lab() -> Lab {
    Lab::start_with(super::program(), &["prod.ns1.dns"], Permissions::Compatible).await.unwrap()
}

/// Starts the listener of `ns1` without waiting.
fn start(lab: &mut Lab, arguments: &[&str]) {
    let (name, key) = ("prod.ns1.dns".parse::<ListenerName>().unwrap(), lab.key(&host("ns1")).unwrap().clone());
    lab.fleet.start(&name, &key, arguments).unwrap();
}

/// Returns everything that the listener has logged.
fn log(lab: &mut Lab) -> String {
    lab.fleet.listener(&host("ns1")).unwrap().output()
}

/// The test's end of systemd's notification socket.
struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Systemd {
    fn in_folder_of(lab: &Lab) -> Self {
        let path = lab.folder().join("notify");
        Self { socket: UnixDatagram::bind(&path).unwrap(), path }
    }

    /// Returns the flags that systemd passes as variables, with a watchdog of a fifth of a second.
    fn flags(&self) -> [&str; 4] {
        ["--notify-socket", self.path.to_str().unwrap(), "--watchdog-usec", "200000"]
    }

    async fn hear(&self) -> String {
        let mut message = [0; 512];
        let length =
            wait::event("systemd hears of the service", self.socket.recv(&mut message)).await.unwrap().unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// Returns the next message that is no watchdog ping.
    async fn hear_news(&self) -> String {
        loop {
            let news = self.hear().await;
            if news != "WATCHDOG=1" {
                return news;
            }
        }
    }

    /// Waits for a number of watchdog pings, with nothing in between.
    async fn hear_beats(&self, beats: usize) {
        for _ in 0..beats {
            assert_eq!(self.hear().await, "WATCHDOG=1");
        }
    }
}

#[tokio::test]
async fn systemd_hears_that_it_is_up_what_it_does_and_that_it_lives() {
    let mut lab = lab().await;
    let systemd = Systemd::in_folder_of(&lab);
    lab.fleet.rebuild().on(&host("ns1"), GATE).unwrap();
    lab.listen(&host("ns1"), &systemd.flags()).await.unwrap();
    assert_eq!(systemd.hear_news().await, "STATUS=waiting for requests");
    assert_eq!(systemd.hear_news().await, "READY=1");
    systemd.hear_beats(3).await;

    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    assert_eq!(systemd.hear_news().await, "STATUS=switch of main");
    lab.fleet.rebuild().open(&host("ns1")).unwrap();
    deployer.hear_final().await.unwrap();
    assert_eq!(systemd.hear_news().await, "STATUS=waiting for requests");

    lab.server.stop();
    assert_eq!(systemd.hear_news().await, "STATUS=waiting for requests; not connected to NATS, trying again");
    systemd.hear_beats(3).await;
    lab.fleet.listener(&host("ns1")).unwrap().terminate().unwrap();
    assert_eq!(systemd.hear_news().await, "STOPPING=1");
}

#[tokio::test]
async fn neither_a_boot_nor_a_switch_waits_for_the_server() {
    let mut lab = lab().await;
    let systemd = Systemd::in_folder_of(&lab);
    lab.server.stop();
    start(&mut lab, &systemd.flags());
    systemd.hear_beats(3).await;
    assert_eq!(systemd.hear_news().await, "STATUS=no NATS server can be reached, trying again");
    assert_eq!(systemd.hear_news().await, "READY=1");
    lab.server.restart().await.unwrap();
    assert_eq!(systemd.hear_news().await, "STATUS=waiting for requests");
    systemd.hear_beats(3).await;
}

#[tokio::test]
async fn the_journal_gets_levels_and_no_times() {
    let mut lab = lab().await;
    let folder = lab.folder().join("hosts/ns1");
    fs::create_dir_all(&folder).unwrap();
    let journal = File::create(folder.join("log")).unwrap().metadata().unwrap();
    lab.listen(&host("ns1"), &["--journal-stream", &format!("{}:{}", journal.dev(), journal.ino())]).await.unwrap();
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    deployer.hear_final().await.unwrap();
    deployer.say_bytes(NS1, b"nonsense".to_vec()).await.unwrap();
    let warned = async || Ok(log(&mut lab).contains("<4>dropped a message on deploy.prod.ns1").then_some(()));
    wait::until("the message is dropped", warned).await.unwrap();

    let log = log(&mut lab);
    assert!(log.contains("<6>listening on deploy.prod.ns1, "), "{log}");
    assert!(log.contains("\n<6>accepted key=\"r-1\" action=switch revision=main"), "{log}");
    assert!(log.lines().all(|line| line.starts_with("<6>") || line.starts_with("<4>")), "{log}");

    // The variable is inherited, but stderr goes elsewhere.
    lab.listen(&host("ns1"), &["--journal-stream", "1:1"]).await.unwrap();
    assert!(self::log(&mut lab).lines().last().unwrap().starts_with("20"), "{}", self::log(&mut lab));
}

/// Returns the address of the metrics that was logged last.
async fn metrics_address(lab: &mut Lab) -> String {
    wait::until("the metrics have an address", async || {
        let log = log(lab);
        let last = log.rsplit_once("metrics on http://").and_then(|(_, rest)| rest.split_once("/metrics\n"));
        Ok(last.map(|(address, _)| address.to_owned()))
    })
    .await
    .unwrap()
}

/// Returns the samples of the metrics.
async fn scrape(address: &str) -> BTreeMap<String, f64> {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /metrics HTTP/1.1\r\nHost: ns1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    wait::event("the metrics are there", client.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[tokio::test]
async fn metrics_tell_of_runs_the_connection_and_what_was_before_a_restart() {
    const COMPLETED: &str = r#"homelab_deploy_runs_total{status="completed",error=""}"#;
    const FAILED: &str = r#"homelab_deploy_runs_total{status="failed",error="build_failed"}"#;
    let flags = ["--metrics-listen", "127.0.0.1:0"];
    let mut lab = lab().await;
    lab.listen(&host("ns1"), &flags).await.unwrap();
    let mut deployer = Deployer::connect(&lab).await.unwrap();
    let address = metrics_address(&mut lab).await;
    let before = scrape(&address).await;
    assert_eq!((before["homelab_deploy_connected"], before[COMPLETED], before[FAILED]), (1.0, 0.0, 0.0));
    assert!(!before.contains_key("homelab_deploy_last_run_success"), "{before:?}");

    deployer.say(NS1, &deployer.request("r-1")).await.unwrap();
    deployer.hear_final().await.unwrap();
    lab.fleet.rebuild().on(&host("ns1"), FAIL).unwrap();
    deployer.say(NS1, &deployer.request("r-2")).await.unwrap();
    deployer.hear_final().await.unwrap();
    let counted = async || {
        let now = scrape(&address).await;
        Ok((now[FAILED] > 0.0).then_some(now))
    };
    let after = wait::until("the run is counted", counted).await.unwrap();
    assert_eq!((after[COMPLETED], after[FAILED], after["homelab_deploy_last_run_success"]), (1.0, 1.0, 0.0));
    assert!(after["homelab_deploy_last_run_timestamp_seconds"] > 1.7e9, "{after:?}");

    // Counters are lost with the process, and the result of the last run is not, with or without the server.
    lab.server.stop();
    let lost = async || Ok((scrape(&address).await["homelab_deploy_connected"] == 0.0).then_some(()));
    wait::until("the connection is lost", lost).await.unwrap();
    fs::remove_file(lab.folder().join("hosts/ns1/log")).unwrap();
    start(&mut lab, &flags);
    let again = scrape(&metrics_address(&mut lab).await).await;
    assert_eq!((again["homelab_deploy_connected"], again[FAILED]), (0.0, 0.0));
    for lasting in
        ["timestamp_seconds", "duration_seconds", "success"].map(|name| format!("homelab_deploy_last_run_{name}"))
    {
        assert_eq!(again[&lasting].to_string(), after[&lasting].to_string(), "{lasting}");
    }
}

#[test]
fn the_sample_alerts_ask_for_metrics_that_there_are() {
    let rules = include_str!("../../examples/alerts.yaml");
    let metrics = include_str!("../../src/listener/service/metrics.rs");
    let asked = rules
        .split(|c: char| !c.is_ascii_lowercase() && c != '_')
        .filter_map(|word| word.strip_prefix("homelab_deploy_"));
    for name in asked {
        assert!(metrics.contains(&format!("\"{name}\"")), "there is no metric {name}");
    }
}

#[tokio::test]
async fn an_address_for_metrics_that_is_taken_is_an_error_with_help() {
    let mut lab = lab().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    start(&mut lab, &["--metrics-listen", &taken.local_addr().unwrap().to_string()]);
    let listener = lab.fleet.listener(&host("ns1")).unwrap();
    let status = wait::until("the listener gives up", async || listener.status()).await.unwrap();
    assert_eq!(status.code(), Some(3), "{}", listener.output());
    assert!(listener.output().contains("cannot bind the metrics address"), "{}", listener.output());
    assert!(listener.output().contains("127.0.0.1:9811"), "{}", listener.output());
}
