//! Tests the first hour with a real host: the files of `init`, the module's unit, `doctor` at both ends, and a rollout.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::machine::{self, Machine};
use crate::operator::{Ended, Running};
use crate::program;
use crate::stage::{CURRENT, nix_url, prepare, push};
use crate::support::fleet;
use crate::support::git::Git;
use crate::support::lab::Lab;
use crate::support::process::Process;
use crate::support::program::make_program;
use crate::support::server::Server;
use crate::support::wait;

/// Runs the program in a folder with the results of the earlier steps.
async fn run(folder: &Path, url: &str, arguments: &[&str]) -> Ended {
    let mut command = fleet::command(program(), folder, &[]).unwrap();
    command.args(arguments).env("HOMELAB_DEPLOY_NATS_URL", url);
    Running::start(&mut command).unwrap().ended().await.unwrap()
}

#[tokio::test]
async fn from_init_to_a_rollout_with_the_unit_of_the_module() {
    let Some(tree) = machine::tree() else { return };
    let began = Instant::now();
    // Only the repository of this lab is used.
    let mut lab = Lab::start(program(), &["prod.unused"]).await.unwrap();
    let git = Git::serve(lab.folder()).unwrap();
    let (flake, home) = (nix_url(&git), lab.home());
    let hosts = ["--host", "test.test1", "--host", "prod.ns1", "--host", "prod.nas"];
    let init = [&["init", "fleet", "--yes", "--flake", &flake][..], &hosts].concat();
    run(&home, "nats://127.0.0.1:4222", &init).await.expect(0);
    let fleet_folder = home.join("fleet");
    let configuration = fs::read_to_string(fleet_folder.join("nats.conf")).unwrap();
    lab.server = Server::start_with(&home.join("server"), &configuration).await.unwrap();
    let url = lab.server.url().to_owned();

    // ns1 is a machine with systemd and the unit of the module. The two other listeners run on this machine.
    prepare(&lab, &git).unwrap();
    let commit = push(&lab, "").unwrap();
    let installable = format!("{flake}?rev={commit}#nixosConfigurations.ns1.config.system.build.toplevel");
    let seed = |name: &str| fleet_folder.join(format!("keys/{name}.seed"));
    let ns1 = Machine::boot(tree, lab.folder(), "ns1", &installable, &seed("prod.ns1")).unwrap();
    let bin = home.join("bin");
    fs::create_dir(&bin).unwrap();
    let listeners = ["test.test1", "prod.nas"].map(|name| {
        let (tier, host) = name.split_once('.').unwrap();
        let mut listener = fleet::command(program(), &home, &[stand_in(&bin)]).unwrap();
        listener.args(["listener", "--tier", tier, "--hostname", host, "--nats-url", &url, "--flake-url", &flake]);
        listener.arg("--nkey-file").arg(seed(name)).arg("--state-dir").arg(home.join(host));
        Process::start(&mut listener, &home.join(format!("{host}.log"))).unwrap()
    });
    wait::until("three hosts answer", async || {
        Ok((run(&fleet_folder, &url, &["hosts"]).await.stdout.lines().count() == 4).then_some(()))
    })
    .await
    .unwrap();

    let doctor = run(&fleet_folder, &url, &["doctor"]).await.expect(0);
    for host in ["test1", "ns1", "nas"] {
        let line = doctor.stdout.lines().find(|line| line.split_whitespace().nth(2) == Some(host));
        assert!(line.is_some_and(|line| line.starts_with("✔ ok")), "{host}: {}", doctor.stdout);
    }
    // Runs `doctor` on the host, with its key and the path of its unit.
    let there = format!(
        "export PATH=$(systemctl show --property Environment homelab-deploy-listener | grep -o 'PATH=[^ ]*' | cut -c 6-); \
         /program/1/bin/homelab-deploy doctor --listener --tier prod --hostname ns1 --nkey-file /root/listener.seed \
         --nats-url {url} --flake-url '{flake}'"
    );
    let there = ns1.run(&there).unwrap();
    assert!(there.contains("✔ ok") && !there.contains("✖ problem"), "{there}");

    let second = push(&lab, "").unwrap();
    run(&fleet_folder, &url, &["apply", "rollout", "--yes"]).await.expect(0).told("3 hosts completed");
    assert_eq!(ns1.run(&format!("cat {CURRENT}/nixos-version")).unwrap(), second);
    drop(listeners);
    assert!(began.elapsed().as_secs() < 120, "it took {:?}", began.elapsed());
}

/// Returns a folder with a `nixos-rebuild` and a `nix` that do nothing.
fn stand_in(bin: &Path) -> std::path::PathBuf {
    for name in ["nixos-rebuild", "nix"] {
        make_program(&bin.join(name), "#!/bin/sh\n").unwrap();
    }
    bin.to_owned()
}
