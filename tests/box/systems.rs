//! Systems that were built elsewhere: a host without git, whose flake nobody serves, has them from a cache over http, with
//! signatures that its own Nix checks.

use std::fs;

use serde_json::{Value, json};

use crate::built_elsewhere::Fetching;
use crate::deployer::{Deployer, each};
use crate::stage::{CURRENT, assert_completed, assert_failed, deploy};
use crate::survival::KILL;

#[tokio::test]
async fn a_host_runs_nothing_but_what_a_key_that_it_trusts_has_signed_for_it() {
    let Some(mut fetching) = Fetching::set().await else { return };
    let trusting = fetching.make_keys();
    let good = fetching.publish("good", "", "fleet");
    let mut deployer = Deployer::connect(&fetching.stage.lab).await.unwrap();

    // A host that trusts nobody says how it could.
    let end = fetching.ask(&mut deployer, "no-key", &good, &[]).await;
    assert_eq!((&end["status"], &end["error"]), (&json!("rejected"), &json!("untrusted")), "{end}");
    assert!(end["message"].as_str().unwrap().contains("systems.trustedKeys"), "{end}");
    assert_completed(&deploy(&fetching.stage, "evaluated", &trusting).await, &[]);
    let features = fetching.stage.until_present().await.unwrap().features;
    assert!(
        ["system", "fetch"].iter().all(|name| features.iter().any(|feature| feature.as_str() == *name)),
        "{features:?}"
    );

    let others = fetching.publish("others", "", "other");
    let flipped = fetching.publish("flipped", "", "fleet");
    let lost = fetching.publish("lost", "", "fleet");
    let of_ns2 = fetching.publish("of-ns2", "echo ns2 >etc/hostname", "fleet");
    let unsigned = fetching.build("unsigned", "", "echo $system");
    let named_after_content =
        fetching.stage.machine.run("cp -r /run/current-system/. /evil; nix-store --add /evil").unwrap();
    let archive = fetching.archive(&flipped);
    let mut bytes = fs::read(&archive).unwrap();
    let at = bytes.windows(7).position(|window| window == b"flipped").unwrap();
    bytes[at] ^= 1;
    fs::write(&archive, bytes).unwrap();
    let archive = fetching.archive(&lost);
    fs::rename(&archive, archive.with_extension("away")).unwrap();
    fetching.only_fetch();
    let before = (fetching.versions(), fetching.stage.activations());

    for (system, error, words) in [
        (&others, "untrusted", "is not signed by a key that may sign systems for this host: fleet-1"),
        (&flipped, "untrusted", "hash mismatch"),
        (&lost, "not_available", "does not exist in binary cache"),
        (
            &"/nix/store/0c1yv9bqqmbw3c3n5g7lq6b4rd5hfk2z-nixos-system-ns1".to_owned(),
            "not_available",
            "no cache of this host has",
        ),
        (&of_ns2, "wrong_host", "is the system of ns2, and this host is ns1"),
        (&unsigned, "untrusted", "is not signed by a key"),
        (&named_after_content, "untrusted", "is named after its content"),
    ] {
        let end = fetching
            .ask(
                &mut deployer,
                &format!("refused {system}").replace(' ', "-"),
                system,
                &[("confirm_timeout_s", json!(5))],
            )
            .await;
        assert_failed(&end, error, &[words]);
        assert_eq!(end["rolled_back"], Value::Null, "{end}");
        assert_eq!((fetching.versions(), fetching.stage.activations()), before, "nothing is activated: {end}");
    }

    // What is back is found at once, though Nix remembers what was not there.
    fs::rename(archive.with_extension("away"), &archive).unwrap();
    let end = fetching.ask(&mut deployer, "fetched", &lost, &[("action", json!("fetch"))]).await;
    assert_completed(&end, &["fetched"]);
    assert_eq!((fetching.versions(), fetching.stage.activations()), before, "it is only fetched");
    fetching.stage.machine.run(&format!("nix-store --gc >/dev/null 2>&1; nix-store --check-validity {lost}")).unwrap();
    for (id, system, version) in [("found", &lost, "lost"), ("good", &good, "good")] {
        let end = fetching.ask(&mut deployer, id, system, &[]).await;
        assert_completed(&end, &["switched to generation"]);
        assert_eq!(end["system"], json!(system), "{end}");
        assert_eq!(fetching.versions(), (version.to_owned(), version.to_owned()));
    }
    // The host has built it itself, and the cache has the same with a signature.
    let built = fetching.publish("built-here", "", "fleet");
    assert_eq!(fetching.build("built-here", "", "echo $system"), built);
    assert_completed(&fetching.ask(&mut deployer, "built-here", &built, &[("action", json!("test"))]).await, &[]);
    assert_eq!(fetching.versions(), ("built-here".to_owned(), "good".to_owned()));
    fetching.assert_nothing_evaluated();
    let running = fetching.stage.machine.run(&format!("readlink {CURRENT}")).unwrap();
    assert_eq!(fetching.stage.until_present().await.unwrap().system, Some(running));
}

