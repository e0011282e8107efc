//! Tests that TLS is never lost: neither by an address without it, nor because a server names another one.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::Command;

use async_nats::{Client, ConnectOptions, StatusCode};
use futures_util::StreamExt;
use futures_util::stream::select;
use homelab_deploy::nats_config::{ListenerName, Principal};
use miette::{IntoDiagnostic, Result, miette};
use serde_json::json;
use tempfile::TempDir;

use crate::host;
use crate::operator::{Ended, Running};
use crate::support::flake::Flake;
use crate::support::fleet::{self, Fleet};
use crate::support::keys::Key;
use crate::support::permissions::Permissions;
use crate::support::rebuild::GATE;
use crate::support::server::Server;
use crate::support::tls::Authority;
use crate::support::wait;

/// A cluster of a server with TLS and one without, which know the same keys: those of the host ns1 and of an admin.
// Fields are dropped in this order: the listener, the servers, and their files last.
struct Stage {
    fleet: Fleet,
    secure: Server,
    plain: Server,
    authority: Authority,
    ns1: (ListenerName, Key),
    admin: Key,
    flake: Flake,
    folder: TempDir,
}

impl Stage {
    /// Starts both servers. The one with TLS tells clients about the other one: its address, or `another`.
    async fn set(another: Option<&str>) -> Result<Self> {
        let folder = tempfile::tempdir().into_diagnostic()?;
        let path = folder.path();
        let name: ListenerName = "prod.ns1".parse().into_diagnostic()?;
        let (ns1, admin) = (Key::generate(path, "ns1")?, Key::generate(path, "admin")?);
        let users = [ns1.user(Principal::Listener(name.clone())), admin.user(Principal::Admin)];
        let users = Permissions::default().authorization(&users);

        let advertised = another.map(|address| format!("client_advertise: {address:?}\n")).unwrap_or_default();
        let cluster = |routes: &str| format!("cluster {{ name: c, listen: \"127.0.0.1:-1\", routes: [{routes}] }}\n");
        let configuration = [advertised, cluster(""), users.clone()].concat();
        let plain = Server::start_with(&path.join("plain"), &configuration).await?;
        let route = format!("{:?}", plain.cluster_url().ok_or_else(|| miette!("there is no cluster"))?);
        let authority = Authority::create(&path.join("tls"))?;
        let configuration = [authority.configuration(), cluster(&route), users].concat();
        let secure = Server::start_with(&path.join("secure"), &configuration).await?;

        let flake = Flake::create(&path.join("flake"))?;
        let url = format!("tls://{}", address(secure.url()));
        let fleet = Fleet::new(super::program(), &path.join("hosts"), &url, &flake.url())?;
        let stage = Self { fleet, secure, plain, authority, ns1: (name, ns1), admin, flake, folder };
        let named = another.unwrap_or(address(stage.plain.url()));
        wait::until("the server with TLS names the other one", async || {
            let client = stage.connect_securely().await?;
            Ok(client.server_info().connect_urls.iter().any(|url| url == named).then_some(()))
        })
        .await?;
        Ok(stage)
    }

    /// Returns the address of the server with TLS.
    fn url(&self) -> String {
        format!("tls://{}", address(self.secure.url()))
    }

    /// Starts the listener with the authority's certificate, and waits until it listens.
    async fn listen(&mut self) -> Result<()> {
        let ca = self.authority.certificate().display().to_string();
        self.fleet.start(&self.ns1.0, &self.ns1.1, &["--tls-ca", &ca])?;
        let client = self.connect_securely().await?;
        wait::until("the listener is connected", async || answers(&client).await.map(|answers| answers.then_some(())))
            .await
    }

    async fn connect_securely(&self) -> Result<Client> {
        let seed = std::fs::read_to_string(self.admin.seed_file()).into_diagnostic()?;
        let options = ConnectOptions::with_nkey(seed.trim().to_owned());
        let options = options.add_root_certificates(self.authority.certificate()).require_tls(true);
        options.connect(self.url()).await.into_diagnostic()
    }

