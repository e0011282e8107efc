//! Tests that `doctor` finds each fault at both ends, and sends no deployment.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use homelab_deploy::nats_config::{FleetList, ListenerName, Principal, User};
use miette::{IntoDiagnostic, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::apply::wiretap::Wiretap;
use crate::host;
use crate::operator::{Ended, Running};
use crate::stand_in::StandIn;
use crate::support::fleet;
use crate::support::keys::Key;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;
use crate::support::server::Server;
use crate::support::tls::Authority;

/// The end at which `doctor` runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Ns1,
    TestDeployer,
    Admin,
}

/// A server configuration, the list of its fleet, and the keys.
struct Stage {
    configuration: String,
    users: Vec<User>,
    ns1: Key,
    test_deployer: Key,
    admin: Key,
    folder: TempDir,
}

impl Stage {
    fn set() -> Result<Self> {
        let folder = tempfile::tempdir().into_diagnostic()?;
        let key = |name: &str| Key::generate(folder.path(), name);
        let [ns1, test_deployer, admin] = [key("ns1")?, key("test-deployer")?, key("admin")?];
        let name: ListenerName = "prod.ns1.dns".parse().into_diagnostic()?;
        let (tester, of_all) = (Principal::TestDeployer, Principal::Admin);
        let users = [
            ns1.user(Principal::Listener(name.clone())),
            test_deployer.user(tester.clone()),
            admin.user(of_all.clone()),
        ];
        let [of_ns1, of_tester, of_admin] = users.clone().map(|user| user.key);
        let operators = vec![("ops".to_owned(), of_all, of_admin), ("tester".to_owned(), tester, of_tester)];
        let fleet = FleetList { hosts: vec![(name, of_ns1)], operators };
        fs::write(folder.path().join("fleet.toml"), fleet.text()).into_diagnostic()?;
        let configuration = Permissions::Strict.authorization(&users);
        Ok(Self { configuration, users: users.to_vec(), ns1, test_deployer, admin, folder })
    }

    fn fleet(&self) -> PathBuf {
        self.folder.path().join("fleet.toml")
    }

    /// Returns what `doctor` at this end finds wrong with a server that has this configuration.
    async fn looks(&self, end: End, configuration: &str, fleet_file: Option<&Path>) -> Result<Vec<String>> {
        let server = Server::start_with(&self.folder.path().join("server"), configuration).await?;
        let key = match end {
            End::Ns1 => &self.ns1,
            End::TestDeployer => &self.test_deployer,
            End::Admin => &self.admin,
        };
        let mut command = fleet::command(super::program(), self.folder.path(), &[])?;
        command.args(["doctor", "--json", "--discover-window", "200ms", "--nats-url", server.url()]);
        command.arg("--nkey-file").arg(key.seed_file());
        if end == End::Ns1 {
            command.args(["--listener", "--hostname", "ns1", "--tier", "prod", "--role", "dns"]);
        }
        if let Some(file) = fleet_file {
            command.arg("--fleet").arg(file);
        }
        Ok(problems(&Running::start(&mut command)?.ended().await?))
    }

    /// Returns what `doctor` finds wrong with a file of this configuration in a folder, which may have a fleet list.
    async fn looks_at_file(&self, configuration: &str, folder: &str) -> Result<Vec<String>> {
        let file = self.folder.path().join(folder).join("nats.conf");
        fs::create_dir_all(file.parent().unwrap()).into_diagnostic()?;
        fs::write(&file, format!("port: 4222\n{configuration}")).into_diagnostic()?;
        let mut command = fleet::command(super::program(), self.folder.path(), &[])?;
        command.args(["doctor", "--json"]).arg(file);
        Ok(problems(&Running::start(&mut command)?.ended().await?))
    }
}

/// Returns the findings of a level.
fn found(ended: &Ended, level: &str) -> Vec<String> {
    let findings: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let findings = findings.as_array().unwrap().iter().filter(|finding| finding["level"] == level);
    findings.map(|finding| format!("{}: {}", text(&finding["about"]), text(&finding["what"]))).collect()
}

/// Returns the problems. The exit code must say whether there are any.
fn problems(ended: &Ended) -> Vec<String> {
    let problems = found(ended, "problem");
    assert_eq!(ended.code, Some(i32::from(!problems.is_empty())), "{ended:?}");
    problems
}