/// A change with which the activation waits at the gate, but not when the system is booted.
const GATED: &str =
    "echo 'touch /run/at-gate; until [ $1 = boot ] || [ -e /run/gate-open ]; do sleep 0.05; done' >>activate";

/// A change with which the listener looks for the server where there is none.
const CUT_OFF: &str = "sed -i 's,nats://[^\"]*,nats://127.0.0.1:1,' etc/systemd/system/homelab-deploy-listener.service";

#[tokio::test]
async fn a_run_that_fetches_survives_what_any_run_survives() {
    let Some(mut fetching) = Fetching::set_trusting().await else { return };
    let mut deployer = Deployer::connect(&fetching.stage.lab).await.unwrap();
    let [first, gated, next, cut_off, third] =
        [("first", ""), ("gated", GATED), ("next", ""), ("cut-off", CUT_OFF), ("third", "")]
            .map(|(version, change)| fetching.publish(version, change, "fleet"));
    let mut wire = fetching.stage.overhear().await.unwrap();
    let runs = |version: &str| (version.to_owned(), version.to_owned());

    // The listener is killed while the host fetches, and started anew while it activates.
    fetching.stage.machine.run("touch /run/gated-fetch").unwrap();
    let restart = "systemctl restart homelab-deploy-listener";
    for (system, version, end) in [(&first, "first", KILL), (&gated, "gated", restart)] {
        fetching.begin(&deployer, version, system, &[]).await;
        fetching.stage.until_at_gate().await;
        fetching.stage.machine.run(end).unwrap();
        fetching.stage.until_present().await.unwrap();
        fetching.stage.open_gate();
        assert_completed(&deployer.hear_final().await.unwrap(), &["switched to generation"]);
        assert_eq!(fetching.versions(), runs(version));
        fetching.stage.close_gate();
    }
    assert_eq!(each(&fetching.stage.finals(&mut wire).await, "id"), ["first", "gated"]);

    // The host cannot be reached while it fetches, activates and ends.
    fetching.stage.machine.run("touch /run/gated-fetch").unwrap();
    fetching.begin(&deployer, "next", &next, &[]).await;
    fetching.stage.until_at_gate().await;
    fetching.stage.lab.server.stop();
    fetching.stage.open_gate();
    fetching.stage.until("the run is over", "grep --quiet next /var/lib/homelab-deploy/runs/*/final.json").await;
    fetching.stage.lab.server.restart().await.unwrap();
    fetching.stage.until_present().await.unwrap();
    assert_completed(&fetching.ask(&mut deployer, "next", &next, &[]).await, &["switched to generation"]);
    fetching.stage.close_gate();

    // Nobody hears from the host any more.
    let mut deployer = Deployer::connect(&fetching.stage.lab).await.unwrap();
    let end = fetching.ask(&mut deployer, "cut-off", &cut_off, &[("confirm_timeout_s", json!(2))]).await;
    assert_failed(&end, "not_confirmed", &[]);
    assert_eq!((&end["rolled_back"], &end["system"]), (&json!(true), &json!(next)), "{end}");
    assert_eq!(fetching.versions(), runs("next"));

    // The host reboots while it fetches, and while it activates.
    fetching.stage.machine.run("touch /run/gated-fetch").unwrap();
    fetching.begin(&deployer, "third", &third, &[]).await;
    fetching.stage.until_at_gate().await;
    fetching.stage.reboot().await;
    assert_failed(&deployer.hear_final().await.unwrap(), "interrupted", &[]);
    assert_eq!(fetching.versions(), runs("next"), "nothing was activated");
    fetching.begin(&deployer, "gated-again", &gated, &[]).await;
    fetching.stage.until_at_gate().await;
    fetching.stage.reboot().await;
    assert_failed(&deployer.hear_final().await.unwrap(), "interrupted", &[]);
    fetching.assert_nothing_evaluated();
}
