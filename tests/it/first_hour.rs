//! Tests the way from nothing to a rollout: the files of `init`, and the page for beginners.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::apply::confirm::at_a_terminal_that_shows;
use crate::operator::{Ended, Running};
use crate::support::fleet;
use crate::support::lab::Lab;
use crate::support::server;

const PAGE: &str = include_str!("../../docs/getting-started.md");

/// Returns the commands of the page, which are in blocks of `sh`. Blocks of `console` depend on the machine.
fn commands() -> String {
    let blocks = PAGE.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.collect()
}

/// Returns a lab whose operator has settings in a file of the folder, and none in the environment.
async fn lab_with_context(further: &str) -> Lab {
    let mut lab = Lab::start(crate::program(), &["prod.ns1.dns"]).await.unwrap();
    lab.listen_all().await.unwrap();
    let (server, key, flake) = (lab.server.url(), lab.admin.seed_file().display(), lab.flake.url());
    let context = format!("[context.home]\nserver = {server:?}\nkey = '{key}'\nflake = {flake:?}\n{further}");
    fs::write(lab.home().join("homelab-deploy.toml"), context).unwrap();
    lab
}

async fn run(lab: &Lab, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let mut command = fleet::command(crate::program(), &lab.home(), &[]).unwrap();
    command.args(arguments).envs(environment.iter().copied());
    Running::start(&mut command).unwrap().ended().await.unwrap()
}

#[tokio::test]
async fn a_flag_goes_before_a_variable_and_that_before_a_context() {
    let lab = lab_with_context("[context.home.aliases]\ndns = 'deploy.prod.role.dns'").await;
    let hosts = run(&lab, &["hosts"], &[]).await.expect(0);
    assert!(hosts.stdout.contains("ns1"), "{hosts:?}");
    let (nowhere, nowhere_else) = ("nats://127.0.0.1:1", "nats://127.0.0.1:2");
    let variable = [("HOMELAB_DEPLOY_NATS_URL", nowhere)];
    run(&lab, &["hosts"], &variable).await.expect(3).told(nowhere);
    run(&lab, &["hosts", "--nats-url", nowhere_else], &variable).await.expect(3).told(nowhere_else);
    // An assistant's client passes everything by flags: the folder may be anybody's.
    run(&lab, &["mcp"], &[]).await.expect(2).told("`server` in a context");

    run(&lab, &["deploy", "dns", "--branch", "main"], &[]).await.expect(0).told("1 host completed");
    let other = [("HOMELAB_DEPLOY_ALIAS_DNS", "deploy.prod.role.media")];
    run(&lab, &["deploy", "dns", "--branch", "main"], &other).await.expect(1).told("deploy.prod.role.media");
}

#[tokio::test]
async fn a_wrong_setting_is_told_with_the_places_that_it_can_come_from() {
    let folder = tempfile::tempdir().unwrap();
    let context = "[context.home]\nserver = 'http://h'\nkey = 'k'\n";
    fs::write(folder.path().join("homelab-deploy.toml"), context).unwrap();
    let hosts = async |arguments: &[&str]| {
        let mut command = fleet::command(crate::program(), folder.path(), &[]).unwrap();
        Running::start(command.arg("hosts").args(arguments)).unwrap().ended().await.unwrap().expect(2)
    };
    let places = "--nats-url, or HOMELAB_DEPLOY_NATS_URL, or `server` in a context of homelab-deploy.toml";
    hosts(&[]).await.told("invalid value 'http://h'").told(places);
    hosts(&["--nats-url", "http://other"]).await.told("invalid value 'http://other'").not_told(places);
}

#[tokio::test]
async fn each_context_has_records_of_its_own() {
    let lab = lab_with_context("[context.other]\n").await;
    run(&lab, &["rollouts"], &[]).await.expect(2).told("default-context");
    run(&lab, &["deploy", "prod.ns1", "--branch", "main", "--context", "home"], &[]).await.expect(0);
    let rollouts =
        async |context: &str| run(&lab, &["rollouts"], &[("HOMELAB_DEPLOY_CONTEXT", context)]).await.expect(0);
    assert!(rollouts("home").await.stdout.contains("prod.ns1"), "the rollout is on record");
    rollouts("other").await.told("No rollout is on record here");
    assert!(lab.home().join("state/homelab-deploy/contexts/home/rollouts").is_dir());
}

/// Runs `init` in a folder.
async fn init(folder: &Path, arguments: &[&str]) -> Ended {
    let mut command = fleet::command(crate::program(), folder, &[]).unwrap();
    Running::start(command.arg("init").args(arguments)).unwrap().ended().await.unwrap()
}