    /// Returns the program with the admin's key and these addresses.
    fn operator(&self, urls: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = fleet::command(super::program(), self.folder.path(), &[])?;
        command.args(arguments).env("HOMELAB_DEPLOY_NATS_URL", urls);
        command.env("HOMELAB_DEPLOY_NKEY_FILE", self.admin.seed_file());
        Ok(command)
    }

    /// Runs the same with the authority's certificate.
    async fn run(&self, urls: &str, arguments: &[&str]) -> Result<Ended> {
        let mut command = self.operator(urls, arguments)?;
        command.env("HOMELAB_DEPLOY_TLS_CA", self.authority.certificate());
        Running::start(&mut command)?.ended().await
    }

    fn log(&mut self) -> Result<String> {
        self.fleet.listener(&host("ns1")).map(|listener| listener.output())
    }
}

/// Returns host and port of a URL.
fn address(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, address)| address)
}

/// Whether a listener answers a roll call on this connection. Without subscribers, the server says so at once.
async fn answers(client: &Client) -> Result<bool> {
    let call = uuid::Uuid::new_v4();
    let reply_to = format!("deploy.responses.{call}");
    let shared = client.subscribe(reply_to.clone()).await.into_diagnostic()?;
    let own = client.subscribe(format!("deploy.responses.*.*.{call}")).await.into_diagnostic()?;
    let question = json!({ "reply_to": reply_to, "per_host": true }).to_string();
    client.publish_with_reply("deploy.discover", reply_to, question.into()).await.into_diagnostic()?;
    let answer = wait::event("the roll call is answered", select(shared, own).next()).await?;
    let answer = answer.ok_or_else(|| miette!("the subscription has ended"))?;
    Ok(answer.status != Some(StatusCode::NO_RESPONDERS))
}

#[tokio::test]
async fn a_server_with_a_known_certificate_is_used_and_any_other_is_refused() {
    let mut stage = Stage::set(None).await.unwrap();
    stage.listen().await.unwrap();
    let hosts = stage.run(&stage.url(), &["hosts"]).await.unwrap().expect(0);
    assert!(hosts.stdout.contains("ns1"), "{}", hosts.stdout);

    let stranger = Authority::create(&stage.folder.path().join("stranger")).unwrap();
    let mut command = stage.operator(&stage.url(), &["hosts"]).unwrap();
    command.env("HOMELAB_DEPLOY_TLS_CA", stranger.certificate());
    let refused = Running::start(&mut command).unwrap().ended().await.unwrap();
    refused.expect(3).told("not signed by an authority that is trusted here").told("is another authority");
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_is_shown_one() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create(&folder.path().join("tls")).unwrap();
    let admin = Key::generate(folder.path(), "admin").unwrap();
    let users = Permissions::default().authorization(&[admin.user(Principal::Admin)]);
    let configuration = authority.configuration_with_clients() + &users;
    let server = Server::start_with(&folder.path().join("server"), &configuration).await.unwrap();
    let (certificate, key) = authority.client();
    for (with_certificate, code) in [(true, 0), (false, 3)] {
        let mut command = fleet::command(super::program(), folder.path(), &[]).unwrap();
        command.args([
            "hosts",
            "--discover-window",
            "300ms",
            "--nats-url",
            &format!("tls://{}", address(server.url())),
        ]);
        command.arg("--nkey-file").arg(admin.seed_file()).arg("--tls-ca").arg(authority.certificate());
        if with_certificate {
            command.arg("--tls-cert").arg(&certificate).arg("--tls-key").arg(&key);
        }
        Running::start(&mut command).unwrap().ended().await.unwrap().expect(code);
    }
}

