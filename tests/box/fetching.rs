//! Tests that the deployed commit is what the flake's server has at that time, and that its failures are told apart.

use serde_json::json;

use crate::deployer::{Deployer, each};
use crate::stage::{CURRENT, NS1, Stage, ask};
use crate::support::git::Mood;
use crate::support::server::free_port;

#[tokio::test]
async fn what_is_pushed_within_the_hour_is_what_runs() {
    let Some(mut stage) = Stage::set("").await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let mut commits = Vec::new();
    for number in 1..=3 {
        commits.push(stage.push(&format!("box.activation = \"# {number}\";")));
        let deploy = stage.operator(&["deploy", NS1, "--branch", "main"]);
        deploy.ended().await.unwrap().expect(0).told("1 host completed");
        assert_eq!(Some(&stage.commit_of(CURRENT)), commits.last());
    }
    assert_eq!(each(&stage.finals(&mut wire).await, "revision"), commits);
}

/// Makes the host serve itself by ssh, with a server in its default state: it takes no `GIT_PROTOCOL` from clients.
fn serve_by_ssh(port: u16) -> String {
    format!(
        "echo Port {port} >/etc/ssh/sshd_config.d/port.conf
        systemctl start ssh
        ssh-keyscan -p {port} 127.0.0.1 >/etc/ssh/ssh_known_hosts
        ssh -p {port} 127.0.0.1 true"
    )
}

#[tokio::test]
async fn what_somebody_pushes_between_two_waves_does_not_hold_up_the_second() {
    let port = free_port().unwrap();
    let fetched = format!("git+ssh://root@127.0.0.1:{port}/root/flake.git");
    let by_ssh = format!("services.homelab-deploy.listener.flakeUrl = \"{fetched}\";");
    let Some(mut stage) = Stage::set(&by_ssh).await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let commit = stage.push(&by_ssh);
    stage.push(&format!("{by_ssh}\n# pushed meanwhile"));
    let served = stage.git.url("flake/.git");
    stage.machine.run(&format!("git clone --quiet --bare {served} /root/flake.git\n{}", serve_by_ssh(port))).unwrap();

    // The listener looks commits up where it fetches them, with root's key, as a run does.
    let heard = "journalctl --unit ssh | grep --count 'Accepted publickey'";
    let before = stage.machine.run(heard).unwrap();
    stage.machine.run("systemctl restart homelab-deploy-listener").unwrap();
    stage.until("the listener has asked the server", &format!("[ $({heard}) -gt {before} ]")).await;

    // Nix alone cannot fetch it.
    let alone = format!("nix flake metadata '{fetched}?rev={commit}' 2>&1");
    let refused = stage.machine.try_run(&alone).unwrap();
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(!refused.status.success() && said.contains("unadvertised object"), "{said}");

    ask(&deployer, "r-1", &commit).await;
    let end = deployer.hear_final().await.unwrap();
    assert_eq!(end["status"], "completed", "{end}");
    assert_eq!(stage.commit_of(CURRENT), commit);
    assert_eq!(stage.finals(&mut wire).await.len(), 1);
}

#[tokio::test]
async fn a_server_in_trouble_is_no_branch_that_does_not_exist() {
    let patience = "services.homelab-deploy.listener.timeout = 8;";
    let Some(mut stage) = Stage::set(patience).await else { return };
    let mut wire = stage.overhear().await.unwrap();
    let before = stage.commit_of(CURRENT);
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    // It must not be content with a commit that it has seen before.
    stage.push(patience);
    ask(&deployer, "r-1", "main").await;
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");
    let seen = stage.commit_of(CURRENT);
    assert_ne!(seen, before);
    stage.push("");

    for (id, branch, mood, error, words) in [
        ("r-2", "nowhere", Mood::Well, "invalid_revision", "nowhere"),
        ("r-3", "main", Mood::Hanging, "timeout", "8 s"),
        ("r-4", "main", Mood::Distrustful, "build_failed", "Username"),
        ("r-5", "main", Mood::Gone, "build_failed", "connect"),
    ] {
        stage.git.set(mood);
        ask(&deployer, id, branch).await;
        let end = deployer.hear_final().await.unwrap();
        assert_eq!((&end["status"], &end["error"]), (&json!("failed"), &json!(error)), "{end}");
        assert!(end["message"].as_str().unwrap().contains(words), "{end}");
    }
    assert_eq!(stage.commit_of(CURRENT), seen);
    assert_eq!(stage.finals(&mut wire).await.len(), 5);
    stage.machine.run("! grep --quiet --no-messages '^git' /proc/[0-9]*/comm").unwrap();
}

/// Succeeds if no process of a run has the password on its command line. Fails without such a process.
const NO_PASSWORD_SHOWN: &str = "
    processes=$(cat /sys/fs/cgroup/system.slice/homelab-deploy-run-*.service/cgroup.procs)
    lines=$(for process in $processes; do tr '\\0' ' ' </proc/$process/cmdline; done)
    [[ $lines == *nixos-rebuild* && $lines == *git-remote-http* && $lines != *s3cret* ]]";

#[tokio::test]
async fn the_password_of_a_repository_reaches_git_and_is_shown_to_nobody() {
    let Some(mut stage) = Stage::set("").await else { return };
    let with_password = stage.flake_url().replace("http://", "http://bob:s3cret@");
    let configuration =
        format!("services.homelab-deploy.listener = {{ flakeUrl = \"{with_password}\"; timeout = 8; }};");
    let mut deployer = Deployer::connect(&stage.lab).await.unwrap();
    let commit = stage.push(&configuration);
    ask(&deployer, "r-1", &commit).await;
    assert_eq!(deployer.hear_final().await.unwrap()["status"], "completed");

    stage.git.set(Mood::Guarded);
    for (id, revision) in [("r-2", None), ("r-3", Some("main"))] {
        let commit = stage.push(&format!("{configuration}\n# {id}"));
        ask(&deployer, id, revision.unwrap_or(&commit)).await;
        let end = deployer.hear_final().await.unwrap();
        assert_eq!(end["status"], "completed", "{end}");
        assert_eq!(stage.commit_of(CURRENT), commit);
    }

    // All processes can be examined while the server does not respond.
    let commit = stage.push("");
    stage.git.set(Mood::Hanging);
    ask(&deployer, "r-4", &commit).await;
    stage.until("git asks", "grep --quiet --no-messages git-remote-http /proc/[0-9]*/comm").await;
    stage.machine.run(NO_PASSWORD_SHOWN).unwrap();
    let end = deployer.hear_final().await.unwrap();
    assert_eq!(end["error"], "timeout", "{end}");
    assert!(!end.to_string().contains("s3cret"), "{end}");
}