#[test]
fn the_page_for_beginners_leads_to_a_rollout_in_two_minutes() {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    symlink(crate::program(), bin.join("homelab-deploy")).unwrap();
    symlink(server::program().unwrap(), bin.join("nats-server")).unwrap();
    // The commands of the page with another port, since a server may already use the port on this machine.
    let commands = commands().replace("4222", &server::free_port().unwrap().to_string());
    let script = format!("set -eu\ntrap 'kill $(jobs -p)' EXIT\n{commands}");
    let began = Instant::now();
    let mut command = fleet::command(Path::new("bash"), folder.path(), &[bin]).unwrap();
    let output = command.arg("-c").arg(script).stdin(Stdio::null()).output().unwrap();
    let (out, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{told}");
    assert!(began.elapsed().as_secs() < 120, "it took {:?}", began.elapsed());
    // `doctor` has examined each part and found nothing wrong.
    for about in ["server", "key", "test1", "ns1", "nas", "plans/rollout.toml", "flake"] {
        let line = out.lines().find(|line| line.split_whitespace().nth(2).is_some_and(|word| word.ends_with(about)));
        assert!(line.is_some_and(|line| line.starts_with("✔ ok")), "{about}: {out}");
    }
    assert!(!out.contains("✖ problem") && !out.contains("• note"), "{out}");
    assert!(told.contains("3 hosts completed"), "{told}");
}

#[tokio::test]
async fn init_adds_what_is_new_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| fs::read_to_string(folder.path().join("lab").join(name)).unwrap();
    let new = ["lab", "--yes", "--nats-url", "nats://127.0.0.1:4222", "--flake", "git+https://h/x"];
    init(folder.path(), &[&new[..], &["--host", "prod.ns1.dns"]].concat())
        .await
        .expect(0)
        .told("homelab-deploy doctor");
    for seed in ["prod.ns1", "operator", "assistant"] {
        let mode = folder.path().join(format!("lab/keys/{seed}.seed")).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let (fleet, seed, plan) = (read("fleet.toml"), read("keys/prod.ns1.seed"), read("plans/rollout.toml"));

    // Server and flake are known by now, and edited files are kept.
    fs::write(folder.path().join("lab/plans/rollout.toml"), format!("# mine\n{plan}")).unwrap();
    let ended =
        init(folder.path(), &["lab", "--yes", "--host", "prod.ns1.dns", "--host", "test.test1"]).await.expect(0);
    ended.told("plans/rollout.toml was changed by hand");
    assert!(read("fleet.toml").starts_with(&fleet) && read("fleet.toml").contains("test1"));
    assert_eq!(read("keys/prod.ns1.seed"), seed);
    assert!(
        read("nats.conf").contains("listener test1, tier test") && read("nix/homelab-deploy.nix").contains("test1")
    );
    assert_eq!(read("plans/rollout.toml"), format!("# mine\n{plan}"));
    assert!(read("plans/rollout.toml.new").contains("test.all"));

    let again = init(folder.path(), &["lab", "--yes", "--host", "prod.ns1.web"]).await.expect(2);
    again.told("ns1 is a host of this fleet already");
    init(folder.path(), &["other", "--yes", "--host", "prod.ns1"]).await.expect(2).told("--flake is missing");
}

#[tokio::test]
async fn seeds_that_somebody_else_could_have_put_there_are_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::create_dir(&keys).unwrap();
    let mut keygen = fleet::command(crate::program(), &keys, &[]).unwrap();
    Running::start(keygen.args(["keygen", "operator.seed"])).unwrap().ended().await.unwrap().expect(0);
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o777)).unwrap();
    let new = ["--yes", "--flake", "git+https://h/x", "--host", "prod.ns1"];
    init(folder.path(), &new).await.expect(3).told("can be written to by other users");
    assert!(!folder.path().join("fleet.toml").exists());
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o700)).unwrap();
    init(folder.path(), &new).await.expect(0);
}

#[tokio::test]
async fn an_init_that_was_cut_off_is_completed_by_the_same_command() {
    let folder = tempfile::tempdir().unwrap();
    let new = ["lab", "--yes", "--flake", "git+https://h/x", "--host", "prod.ns1"];
    init(folder.path(), &new).await.expect(0);
    let more = ["lab", "--yes", "--host", "test.test1"];
    // One of the files cannot be written, as on a full disk.
    let obstacle = folder.path().join("lab/nix/homelab-deploy.nix.draft");
    fs::create_dir(&obstacle).unwrap();
    init(folder.path(), &more).await.expect(3).told("cannot write");
    fs::remove_dir(obstacle).unwrap();
    init(folder.path(), &more).await.expect(0);
    for file in ["nats.conf", "nix/homelab-deploy.nix", "fleet.toml"] {
        let text = fs::read_to_string(folder.path().join("lab").join(file)).unwrap();
        assert!(text.contains("test1"), "{file}: {text}");
    }
}