#[tokio::test]
async fn a_server_without_tls_is_not_used_where_tls_is_asked_for() {
    let stage = Stage::set(None).await.unwrap();
    let plain = address(stage.plain.url());
    let behind_tls = format!("tls://{plain}");
    let ended = stage.run(&behind_tls, &["hosts"]).await.unwrap().expect(3);
    ended.told(&format!("{behind_tls} (the server does not speak TLS)"));

    for urls in [stage.plain.url().to_owned(), format!("{},{}", stage.url(), stage.plain.url())] {
        let ended = stage.run(&urls, &["hosts"]).await.unwrap().expect(3);
        ended.told(&format!("nats://{plain} is an address without TLS")).told(&format!("write tls://{plain}"));
    }
}

#[tokio::test]
async fn a_listener_takes_no_orders_from_a_server_without_tls() {
    let stage = Stage::set(None).await.unwrap();
    let folder = stage.folder.path();
    let ca = stage.authority.certificate().display().to_string();
    let admin = stage.plain.connect(&stage.admin).await.unwrap();

    let behind_tls = format!("tls://{}", address(stage.plain.url()));
    let mut fleet = Fleet::new(super::program(), &folder.join("plain-hosts"), &behind_tls, &stage.flake.url()).unwrap();
    fleet.start(&stage.ns1.0, &stage.ns1.1, &["--tls-ca", &ca]).unwrap();
    let listener = fleet.listener(&host("ns1")).unwrap();
    let tried = || Ok((listener.output().matches("does not speak TLS").count() > 2).then_some(()));
    wait::until("the listener has tried often", async || tried()).await.unwrap();
    assert!(!answers(&admin).await.unwrap());

    let mut fleet = Fleet::new(super::program(), &folder.join("mixed"), stage.plain.url(), &stage.flake.url()).unwrap();
    fleet.start(&stage.ns1.0, &stage.ns1.1, &["--tls-ca", &ca]).unwrap();
    let listener = fleet.listener(&host("ns1")).unwrap();
    wait::until("the listener ends", async || listener.status()).await.unwrap();
    assert!(listener.output().contains("is an address without TLS"), "{}", listener.output());
}

/// The failed connections after which a listener has tried all addresses that it knows.
const ATTEMPTS: usize = 4;

/// Stops the server with TLS during a deployment, and waits until listener and operator have tried to reconnect.
async fn lose_the_server(stage: &mut Stage) -> Running {
    stage.fleet.rebuild().on(&host("ns1"), GATE).unwrap();
    stage.listen().await.unwrap();
    let mut command = stage.operator(&stage.url(), &["deploy", "deploy.prod.ns1"]).unwrap();
    let mut deploy = Running::start(command.env("HOMELAB_DEPLOY_TLS_CA", stage.authority.certificate())).unwrap();
    deploy.tells("building").await.unwrap();
    stage.secure.stop();
    deploy.tells("connection lost").await.unwrap();
    let tried = |log: String| (log.matches("cannot reconnect").count() >= ATTEMPTS).then_some(());
    wait::until("the listener has tried to connect again", async || stage.log().map(tried)).await.unwrap();
    deploy
}

/// Restarts the server with TLS, and lets the deployment end.
async fn come_back(stage: &mut Stage, deploy: Running) {
    stage.secure.restart().await.unwrap();
    stage.fleet.rebuild().open(&host("ns1")).unwrap();
    deploy.ended().await.unwrap().expect(0).told("reconnected").told("1 host completed");
}

#[tokio::test]
async fn nobody_follows_a_server_to_one_without_tls() {
    let mut stage = Stage::set(None).await.unwrap();
    let deploy = lose_the_server(&mut stage).await;
    let admin = stage.plain.connect(&stage.admin).await.unwrap();
    assert!(!answers(&admin).await.unwrap());
    come_back(&mut stage, deploy).await;
}

#[tokio::test]
async fn a_server_that_only_another_server_names_is_not_even_tried() {
    let named = TcpListener::bind("127.0.0.1:0").unwrap();
    named.set_nonblocking(true).unwrap();
    let address = named.local_addr().unwrap().to_string();
    let mut stage = Stage::set(Some(&address)).await.unwrap();
    let deploy = lose_the_server(&mut stage).await;
    assert_eq!(named.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    come_back(&mut stage, deploy).await;
}
