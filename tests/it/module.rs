//! Tests the flake and its NixOS module, evaluated with the few packages of `tests/nixpkgs` in place of nixpkgs.
//!
//! The tests need `nix`, and `systemd-analyze` for the unit. Without these, a test says so and ends.

mod rules;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::str::FromStr;

use homelab_deploy::listener::RebuildFlag;
use homelab_deploy::protocol::{FlakeAttr, FlakeUrl, HostName, SubjectTemplate};
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::support::skip::skip;

/// Runs a program, and returns its output, or `None` if there is no such program.
pub fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            skip(&format!("there is no {program} here"));
            None
        }
        output => Some(output.unwrap()),
    }
}

/// Evaluates an expression over `tests/nixpkgs`, without writing to a store.
fn nix(expression: &str) -> Option<Output> {
    let expression = format!("with import ./tests/nixpkgs/project.nix {{ }}; {expression}");
    run("nix-instantiate", &["--eval", "--strict", "--json", "--store", "dummy://", "--expr", &expression])
}

/// Returns the value of a Nix expression over `tests/nixpkgs`.
fn evaluated<T: serde::de::DeserializeOwned>(expression: &str) -> Option<T> {
    let output = nix(expression)?;
    assert!(output.status.success(), "{expression}: {}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Writes the listener's unit file into a folder with its program.
fn unit_file(folder: &Path) -> Option<PathBuf> {
    let program = folder.join("homelab-deploy/bin/homelab-deploy");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    symlink(super::program(), program).unwrap();
    let settings = r#"{ metrics.listen = "127.0.0.1:9811"; }"#;
    let root = folder.display();
    let unit = format!("import ./tests/nixpkgs/unit.nix {{ settings = {settings}; root = \"{root}\"; }}");
    let file = folder.join("homelab-deploy-listener.service");
    fs::write(&file, evaluated::<String>(&unit)?).unwrap();
    Some(file)
}

/// Asserts that the module turns these settings of a fleet into a listener on this host, and into none on another.
pub fn takes_settings_of(settings: &Path, host: &str) {
    let listener = |name: &str| {
        let modules =
            format!("[ outputs.nixosModules.default {} {{ networking.hostName = {name:?}; }} ]", settings.display());
        let nixpkgs = "(import ./tests/nixpkgs { })";
        let system = format!("{nixpkgs}.lib.nixosSystem {{ system = \"x86_64-linux\"; modules = {modules}; }}");
        evaluated::<Value>(&format!(
            "let l = ({system}).config.services.homelab-deploy.listener; in if l.enable then removeAttrs l [ \"package\" ] else null"
        ))
    };
    let Some(on_host) = listener(host) else { return };
    assert_eq!(on_host["hostname"], host);
    assert!(on_host["publicKey"].as_str().is_some_and(|key| key.starts_with('U')), "{on_host}");
    assert_eq!(listener("another"), Some(Value::Null));
}

#[test]
fn the_flake_has_what_it_promises_and_all_of_it_evaluates() {
    let Some(names) = evaluated::<BTreeMap<String, BTreeMap<String, Vec<String>>>>("names") else { return };
    let line = |(kind, names): (&String, &Vec<String>)| format!("{kind}: {}", names.join(", "));
    let of = |system: &str| {
        names[system].iter().filter(|(_, names)| !names.is_empty()).map(line).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(of("x86_64-linux"), @r"
    apps: default, demo
    checks: clippy, fmt, module, package, rollout
    devShells: default
    packages: default, demo
    ");
    assert_eq!(names["aarch64-linux"], names["x86_64-linux"]);
    insta::assert_snapshot!(of("aarch64-darwin"), @r"
    apps: default
    devShells: default
    packages: default
    ");
}

#[test]
fn nixpkgs_is_locked_and_the_lock_is_that_of_the_flake() {
    let read = |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let lock: Value = serde_json::from_str(&read("flake.lock")).unwrap();
    let nixpkgs = &lock["nodes"]["nixpkgs"];
    let original = |key: &str| nixpkgs["original"][key].as_str().unwrap().to_owned();
    let url = format!("{}:{}/{}/{}", original("type"), original("owner"), original("repo"), original("ref"));
    assert!(read("flake.nix").contains(&format!("inputs.nixpkgs.url = \"{url}\";")), "{url}");
    for (key, length) in [("rev", 40), ("narHash", 51)] {
        assert_eq!(nixpkgs["locked"][key].as_str().unwrap().len(), length, "{key}");
    }
    assert_eq!(lock["version"], 7);
}

#[test]
fn settings_with_a_mistake_are_refused_in_a_sentence() {
    let Some(refusals) = evaluated::<BTreeMap<String, Vec<String>>>("evaluation.refusals") else { return };
    let said: Vec<String> = refusals.into_iter().map(|(what, said)| format!("{what}: {}", said.join("\n"))).collect();
    insta::assert_snapshot!(said.join("\n").replace("services.homelab-deploy.listener", "…"), @r#"
    another-host: ….nixosRebuildFlags is "--target-host=ns2", which makes nixos-rebuild deploy something else than a request asks for, or somewhere else.
    dotted-hostname: ….hostname is "ns1.example.com", which cannot be part of a NATS subject: it must not be empty, contain dots, wildcards or white space, or be one of all, role, responses, discover, operators.
    firewall-without-metrics: ….metrics.openFirewall opens no port: set metrics.listen, too.
    flake-without-revisions: ….flakeUrl is "path:/etc/nixos", which no revision can be added to: give one that begins with git+https://, git+ssh://, git+http://, git+file:///, github:, gitlab: or sourcehut:, without #, ref or rev, and with % and two digits for characters that no URL has.
    half-a-certificate: ….tls.cert and tls.key belong together: set both or neither.
    key-in-store: ….nkeyFile and tls.key must not be in the Nix store, where everyone can read them: give the path as a string, of a file that only root can read.
    metrics-by-name: ….metrics.listen is "localhost:9811", which is no IP address with a port, as 127.0.0.1:9811 and [::]:9811 are.
    no-hostname: ….hostname is "", which cannot be part of a NATS subject: it must not be empty, contain dots, wildcards or white space, or be one of all, role, responses, discover, operators.
    pinned-flake: ….flakeUrl is "git+https://git.example.com/nixos?ref=main", which no revision can be added to: give one that begins with git+https://, git+ssh://, git+http://, git+file:///, github:, gitlab: or sourcehut:, without #, ref or rev, and with % and two digits for characters that no URL has.
    quoted-attribute: ….flakeAttr is "ns1"", which is no name in nixosConfigurations: it consists of letters, digits, _, ., + and -, and begins with none of the last three.
    relative-key: ….nkeyFile is "secrets/listener.seed", which is relative, and a service starts in no folder of yours: give an absolute path.
    reserved-hostname: ….hostname is "operators", which cannot be part of a NATS subject: it must not be empty, contain dots, wildcards or white space, or be one of all, role, responses, discover, operators.
    subjects-without-role: ….deploySubjects leaves nothing to listen on: set role, or a subject without <role>.
    unknown-placeholder: ….deploySubjects is "deploy.<tier>.<host>", which is no NATS subject: it consists of words with dots between them, and the only ones in angle brackets are <hostname>, <tier>, <role>.
    wildcard-role: ….role is "d*", which cannot be part of a NATS subject: it must not be empty, contain dots, wildcards or white space, or be one of all, role, responses, discover, operators.
    "#);
}

#[test]
fn settings_of_another_type_are_an_error_that_names_the_option() {
    let Some(kinds) = evaluated::<Vec<String>>("builtins.attrNames evaluation.mistyped") else { return };
    let errors: Vec<String> = kinds.iter().map(|kind| format!("{kind}: {}", error(kind))).collect();
    insta::assert_snapshot!(errors.join("\n").replace("services.homelab-deploy.listener", "…"), @r#"
    environment: A definition for option `….environment.PROXIES' is not of type `null or string or absolute path or package'. Definition values: ["a"]
    public-key: A definition for option `….publicKey' is not of type `null or string matching the pattern U[A-Z2-7]{55}'. Definition values: "SUAB"
    system-key: A definition for option `….systems.trustedKeys' is not of type `string matching the pattern [^:[:space:]]+:[A-Za-z0-9+/]{43}='. Definition values: "fleet-1"
    tier: A definition for option `….tier' is not of type `one of "test", "prod"'. Definition values: "staging"
    timeout: A definition for option `….timeout' is not of type `positive integer, meaning >0'. Definition values: 0
    unknown: The option `….natsurl' does not exist.
    user-units: A definition for option `….userUnits' is not of type `one of "fail", "warn"'. Definition values: "ignore"
    "#);
}

/// Returns the error of Nix for settings of another type.
fn error(kind: &str) -> String {
    let output = nix(&format!("evaluation.mistyped.{kind}")).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let last = stderr.lines().map(str::trim_start).filter_map(|line| line.strip_prefix("error: ")).next_back();
    last.unwrap_or_default().to_owned()
}

#[test]
fn what_the_flake_checks_holds_here_too() {
    assert_ne!(evaluated("evaluation.holds"), Some(false));
}

#[test]
fn the_table_of_options_is_up_to_date() {
    let Some(rows) = evaluated::<String>("evaluation.options") else { return };
    let known = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/options.md")).unwrap();
    let (_, table) = known.split_once("| --- | --- | --- | --- |\n").unwrap();
    assert_eq!(rows, table, "look at it, and then: scripts/options >docs/options.md");
}

/// Asserts that a rule of the module accepts the same texts as the listener.
fn agree<T: FromStr>(rule: &str, texts: &[&str]) {
    let list = serde_json::to_string(texts).unwrap().replace("${", "''${");
    let rules = format!("map ((import ./nixos/rules.nix {{ inherit (import ./tests/nixpkgs {{ }}) lib; }}).{rule})");
    let Some(takes) = evaluated::<Vec<bool>>(&format!("{rules} (builtins.fromJSON ''{list}'')")) else { return };
    for (text, module) in texts.iter().zip(takes) {
        assert_eq!(module, text.parse::<T>().is_ok(), "the module and the listener disagree about {rule} {text:?}");
    }
}

#[test]
fn the_module_takes_what_the_listener_takes() {
    let urls = [
        "git+https://git.example.com/nixos",
        "git+https://user:token@git.example.com/nixos?dir=a%20b&shallow=1",
        "git+ssh://git@git.example.com:22/nixos.git",
        "git+http://git/nixos",
        "git+file:///srv/nixos",
        "git://git.example.com/nixos",
        "github:owner/nixos",
        "github:owner/nixos/main",
        "gitlab:group%2Fsub/nixos?host=git.example.com",
        "sourcehut:~owner/nixos",
        "git+https://git.example.com/nixos?ref=main",
        "git+https://git.example.com/nixos?dir=a&rev=8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b",
        "git+https://git.example.com/nixos?rev",
        "git+https://git.example.com/nixos?prefix=ref&xref=1",
        "git+https://git.example.com/nixos#ns1",
        "git+https://git.example.com/a?b?ref=c",
        "git+https://git.example.com/m\u{fc}ller",
        "git+https://git.example.com/a b",
        "path:/etc/nixos",
        "/etc/nixos",
        "nixos",
        "git+https:git.example.com",
        "git+https://",
        "github:owner",
        "",
    ];
    agree::<FlakeUrl>("isFlakeUrl", &urls);
    let attributes =
        ["ns1", "ns1.example.com", "_x", "a+b-c", "-v", ".a", "a b", "a\"b", "${a}", "a#b", "m\u{fc}ller", ""];
    agree::<FlakeAttr>("isFlakeAttr", &attributes);
    let flags = ["--show-trace", "--flake", "--flake=x", "--flakes", "-p", "-L", "--target-host=ns2", "cores", ""];
    agree::<RebuildFlag>("isRebuildFlag", &flags);
    let names =
        ["ns1", "m\u{fc}ller", "a.b", "a*", "a>", "a b", "", "all", "role", "responses", "discover", "operators"];
    agree::<HostName>("isToken", &names);
    let subjects =
        ["deploy.<tier>.<hostname>", "a.<role>.b", "<tier>", "a.<host>", "a..b", ".a", "a.", "a.*", "a.>", "a b", ""];
    agree::<SubjectTemplate>("isSubjectTemplate", &subjects);
    let addresses = [
        "127.0.0.1:9811",
        "0.0.0.0:1",
        "[::]:9811",
        "[2001:db8::1]:9811",
        "localhost:9811",
        "127.0.0.1",
        ":9811",
        "::1:9811",
    ];
    agree::<SocketAddr>("isSocketAddress", &addresses);
}

/// A fleet of two hosts and its deployers.
struct Fleet {
    hosts: [String; 2],
    admin: String,
    tester: String,
}

impl Fleet {
    fn new() -> Self {
        let key = || KeyPair::new_user().public_key();
        Self { hosts: [key(), key()], admin: key(), tester: key() }
    }

    /// Returns the authorization that the flake makes from the hosts' settings.
    fn by_nix(&self) -> Option<Value> {
        let Self { hosts: [ns1, web], admin, tester } = self;
        evaluated(&format!(
            r#"outputs.lib.natsAuthorization {{
                nixosConfigurations = evaluation.fleet {{
                    ns1.publicKey = "{ns1}";
                    web = {{ publicKey = "{web}"; tier = "test"; role = null; }};
                    off.enable = false;
                }} // {{ other.config = {{ }}; }};
                admins = [ "{admin}" ];
                testDeployers = [ "{tester}" ];
            }}"#
        ))
    }

    /// Returns the users in the output of `nats-config`, in the same form.
    fn by_nats_config(&self) -> Vec<Value> {
        let Self { hosts: [ns1, web], admin, tester } = self;
        let output = Command::new(super::program())
            .args(["nats-config", "--listener", &format!("prod.ns1.dns={ns1}"), "--listener"])
            .args([&format!("test.web={web}"), "--admin", admin, "--test-deployer", tester])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter_map(|line| line.trim().split_once(": "));
        let values = |name: &str| {
            let found = lines.clone().filter(|(key, _)| *key == name);
            found.map(|(_, value)| serde_json::from_str(value).unwrap()).collect::<Vec<Value>>()
        };
        let (keys, publish, subscribe) = (values("nkey"), values("publish"), values("subscribe"));
        let permissions = publish.into_iter().zip(subscribe);
        let user = |(nkey, (publish, subscribe))| json!({ "nkey": nkey, "permissions": { "publish": publish, "subscribe": subscribe } });
        keys.into_iter().zip(permissions).map(user).collect()
    }
}

#[test]
fn the_flake_and_the_program_give_keys_the_same_permissions() {
    let fleet = Fleet::new();
    let Some(authorization) = fleet.by_nix() else { return };
    assert_eq!(authorization, json!({ "users": fleet.by_nats_config() }));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nats.conf");
    fs::write(&file, json!({ "authorization": authorization }).to_string()).unwrap();
    let server = std::env::var_os("NATS_SERVER").unwrap_or_else(|| "nats-server".into());
    let Some(tested) = run(server.to_str().unwrap(), &["-t", "-c", file.to_str().unwrap()]) else { return };
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
}

#[test]
fn a_host_without_its_public_key_is_named_and_no_key_is_two_users() {
    let said = |expression: &str| Some(String::from_utf8(nix(expression)?.stderr).unwrap());
    let Some(keyless) =
        said("outputs.lib.natsAuthorization { nixosConfigurations = evaluation.fleet { ns1 = { }; }; }")
    else {
        return;
    };
    assert!(keyless.contains("publicKey of ns1"), "{keyless}");
    let twice = said(r#"outputs.lib.natsAuthorization { nixosConfigurations = { }; admins = [ "U" "U" ]; }"#).unwrap();
    assert!(twice.contains("two users have the same key"), "{twice}");
}

#[test]
fn the_machine_of_an_operator_has_server_aliases_and_plans() {
    let Some(machine) = evaluated::<Value>("evaluation.operator") else { return };
    insta::assert_snapshot!(serde_json::to_string_pretty(&machine).unwrap(), @r#"
    {
      "packages": [
        "homelab-deploy"
      ],
      "plans": {
        "homelab-deploy/plans/sunday.toml": "sunday.toml"
      },
      "variables": {
        "HOMELAB_DEPLOY_ALIAS_PROD_DNS": "deploy.prod.role.dns",
        "HOMELAB_DEPLOY_NATS_URL": "tls://nats.example.com:4222",
        "HOMELAB_DEPLOY_NKEY_FILE": "$HOME/ops.seed",
        "HOMELAB_DEPLOY_PLANS_DIR": "/etc/homelab-deploy/plans"
      }
    }
    "#);
}

#[test]
fn what_the_listener_is_told_reaches_it() {
    let settings = r#"{
        flakeAttr = "ns1.lab"; nixosRebuildFlags = [ "--option" "cores" "2" ]; userUnits = "warn"; useCredentials = false;
        systems.trustedKeys = [ "a-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" "b:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
        environment = { HOME = null; CERTIFICATES = /etc/ssl; }; tls.ca = "/run/100%/ca.pem";
    }"#;
    let Some(unit) = evaluated::<String>(&format!("evaluation.unit {settings}")) else { return };
    let lines = |name: &str| unit.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect::<Vec<_>>();
    let [start] = &lines("ExecStart=")[..] else { panic!("{unit}") };
    for words in [
        r#""--flake-attr" "ns1.lab""#,
        r#""--nixos-rebuild-flag=--option" "--nixos-rebuild-flag=cores" "--nixos-rebuild-flag=2""#,
        r#""--user-units" "warn""#,
        r#""--system-key" "a-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" "--system-key" "b:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=""#,
        r#"--nkey-file "/run/secrets/listener.seed" --tls-ca "/run/100%%/ca.pem""#,
    ] {
        assert!(start.contains(words), "{start}");
    }
    assert_eq!(lines("LoadCredential"), [""; 0]);
    assert_eq!(lines("ProtectHome"), ["ProtectHome=read-only"], "a key may be in root's home");
    assert_eq!(lines(r#"Environment="HOME"#), [""; 0]);
    assert_eq!(lines(r#"Environment="CERT"#), [r#"Environment="CERTIFICATES=/etc/ssl""#]);
    let ports = |settings: &str| evaluated::<Vec<u16>>(&format!("evaluation.ports {settings}")).unwrap();
    assert_eq!(ports(r#"{ metrics = { listen = "[::]:9811"; openFirewall = true; }; }"#), [9811]);
    assert_eq!(ports(r#"{ metrics.listen = "[::]:9811"; }"#), [0; 0]);
}

#[test]
fn root_looks_at_a_host_with_one_command() {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("homelab-deploy/bin");
    fs::create_dir_all(&bin).unwrap();
    symlink(super::program(), bin.join("homelab-deploy")).unwrap();
    let settings = r#"{ natsUrl = "nats://127.0.0.1:1"; nkeyFile = "/it's/secret"; }"#;
    let root = folder.path().display();
    let script = format!("(import ./tests/nixpkgs/project.nix {{ root = \"{root}\"; }}).evaluation.doctor {settings}");
    let Some(script) = evaluated::<String>(&script) else { return };
    let output =
        Command::new("sh").args(["-c", &script, "doctor", "--json"]).env_remove("HOMELAB_DEPLOY_JSON").output();
    let output = output.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && told.contains("cannot read the seed file /it's/secret"), "{output:?}");
}

#[test]
fn the_unit_is_the_one_that_was_looked_at() {
    let Some(unit) = evaluated::<String>("evaluation.unit { }") else { return };
    let known = concat!(env!("CARGO_MANIFEST_DIR"), "/nixos/homelab-deploy-listener.service");
    assert_eq!(unit, fs::read_to_string(known).unwrap(), "look at it, and then: scripts/unit >{known}");
}

#[test]
fn systemd_has_nothing_to_say_against_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let Some(unit) = unit_file(folder.path()) else { return };
    let Some(verified) = run("systemd-analyze", &["verify", "--man=no", unit.to_str().unwrap()]) else { return };
    assert!(verified.status.success(), "{verified:?}");
    assert_eq!(String::from_utf8(verified.stderr).unwrap(), "");
}

#[test]
fn the_listener_may_do_little_beside_its_work() {
    let folder = tempfile::tempdir().unwrap();
    let Some(unit) = unit_file(folder.path()) else { return };
    // The threshold is in tenths: an exposure above 3.0 fails, and a service without any sandbox has 9.6.
    let arguments = ["security", "--no-pager", "--offline=true", "--threshold=30", unit.to_str().unwrap()];
    let Some(judged) = run("systemd-analyze", &arguments) else { return };
    let table = String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success(), "{table}{}", String::from_utf8_lossy(&judged.stderr));
}