#[tokio::test]
async fn init_takes_a_new_address_and_a_new_flake_to_each_file_that_nobody_changed() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| fs::read_to_string(folder.path().join("lab").join(name)).unwrap();
    let files = ["nats.conf", "nix/homelab-deploy.nix", "homelab-deploy.toml"];
    let new = ["lab", "--yes", "--host", "prod.ns1", "--flake", "git+https://h/x"];
    init(folder.path(), &new).await.expect(0);
    let before = files.map(read);
    let moved = ["lab", "--yes", "--nats-url", "nats://nats.example:4333", "--flake", "git+https://h/y"];
    fs::write(folder.path().join("lab").join(files[1]), format!("# mine\n{}", before[1])).unwrap();
    init(folder.path(), &moved).await.expect(0).told("nix/homelab-deploy.nix was changed by hand");
    assert!(read(files[0]).contains("port: 4333"), "{}", read(files[0]));
    for name in [files[2], "nix/homelab-deploy.nix.new"] {
        let text = read(name);
        assert!(text.contains("nats://nats.example:4333") && text.contains("git+https://h/y"), "{name}: {text}");
    }
    assert!(read(files[1]).contains("git+https://h/x"));
}

#[tokio::test]
async fn init_asks_on_a_terminal_for_what_no_flag_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = fleet::command(crate::program(), folder.path(), &[]).unwrap();
    command.args(["init", "lab"]);
    let (mut init, mut keyboard) = at_a_terminal_that_shows(command);
    let answers = [
        ("NATS server [nats://127.0.0.1:4222]:", ""),
        ("Flake with the configurations of the hosts:", "git+https://h/x"),
        ("Host:", "ns1"),
        ("\"ns1\" is not a host: write <tier>.<host> or <tier>.<host>.<role> Host:", "prod.ns1.dns"),
        ("Host: prod.ns1.dns Host:", ""),
    ];
    for (question, answer) in answers {
        init.tells(question).await.unwrap();
        writeln!(keyboard, "{answer}").unwrap();
    }
    init.ended().await.unwrap().expect(0);
    let read = |name: &str| fs::read_to_string(folder.path().join("lab").join(name)).unwrap();
    assert!(read("fleet.toml").contains("name = \"ns1\"\ntier = \"prod\"\nrole = \"dns\""), "{}", read("fleet.toml"));
    assert!(read("homelab-deploy.toml").contains("server = \"nats://127.0.0.1:4222\""));
}

#[tokio::test]
async fn the_server_takes_the_configuration_and_nix_the_module() {
    let folder = tempfile::tempdir().unwrap();
    for url in ["nats://127.0.0.1:4222", "nats://nats.example.com"] {
        let lab = folder.path().join(url.replace(['/', ':'], "_"));
        let arguments = ["--yes", "--nats-url", url, "--flake", "git+https://h/x", "--host", "prod.ns1.dns"];
        let name = lab.to_str().unwrap();
        init(folder.path(), &[&[name], &arguments[..]].concat()).await.expect(0);
        let test =
            Command::new(server::program().unwrap()).arg("-t").arg("-c").arg(lab.join("nats.conf")).output().unwrap();
        assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stderr));
        let printed = fleet::command(crate::program(), folder.path(), &[]).unwrap();
        let printed = { printed }.arg("nats-config").arg(lab.join("fleet.toml")).output().unwrap();
        let printed = String::from_utf8(printed.stdout).unwrap();
        let (_, block) = printed.split_once("authorization").unwrap();
        assert!(fs::read_to_string(lab.join("nats.conf")).unwrap().ends_with(block), "{printed}");
        crate::module::takes_settings_of(&lab.join("nix/homelab-deploy.nix"), "ns1");
    }
}

#[tokio::test]
async fn the_public_key_of_a_seed_is_printed_again() {
    let folder = tempfile::tempdir().unwrap();
    let keygen = async |arguments: &[&str]| {
        let mut command = fleet::command(crate::program(), folder.path(), &[]).unwrap();
        Running::start(command.arg("keygen").args(arguments)).unwrap().ended().await.unwrap().expect(0).stdout
    };
    let made = keygen(&["ops.seed"]).await;
    let seed = fs::read_to_string(folder.path().join("ops.seed")).unwrap();
    assert_eq!(keygen(&["--public", "ops.seed"]).await, made);
    assert_eq!(fs::read_to_string(folder.path().join("ops.seed")).unwrap(), seed);
}
