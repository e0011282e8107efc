//! Tests the test harness itself.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use homelab_deploy::protocol::HostName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::keys::Key;
use crate::support::lab::Lab;
use crate::support::proxy::{Passes, Proxy};
use crate::support::rebuild::{self, Rebuild};
use crate::support::wait;

fn ns1() -> HostName {
    "ns1".parse().unwrap()
}

/// Returns a call of the simulated nixos-rebuild, as a listener makes it.
fn nixos_rebuild(rebuild: &Rebuild) -> Command {
    let mut command = Command::new(rebuild.folder().join("nixos-rebuild"));
    command.args(["switch", "--flake", "git+file:///flake?ref=main#ns1"]);
    command
}

#[test]
fn the_stand_in_for_nixos_rebuild_does_as_it_is_told_and_writes_it_down() {
    let folder = tempfile::tempdir().unwrap();
    let rebuild = Rebuild::install(folder.path()).unwrap();
    assert!(nixos_rebuild(&rebuild).status().unwrap().success());
    rebuild.on(&ns1(), "echo boom >&2; exit 3").unwrap();
    let output = nixos_rebuild(&rebuild).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(3), b"boom\n".as_slice()));

    let record: Vec<_> = rebuild.record().into_iter().map(without_pid).collect();
    let start = "ns1 start PID switch --flake git+file:///flake?ref=main#ns1";
    assert_eq!(record, [start, "ns1 end 0", start, "ns1 end 3"]);
}

/// Removes the process id from a line, which differs in every run.
fn without_pid(line: String) -> String {
    match line.split_once(" start ").and_then(|(host, rest)| Some((host, rest.split_once(' ')?.1))) {
        Some((host, arguments)) => format!("{host} start PID {arguments}"),
        None => line,
    }
}

#[tokio::test]
async fn what_hangs_ends_with_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let rebuild = Rebuild::install(folder.path()).unwrap();
    rebuild.on(&ns1(), rebuild::HANG).unwrap();
    let mut child = nixos_rebuild(&rebuild).spawn().unwrap();
    let started = async || Ok((rebuild.record().len() == 2).then_some(()));
    wait::until("it hangs, with a child", started).await.unwrap();
    assert!(child.try_wait().unwrap().is_none());
    drop(folder);
    wait::until("it has ended", async || Ok(child.try_wait().unwrap())).await.unwrap();
}

#[tokio::test]
async fn a_server_comes_back_on_its_port() {
    let mut lab = Lab::start(super::program(), &[]).await.unwrap();
    let url = lab.server.url().to_owned();
    lab.server.stop();
    assert!(lab.server.connect(&lab.admin).await.is_err());
    lab.server.restart().await.unwrap();
    assert_eq!(lab.server.url(), url);
    lab.server.connect(&lab.admin).await.unwrap();
}

#[test]
fn seeds_are_for_their_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let key = Key::generate(folder.path(), "ops").unwrap();
    assert_eq!(key.seed_file().metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_proxy_is_slow_stands_still_and_breaks_as_it_is_told() {
    let delay = Duration::from_millis(50);
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(&format!("nats://{}", server.local_addr().unwrap()), delay).await.unwrap();
    let mut client = TcpStream::connect(proxy.url().strip_prefix("nats://").unwrap()).await.unwrap();
    let (mut accepted, _) = server.accept().await.unwrap();
    let mut byte = [0];

    let sent = Instant::now();
    client.write_all(b"a").await.unwrap();
    accepted.read_exact(&mut byte).await.unwrap();
    assert!(sent.elapsed() >= delay);

    // Data in the other direction arrives first, which proves that this direction is stalled.
    proxy.let_pass(Passes::ToClient);
    client.write_all(b"b").await.unwrap();
    accepted.write_all(b"c").await.unwrap();
    client.read_exact(&mut byte).await.unwrap();
    assert_eq!((&byte, accepted.try_read(&mut [0]).unwrap_err().kind()), (b"c", std::io::ErrorKind::WouldBlock));
    proxy.let_pass(Passes::Both);
    accepted.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"b");

    proxy.cut();
    assert_eq!(client.read(&mut byte).await.unwrap(), 0);
    assert_eq!(accepted.read(&mut byte).await.unwrap(), 0);
}