/// One changed permission: the old one, the new one, the end that can see it, and its name there and in the file.
type Mutation = (&'static str, &'static str, End, &'static str, &'static str);

#[rustfmt::skip]
const MUTATIONS: [Mutation; 11] = [
    (r#"publish: ["deploy.responses.prod.ns1.>"]"#, r#"publish: ["deploy.responses.prod.ns2.>"]"#, End::Ns1,
     "may not publish to deploy.responses.prod.ns1.>", "may not publish to deploy.responses.prod.ns1.>"),
    (r#"publish: ["deploy.responses.prod.ns1.>"]"#, r#"publish: ["deploy.responses.>"]"#, End::Ns1,
     "may publish to deploy.responses.test.>, deploy.responses.prod.>", "may publish to deploy.responses.>"),
    (r#""deploy.prod.ns1", "#, "", End::Ns1, "may not subscribe to deploy.prod.ns1", "may not subscribe to deploy.prod.ns1"),
    (r#""deploy.prod.all", "#, "", End::Ns1, "may not subscribe to deploy.prod.all", "may not subscribe to deploy.prod.all"),
    (r#""deploy.prod.role.dns", "#, "", End::Ns1,
     "may not subscribe to deploy.prod.role.dns", "may not subscribe to deploy.prod.role.dns"),
    (r#""deploy.discover", "deploy.discover.prod""#, r#""deploy.discover.prod""#, End::Ns1,
     "may not subscribe to deploy.discover,", "may not subscribe to deploy.discover,"),
    (r#""deploy.discover", "deploy.discover.prod""#, r#""deploy.discover""#, End::Ns1,
     "may not subscribe to deploy.discover.prod", "may not subscribe to deploy.discover.prod"),
    (r#"publish: ["deploy.>"]"#, r#"publish: ["deploy.test.>"]"#, End::Admin, "deploy.prod.>", "may not publish to deploy.>"),
    (r#"subscribe: ["deploy.>"]"#, r#"subscribe: ["deploy.responses.test.>"]"#, End::Admin,
     "deploy.responses.prod.>", "may not subscribe to deploy.>"),
    (r#"publish: ["deploy.test.>", "#, "publish: [", End::TestDeployer,
     "may not publish to deploy.test.>", "may not publish to deploy.test.>"),
    (r#"subscribe: ["deploy.responses.test.>", "#, r#"subscribe: ["deploy.responses.>", "#, End::TestDeployer,
     "may subscribe to deploy.responses.prod.>", "may subscribe to deploy.responses.>"),
];

#[tokio::test]
async fn what_nats_config_prints_is_in_order_at_every_end() {
    let stage = Stage::set().unwrap();
    for end in [End::Ns1, End::TestDeployer, End::Admin] {
        for fleet in [None, Some(stage.fleet())] {
            let found = stage.looks(end, &stage.configuration, fleet.as_deref()).await.unwrap();
            assert_eq!(found, [] as [&str; 0], "{end:?}");
        }
    }
    for folder in ["", "without-the-list"] {
        assert_eq!(stage.looks_at_file(&stage.configuration, folder).await.unwrap(), [] as [&str; 0]);
    }
}

#[tokio::test]
async fn eleven_mutations_are_named_by_the_end_that_can_see_them() {
    let stage = Stage::set().unwrap();
    for (was, is, end, named, named_in_file) in MUTATIONS {
        let mutated = stage.configuration.replacen(was, is, 1);
        assert_ne!(mutated, stage.configuration, "{was}");
        let is_named = |problems: &[String], named: &str| problems.iter().any(|problem| problem.contains(named));
        let found = stage.looks(end, &mutated, Some(&stage.fleet())).await.unwrap();
        assert!(is_named(&found, named), "{end:?}, {was} -> {is}: {found:?}");
        let found = stage.looks_at_file(&mutated, "").await.unwrap();
        assert!(is_named(&found, named_in_file), "the file, {was} -> {is}: {found:?}");
        assert_eq!(found.len(), 1 + usize::from(is.contains("ns2")), "{found:?}");
    }
}

#[tokio::test]
async fn a_file_that_lets_in_strangers_or_forgets_somebody_is_told() {
    let stage = Stage::set().unwrap();
    let stranger = Key::generate(stage.folder.path(), "stranger").unwrap().user(Principal::Admin);
    let print = |permissions: Permissions, users: &[User]| permissions.authorization(users);
    let more = [&stage.users[..], &[stranger]].concat();
    let found = stage.looks_at_file(&print(Permissions::Strict, &more), "").await.unwrap();
    assert!(
        found.len() == 1 && found[0].ends_with("is not in fleet.toml, and has the permissions of: admin deployer"),
        "{found:?}"
    );
    let found = stage.looks_at_file(&print(Permissions::Strict, &stage.users[1..]), "").await.unwrap();
    assert!(
        found.len() == 1 && found[0].contains("ns1, tier prod, role dns: the server does not know its key"),
        "{found:?}"
    );

    let found = stage.looks_at_file(&print(Permissions::Compatible, &stage.users), "").await.unwrap();
    assert_eq!(found, [] as [&str; 0], "what the predecessor's deployers need is worth a note");
    let found = stage.looks_at_file(&print(Permissions::Predecessor, &stage.users), "").await.unwrap();
    let of_ns1 = "listener ns1, tier prod, role dns: its key may publish to deploy.responses.>";
    assert!(found.iter().any(|problem| problem.starts_with(of_ns1)), "{found:?}");
}

#[tokio::test]
async fn a_key_that_is_no_operators_is_told() {
    let stage = Stage::set().unwrap();
    let server = Server::start_with(&stage.folder.path().join("server"), &stage.configuration).await.unwrap();
    let doctor = async |arguments: &[&str]| {
        let mut command = fleet::command(super::program(), stage.folder.path(), &[]).unwrap();
        command.args(["doctor", "--json", "--nats-url", server.url()]).arg("--nkey-file").arg(stage.ns1.seed_file());
        problems(&Running::start(command.args(arguments)).unwrap().ended().await.unwrap())
    };
    let fleet = stage.fleet();
    assert_eq!(
        doctor(&["--fleet", fleet.to_str().unwrap()]).await,
        ["key: this is the key of the listener ns1, tier prod, role dns"]
    );
    assert_eq!(doctor(&[]).await, ["key: this key may deploy to no tier; it may be that of a listener"]);
}

#[tokio::test]
async fn with_the_key_of_a_test_deployer_prod_is_out_of_reach_and_hears_nothing() {
    let mut lab = Lab::start(super::program(), &["test.test1", "prod.ns1.dns"]).await.unwrap();
    lab.listen_all().await.unwrap();
    let mut tap = Wiretap::begin(&lab).await;
    let mut command = lab.operator(&lab.test_deployer).unwrap();
    let ended = Running::start(command.args(["doctor", "--json"])).unwrap().ended().await.unwrap();
    let notes = found(&ended, "note");
    assert!(notes.iter().any(|note| note.starts_with("prod: cannot reach prod")), "{ended:?}");
    // This machine may lack a program that hosts need, which is no fault of the key.
    let of_key = problems(&ended).into_iter().filter(|problem| !problem.contains("PATH")).collect::<Vec<_>>();
    assert_eq!(of_key, [] as [&str; 0]);
    assert!(tap.requests().await.is_empty() && lab.fleet.rebuild().record().is_empty());
    let state = lab.folder().join("hosts/ns1/state");
    let runs = fs::read_dir(state.join("runs")).map(Iterator::count).unwrap_or_default();
    assert_eq!(runs, 0, "ns1 has a run on record");
}

#[tokio::test]
async fn records_that_others_can_write_to_are_told() {
    let lab = Lab::start(super::program(), &[]).await.unwrap();
    let records = lab.home().join("state/homelab-deploy/rollouts");
    fs::create_dir_all(&records).unwrap();
    let doctor = async |folder: &Path, mode: u32| {
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        let mut command = lab.operator(&lab.admin).unwrap();
        let ended = Running::start(command.args(["doctor", "--json"])).unwrap().ended().await.unwrap();
        problems(&ended).into_iter().filter(|problem| problem.starts_with("records")).collect::<Vec<_>>()
    };
    for folder in [records.as_path(), records.parent().unwrap()] {
        let told = format!("records: {} can be written to by other users", folder.display());
        assert_eq!(doctor(folder, 0o770).await, [told]);
        assert_eq!(doctor(folder, 0o700).await, [] as [&str; 0]);
    }
}

#[tokio::test]
async fn a_host_whose_role_is_not_on_the_list_is_told_so_and_not_that_its_key_is_another_ones() {
    let stage = Stage::set().unwrap();
    let server = Server::start_with(&stage.folder.path().join("server"), &stage.configuration).await.unwrap();
    let (fleet, seed) = (stage.fleet(), stage.ns1.seed_file());
    let mut command = fleet::command(super::program(), stage.folder.path(), &[]).unwrap();
    command.args(["doctor", "--listener", "--tier", "prod", "--nats-url", server.url()]).arg("--nkey-file").arg(seed);
    command.arg("--fleet").arg(fleet).args(["--hostname", "ns1"]);
    let ended = Running::start(&mut command).unwrap().ended().await.unwrap().expect(1);
    assert!(ended.stdout.contains("give --role as fleet.toml has it"), "{}", ended.stdout);
    let ended = Running::start(command.args(["--role", "dns"])).unwrap().ended().await.unwrap().expect(0);
    assert!(!ended.stdout.contains("problem"), "{}", ended.stdout);
}

#[tokio::test]
async fn two_machines_of_one_name_are_told() {
    let mut lab = Lab::start(super::program(), &["prod.ns1"]).await.unwrap();
    let mut clone = lab.another_fleet("clone").unwrap();
    clone.start(&"prod.ns1".parse().unwrap(), lab.key(&host("ns1")).unwrap(), &[]).unwrap();
    lab.listen_all().await.unwrap();
    crate::attacks::until_answering(&lab, 2).await;
    let mut command = lab.operator(&lab.admin).unwrap();
    let ended = Running::start(command.args(["doctor", "--json"])).unwrap().ended().await.unwrap();
    assert!(problems(&ended).contains(&"ns1: two machines answer to this name".to_owned()), "{ended:?}");
}

#[tokio::test]
async fn a_clock_that_is_ten_minutes_off_is_told_by_how_much() {
    let lab = Lab::start(super::program(), &["prod.ns1"]).await.unwrap();
    for (seconds, told) in [(-600, "its clock is about 10m behind"), (600, "its clock is about 10m ahead of"), (0, "")]
    {
        let mut ns1 = StandIn::connect(&lab, "ns1", "deploy.prod.ns1").await.unwrap();
        let mut command = lab.operator(&lab.admin).unwrap();
        let doctor = Running::start(command.args(["doctor", "--json"])).unwrap();
        // The first message only tries whether the question may be published.
        for _ in 0..2 {
            let call = ns1.roll_call().await.unwrap();
            let token = call["reply_to"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
            let to_us = json!({ "reply_to": format!("deploy.responses.prod.ns1.{token}") });
            let now = homelab_deploy::clock::now() + jiff::SignedDuration::from_secs(seconds);
            let answer = json!({ "hostname": "ns1", "tier": "prod", "now": now.to_string() });
            ns1.answer(&to_us, &answer).await.unwrap();
        }
        let found = problems(&doctor.ended().await.unwrap());
        let clocks: Vec<&String> = found.iter().filter(|problem| problem.contains("clock")).collect();
        assert_eq!(clocks.len(), usize::from(seconds != 0), "{found:?}");
        assert!(clocks.iter().all(|problem| problem.contains(told)), "{found:?}");
    }
}

#[tokio::test]
async fn a_server_of_another_authority_is_told() {
    let stage = Stage::set().unwrap();
    let path = stage.folder.path();
    let (ours, strangers) =
        (Authority::create(&path.join("tls")).unwrap(), Authority::create(&path.join("x")).unwrap());
    let configuration = ours.configuration() + &stage.configuration;
    let server = Server::start_with(&path.join("server"), &configuration).await.unwrap();
    let url = server.url().replace("nats://", "tls://");
    let doctor = async |authority: &Authority| {
        let mut command = fleet::command(super::program(), path, &[]).unwrap();
        command.args(["doctor", "--json", "--discover-window", "200ms", "--nats-url", &url]);
        command.arg("--nkey-file").arg(stage.admin.seed_file()).arg("--tls-ca").arg(authority.certificate());
        problems(&Running::start(&mut command).unwrap().ended().await.unwrap())
    };
    assert_eq!(doctor(&ours).await, [] as [&str; 0]);
    let told = doctor(&strangers).await;
    assert!(told.len() == 1 && told[0].contains("not signed by an authority that is trusted here"), "{told:?}");
}
