use std::net::SocketAddr;

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::*;
use crate::listener::nixos::{Profile, System};
use crate::listener::run::tests::spec;

/// A running exporter for an empty host, with the loop's end of the channel.
struct Scene {
    address: SocketAddr,
    _metrics: watch::Sender<Metrics>,
    _root: TempDir,
    _serving: JoinSet<()>,
}

impl Scene {
    async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (metrics, watched) = watch::channel(Metrics::of(&nothing()));
        let host = Host::new(root.path().to_owned());
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(serve(socket, watched, host));
        Self { address, _metrics: metrics, _root: root, _serving: serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these bytes, and returns all that comes back.
    async fn answer_to(&self, request: &[u8]) -> String {
        let mut client = self.connect().await;
        // The exporter may refuse it before it has read all.
        client.write_all(request).await.ok();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn status_of(&self, request: &[u8]) -> String {
        self.answer_to(request).await.lines().next().unwrap_or_default().to_owned()
    }
}

/// The history of a listener that was asked for nothing.
fn nothing() -> RequestHistory {
    RequestHistory::new("ns1".parse().unwrap())
}

#[tokio::test]
async fn metrics_are_answered_with_their_type_and_length() {
    let scene = Scene::start().await;
    let answer = scene.answer_to(b"GET /metrics?x=y HTTP/1.1\r\nHost: ns1\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\nConnection: close", body.len())), "{head}");
    assert!(body.contains("\nhomelab_deploy_connected 0\n"), "{body}");
}

#[tokio::test]
async fn other_requests_are_told_where_the_metrics_are() {
    let scene = Scene::start().await;
    let endless = [b'x'; 10_000];
    let cases: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /metrics/x HTTP/1.1\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        b"\x00\r\n\r\n",
        b"GET\n\n",
        &endless,
    ];
    for request in cases {
        let answer = scene.answer_to(request).await;
        assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{}: {answer}", String::from_utf8_lossy(request));
        assert!(answer.ends_with("the metrics are at /metrics\n"), "{answer}");
    }
}

#[tokio::test]
async fn who_says_nothing_keeps_others_waiting_for_a_moment_and_no_longer() {
    let scene = Scene::start().await;
    let mut silent = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = scene.connect().await;
        client.write_all(b"GET /metr").await.unwrap();
        silent.push(client);
    }
    let answered = timeout(4 * PATIENCE, scene.status_of(b"GET /metrics HTTP/1.1\r\n\r\n")).await;
    assert_eq!(answered.unwrap(), "HTTP/1.1 200 OK");
}

#[test]
fn a_listener_that_has_done_nothing_shows_zeros_and_only_what_it_knows() {
    let page = Metrics::of(&nothing()).page(&SystemSnapshot::default());
    insta::assert_snapshot!(page, @r#"
    # HELP homelab_deploy_build_info The version of the listener.
    # TYPE homelab_deploy_build_info gauge
    homelab_deploy_build_info{version="0.1.0"} 1
    # HELP homelab_deploy_connected Whether the listener is connected to NATS.
    # TYPE homelab_deploy_connected gauge
    homelab_deploy_connected 0
    # HELP homelab_deploy_runs_total Runs that have ended since the listener was started.
    # TYPE homelab_deploy_runs_total counter
    homelab_deploy_runs_total{status="completed",error=""} 0
    homelab_deploy_runs_total{status="failed",error="invalid_revision"} 0
    homelab_deploy_runs_total{status="failed",error="already_running"} 0
    homelab_deploy_runs_total{status="failed",error="build_failed"} 0
    homelab_deploy_runs_total{status="failed",error="timeout"} 0
    homelab_deploy_runs_total{status="failed",error="activation_failed"} 0
    homelab_deploy_runs_total{status="failed",error="interrupted"} 0
    homelab_deploy_runs_total{status="failed",error="verify_failed"} 0
    homelab_deploy_runs_total{status="failed",error="not_confirmed"} 0
    homelab_deploy_runs_total{status="failed",error="wrong_host"} 0
    homelab_deploy_runs_total{status="failed",error="not_available"} 0
    homelab_deploy_runs_total{status="failed",error="untrusted"} 0
    "#);
}

/// A host that runs the system `old`, and boots this one next.
fn host_that_is_to_boot(next: &str) -> SystemSnapshot {
    let system = |path: &str| System { path: path.to_owned(), kernel: [None, None, None] };
    let (current, booted) = (Some(system("/nix/store/old")), Some(system("/nix/store/old")));
    let profile = Some(Profile { generation: None, system: system(next) });
    SystemSnapshot { current, booted, profile, ..SystemSnapshot::default() }
}

#[test]
fn runs_are_counted_by_how_they_ended_and_the_last_one_is_shown() {
    let mut metrics = Metrics { connected: true, ..Metrics::of(&nothing()) };
    let mut history = nothing();
    let odd = ErrorCode::Other("a\"b\\\nc".to_owned());
    let runs = [(Status::Completed, None), (Status::Failed, Some(ErrorCode::BuildFailed)), (Status::Failed, Some(odd))];
    for (status, error) in runs.into_iter().cycle().take(4) {
        let at = Some("2026-01-01T00:01:30.250Z".parse().unwrap());
        let revision = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b".parse().ok();
        let system = Some("/nix/store/old".to_owned());
        let response = Response { error, at, revision, system, ..Response::new("ns1".parse().unwrap(), status, "") };
        let spec = RunSpec { accepted_at: "2026-01-01T00:00:00Z".parse().unwrap(), ..spec("r-1") };
        history.ended(spec, response);
        metrics.count_last(&history);
    }
    let page = metrics.page(&host_that_is_to_boot("/nix/store/new"));
    let samples: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
    insta::assert_snapshot!(samples.join("\n"), @r#"
    homelab_deploy_build_info{version="0.1.0"} 1
    homelab_deploy_connected 1
    homelab_deploy_runs_total{status="completed",error=""} 2
    homelab_deploy_runs_total{status="failed",error="invalid_revision"} 0
    homelab_deploy_runs_total{status="failed",error="already_running"} 0
    homelab_deploy_runs_total{status="failed",error="build_failed"} 1
    homelab_deploy_runs_total{status="failed",error="timeout"} 0
    homelab_deploy_runs_total{status="failed",error="activation_failed"} 0
    homelab_deploy_runs_total{status="failed",error="interrupted"} 0
    homelab_deploy_runs_total{status="failed",error="verify_failed"} 0
    homelab_deploy_runs_total{status="failed",error="not_confirmed"} 0
    homelab_deploy_runs_total{status="failed",error="wrong_host"} 0
    homelab_deploy_runs_total{status="failed",error="not_available"} 0
    homelab_deploy_runs_total{status="failed",error="untrusted"} 0
    homelab_deploy_runs_total{status="failed",error="a\"b\\\nc"} 1
    homelab_deploy_last_run_timestamp_seconds 1767225690.25
    homelab_deploy_last_run_duration_seconds 90.25
    homelab_deploy_last_run_success 1
    homelab_deploy_running_revision_info{revision="8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b"} 1
    homelab_deploy_reboot_required 1
    "#);
}
