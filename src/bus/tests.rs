use std::path::Path;

use miette::Diagnostic;
use nkeys::KeyPair;

use super::*;

fn settings(folder: &Path, servers: &[&str]) -> Settings {
    use std::os::unix::fs::PermissionsExt;
    let nkey_file = folder.join("key");
    std::fs::write(&nkey_file, KeyPair::new_user().seed().unwrap()).unwrap();
    std::fs::set_permissions(&nkey_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    Settings {
        servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
        nkey_file,
        seed_readers: SeedReaders::Refuse,
        ca_file: None,
        client_cert: None,
        name: "test".to_owned(),
        subscription_capacity: SUBSCRIPTION_CAPACITY,
    }
}

#[test]
fn addresses_are_shown_whole_but_for_the_password() {
    let shown = |text: &str| text.parse::<ServerUrl>().map(|url| url.to_string());
    assert_eq!(shown("nats.example.com").unwrap(), "nats://nats.example.com:4222");
    assert_eq!(shown(" tls://ops:s3cret@h:4443 ").unwrap(), "tls://h:4443");
    assert_eq!(shown("nats://[::1]:4222").unwrap(), "nats://[::1]:4222");
    for refused in ["", "http://h", "ws://h", "nats://", "nats://a b"] {
        assert!(shown(refused).is_err(), "{refused:?}");
    }
}

#[tokio::test]
async fn an_unreachable_server_is_named_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), &["127.0.0.1:1", "nats://256.256.256.256"]);
    let BusError::Unreachable(attempts) = Bus::connect(&settings).await.unwrap_err() else { panic!("another error") };
    let whys: Vec<&str> = attempts.iter().map(|attempt| attempt.why.as_str()).collect();
    assert_eq!(attempts.len(), 2);
    assert!(whys[0].contains("refused"), "{whys:?}");
}

#[test]
fn the_addresses_of_a_name_share_the_time() {
    assert_eq!(
        [0, 1, 2, 4, 5, 100].map(|addresses| share(addresses).as_millis()),
        [5000, 5000, 2500, 1250, 1000, 1000]
    );
}

#[tokio::test]
async fn a_missing_certificate_is_named_before_anything_is_tried() {
    let folder = tempfile::tempdir().unwrap();
    let ca_file = Some("/nowhere/ca.pem".into());
    let settings = Settings { ca_file, ..settings(folder.path(), &["tls://127.0.0.1:1"]) };
    let error = Bus::connect_patiently(&settings).await.unwrap_err();
    insta::assert_snapshot!(error, @"cannot read /nowhere/ca.pem: No such file or directory (os error 2)");
}

#[test]
fn tls_is_required_of_all_servers_or_of_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("both.pem");
    let pem = |what| format!("-----BEGIN {what}-----\nAA==\n-----END {what}-----\n");
    std::fs::write(&file, pem("CERTIFICATE") + &pem("PRIVATE KEY")).unwrap();
    let tls = |settings: &Settings| requires_tls(settings).map_err(|error| error.to_string());
    assert_eq!(tls(&settings(folder.path(), &["a", "nats://b"])), Ok(false));

    let both = settings(folder.path(), &["tls://a", "tls://b"]);
    assert_eq!(tls(&both), Ok(true));
    let (ca, cert) = (Some(file.clone()), Some(ClientCert { cert: file.clone(), key: file.clone() }));
    assert_eq!(tls(&Settings { ca_file: ca.clone(), client_cert: cert.clone(), ..both }), Ok(true));

    let mixed = settings(folder.path(), &["tls://a", "[::1]:4333"]);
    insta::assert_snapshot!(tls(&mixed).unwrap_err(), @"nats://[::1]:4333 is an address without TLS, but tls://a:4222 requires TLS");
    let plain = settings(folder.path(), &["nats://u:p@b"]);
    for with_file in [Settings { ca_file: ca, ..plain.clone() }, Settings { client_cert: cert, ..plain }] {
        let error = requires_tls(&with_file).unwrap_err();
        let file = file.display();
        assert_eq!(error.to_string(), format!("nats://b:4222 is an address without TLS, but {file} requires TLS"));
        let help = error.help().unwrap().to_string();
        assert!(help.starts_with("write tls://b:4222: "), "{help}");
    }
}

#[test]
fn a_refused_key_is_told_by_its_public_half() {
    let error = BusError::Refused { server: "tls://u:p@nats1".parse().unwrap(), public_key: "UABC".to_owned() };
    insta::assert_snapshot!(error, @"tls://nats1:4222 refuses this key");
    insta::assert_snapshot!(error.help().unwrap(), @"add its public key to a user in the server's configuration: { nkey: UABC }. A server that identifies users by JWTs, as in .creds files, does not accept it");
}
