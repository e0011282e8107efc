//! Tests the errors for a newcomer whose server, certificate or key is not what it seems.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use homelab_deploy::nats_config::Principal;
use tempfile::TempDir;

use crate::host;
use crate::operator::{self, Ended, Running};
use crate::support::fleet;
use crate::support::keys::Key;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;
use crate::support::server::Server;
use crate::support::tls::Authority;

/// A folder with an authority, the key of an admin, and the server's permissions for it.
struct Stage {
    authority: Authority,
    admin: Key,
    users: String,
    folder: TempDir,
}

impl Stage {
    fn set() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let admin = Key::generate(folder.path(), "admin").unwrap();
        let users = Permissions::default().authorization(&[admin.user(Principal::Admin)]);
        Self { authority: Authority::create(&folder.path().join("tls")).unwrap(), admin, users, folder }
    }

    async fn server(&self, tls: &str) -> Server {
        let folder = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        Server::start_with(&folder, &(tls.to_owned() + &self.users)).await.unwrap()
    }

    /// Runs `hosts` with this address and another scheme, and with further arguments.
    async fn hosts(&self, scheme: &str, url: &str, arguments: &[&str]) -> Ended {
        let mut command = fleet::command(crate::program(), self.folder.path(), &[]).unwrap();
        let url = format!("{scheme}://{}", url.rsplit('/').next().unwrap());
        command.args(["hosts", "--discover-window", "100ms", "--nats-url", &url]).args(arguments);
        command.arg("--nkey-file").arg(self.admin.seed_file());
        Running::start(&mut command).unwrap().ended().await.unwrap()
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn certificates_are_told_apart_by_what_is_wrong_with_them() {
    let stage = Stage::set();
    let ca = stage.authority.certificate();
    for (shown, told, next) in [
        ("ca", "that of an authority (CA:TRUE)", "make the server a certificate of its own"),
        ("client", "not for 127.0.0.1, but for client.example.com", "use a name of the certificate"),
        ("old", "its certificate expired", "set the clock of this machine"),
    ] {
        let server = stage.server(&stage.authority.configuration_showing(shown)).await;
        stage.hosts("tls", server.url(), &["--tls-ca", path(&ca)]).await.expect(3).told(told).told(next);
    }
    let server = stage.server(&stage.authority.configuration()).await;
    // A server that asks for TLS gets it, with any scheme in the address.
    for scheme in ["tls", "nats"] {
        let ended = stage.hosts(scheme, server.url(), &[]).await.expect(3);
        ended.told("not signed by an authority that is trusted here").told("with --tls-ca FILE");
    }
}

#[tokio::test]
async fn tls_where_there_is_none_and_files_that_have_none_are_told() {
    let stage = Stage::set();
    let server = stage.server("").await;
    let ended = stage.hosts("tls", server.url(), &[]).await.expect(3);
    ended.told("the server does not speak TLS").told("write nats://127.0.0.1:");

    let seed = path(stage.admin.seed_file());
    for (flags, what) in [
        (&["--tls-ca", seed][..], "certificate"),
        (&["--tls-cert", path(&stage.authority.certificate()), "--tls-key", seed][..], "private key"),
    ] {
        let ended = stage.hosts("tls", server.url(), flags).await.expect(3);
        ended.told(&format!("there is no {what} in {seed}")).told("PEM");
    }
    let folder = path(stage.folder.path());
    stage.hosts("tls", server.url(), &["--tls-ca", folder]).await.expect(3).told(&format!("cannot read {folder}"));
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_of_its_clients_says_so() {
    let stage = Stage::set();
    let server = stage.server(&stage.authority.configuration_with_clients()).await;
    let ca = stage.authority.certificate();
    let ended = stage.hosts("tls", server.url(), &["--tls-ca", path(&ca)]).await.expect(3);
    ended.told("the server requires a client certificate").told("--tls-cert");
}

#[tokio::test]
async fn what_is_no_nats_server_is_told_from_one_that_is_not_there() {
    let stage = Stage::set();
    for greeting in ["SSH-2.0-OpenSSH_9.9\r\n", "", "HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("nats://{}", socket.local_addr().unwrap());
        thread::spawn(move || {
            for client in socket.incoming() {
                client.unwrap().write_all(greeting.as_bytes()).ok();
            }
        });
        let ended = stage.hosts("nats", &url, &[]).await.expect(3);
        ended.told("no NATS server answers there").told("check the port");
    }
    stage.hosts("nats", "nats://127.0.0.1:1", &[]).await.expect(3).told("Connection refused");
}

/// A server's messages if the time to log in passed while this machine was suspended.
const TOO_LATE: &str = "INFO {\"server_id\":\"X\",\"version\":\"2.10.0\",\"proto\":1,\"host\":\"127.0.0.1\",\"port\":4222,\
                        \"max_payload\":262144,\"nonce\":\"AAAA\"}\r\n-ERR 'Authentication Timeout'\r\n";

#[tokio::test]
async fn a_login_that_came_too_late_is_no_server_that_is_not_there() {
    let stage = Stage::set();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", socket.local_addr().unwrap());
    thread::spawn(move || {
        let mut clients = Vec::new();
        for client in socket.incoming() {
            let mut client = client.unwrap();
            client.write_all(TOO_LATE.as_bytes()).ok();
            clients.push(client);
        }
    });
    let ended = stage.hosts("nats", &url, &[]).await.expect(3);
    ended.told("the server did not get the key in time").told("try again").not_told("check that nats-server runs");
}

#[tokio::test]
async fn the_key_of_a_listener_does_not_deploy_and_one_in_a_creds_file_does() {
    let mut lab = Lab::start(crate::program(), &["prod.ns1.dns"]).await.unwrap();
    lab.listen_all().await.unwrap();
    let of_host = lab.key(&host("ns1")).unwrap();
    for arguments in [&["hosts"][..], &["deploy", "prod.ns1", "--branch", "main"], &["logs", "prod.ns1"]] {
        let mut command = lab.operator(of_host).unwrap();
        let ended = Running::start(command.args(arguments)).unwrap().ended().await.unwrap().expect(3);
        ended.told("this is the key of a listener").told("keys/operator.seed");
    }
    let seed = fs::read_to_string(lab.admin.seed_file()).unwrap();
    let creds = lab.home().join("admin.creds");
    let jwt = "-----BEGIN NATS USER JWT-----\neyJ0eXAiOiJKV1QifQ.eyJqdGkiOiJYIn0.c2lnbmF0dXJl\n------END NATS USER JWT------\n";
    let block = "-----BEGIN USER NKEY SEED-----\n";
    fs::write(&creds, format!("{jwt}\n{block}{}\n------END USER NKEY SEED------\n", seed.trim())).unwrap();
    fs::set_permissions(&creds, fs::Permissions::from_mode(0o600)).unwrap();
    let hosts = operator::run(&lab, &["hosts", "--nkey-file", path(&creds)]).await.unwrap().expect(0);
    assert!(hosts.stdout.contains("ns1"), "{}", hosts.stdout);
}
