//! The module refuses what would end the listener when it starts, at the edges too: a host on which it ends is out of reach.

use std::net::SocketAddr;
use std::str::FromStr;

use homelab_deploy::bus::ServerUrl;
use homelab_deploy::listener::RebuildFlag;
use homelab_deploy::protocol::{FlakeUrl, HostName, SubjectTemplate};

use super::{agree, evaluated};

/// Servers with commas between them.
struct Servers;

impl FromStr for Servers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').try_for_each(|server| server.parse::<ServerUrl>().map(drop)).map(|()| Self)
    }
}

#[test]
fn names_and_subjects_have_an_end() {
    let [longest, too_long] = [253, 254].map(|length| "a".repeat(length));
    agree::<HostName>("isToken", &[&longest, &too_long]);
    let [longest, too_long] = [1024, 1025].map(|length| "a".repeat(length));
    agree::<SubjectTemplate>("isSubjectTemplate", &[&longest, &too_long, &"<hostname>".repeat(200)]);
}

#[test]
fn no_host_of_a_flake_is_an_option_of_ssh() {
    let urls = [
        "git+ssh://-oProxyCommand=x/nixos",
        "git+ssh://git@-x/nixos",
        "git://-x/nixos",
        "git+https://git.example.com/a/-b",
        "git+https://git.example.com/a@-b",
    ];
    agree::<FlakeUrl>("isFlakeUrl", &urls);
    agree::<RebuildFlag>("isRebuildFlag", &["-pother", "-c=x", "-fdefault.nix", "-Ahosts.ns2", "-L", "-Ix=y", "--p"]);
}

#[test]
fn an_address_has_numbers_that_there_are() {
    let addresses = [
        "255.255.255.255:9811",
        "256.0.0.1:9811",
        "127.0.0.01:9811",
        "127.0.0.1:65535",
        "127.0.0.1:65536",
        "127.0.0.1:080",
        "[1:2:3:4:5:6:7:8]:1",
        "[1:2:3:4:5:6:7:8:9]:1",
        "[1:2:3:4:5:6:7:8::]:1",
        "[1:2:3:4:5:6:7::]:1",
        "[1::2::3]:1",
        "[:::]:1",
        "[1]:1",
        "[]:1",
        "[::ffff:127.0.0.1]:1",
        "[::ffff:127.0.0.256]:1",
        "[1:2:3:4:5:6:127.0.0.1]:1",
        "[12345::]:1",
    ];
    agree::<SocketAddr>("isSocketAddress", &addresses);
}

#[test]
fn a_server_is_one_that_can_be_reached() {
    let servers = [
        "tls://nats.example.com:4222",
        "nats://user:password@nats.example.com",
        "nats.example.com, 10.0.0.1:4222",
        "nats://[::1]:4222/",
        "http://nats.example.com",
        "wss://nats.example.com",
        "nats://nats.example.com:65536",
        "nats://nats.example.com:x",
        "nats://a b",
        "nats://",
        "a,",
        "",
    ];
    agree::<Servers>("isNatsUrl false", &servers);

    let complaints = |settings: &str| evaluated::<Vec<String>>(&format!("evaluation.complaints {settings}"));
    for half in [
        r#"{ natsUrl = "tls://nats1.example.com, nats://nats2.example.com"; }"#,
        r#"{ natsUrl = "tls://nats1.example.com,nats2.example.com"; }"#,
        r#"{ natsUrl = "nats.example.com"; tls.ca = "/run/secrets/ca.pem"; }"#,
        r#"{ natsUrl = "nats://h"; tls = { cert = "/run/secrets/cert.pem"; key = "/run/secrets/key.pem"; }; }"#,
    ] {
        let Some(said) = complaints(half) else { return };
        assert!(said.len() == 1 && said[0].contains("natsUrl is"), "{half}: {said:?}");
    }
    let whole =
        r#"{ natsUrl = "tls://nats1.example.com, tls://nats2.example.com:4222"; tls.ca = "/run/secrets/ca.pem"; }"#;
    assert_eq!(complaints(whole), Some(Vec::new()));
}

#[test]
fn the_path_of_a_key_reaches_systemd_as_it_is() {
    let Some(unit) = evaluated::<String>(r#"evaluation.unit { nkeyFile = "/run/100%n"; }"#) else { return };
    assert!(unit.contains("\nLoadCredential=nkey-file:/run/100%%n\n"), "{unit}");
}
