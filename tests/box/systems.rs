//! Tests systems that were built elsewhere: a host without git, whose flake is not served, fetches them from a cache
//! over http, and its own Nix checks their signatures.

use std::collections::BTreeMap;
use std::fs;

use homelab_deploy::protocol::Feature;
use serde_json::{Value, json};

use crate::built_elsewhere::{Fetching, assert_nothing_evaluated, only_fetch};
use crate::deployer::{Deployer, each};
use crate::machine::Machine;
use crate::stage::{CURRENT, PROFILE, assert_completed, assert_failed, deploy, until};
use crate::survival::KILL;

#[tokio::test]
async fn a_host_runs_nothing_but_what_a_key_that_it_trusts_has_signed_for_it() {
    let Some(mut fetching) = Fetching::set().await else { return };
    let trusting = fetching.make_keys();
    let good = fetching.publish("good", "", "fleet");
    let mut deployer = Deployer::connect(&fetching.stage.lab).await.unwrap();

    // A host without trusted keys does not announce these features.
    let report = fetching.stage.until_present().await.unwrap();
    assert!(!report.has(&Feature::System) && !report.has(&Feature::Fetch), "{report:?}");
    let end = fetching.ask(&mut deployer, "no-key", &good, &[]).await;
    assert_eq!((&end["status"], &end["error"]), (&json!("rejected"), &json!("untrusted")), "{end}");
    assert!(end["message"].as_str().unwrap().contains("systems.trustedKeys"), "{end}");
    assert_completed(&deploy(&fetching.stage, "evaluated", &trusting).await, &[]);
    let report = fetching.stage.until_present().await.unwrap();
    assert!([Feature::System, Feature::Fetch].iter().all(|feature| report.has(feature)), "{report:?}");

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

    // A restored file is found at once, although Nix remembers that it was missing.
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
    // The host has built this system itself, and the cache has it with a signature.
    let built = fetching.publish("built-here", "", "fleet");
    assert_eq!(fetching.build("built-here", "", "echo $system"), built);
    assert_completed(&fetching.ask(&mut deployer, "built-here", &built, &[("action", json!("test"))]).await, &[]);
    assert_eq!(fetching.versions(), ("built-here".to_owned(), "good".to_owned()));
    fetching.assert_nothing_evaluated();
    let running = fetching.stage.machine.run(&format!("readlink {CURRENT}")).unwrap();
    assert_eq!(fetching.stage.until_present().await.unwrap().system, Some(running));
}

/// A change that makes the activation wait at the gate, except during boot.
const GATED: &str =
    "echo 'touch /run/at-gate; until [ $1 = boot ] || [ -e /run/gate-open ]; do sleep 0.05; done' >>activate";

/// A change with which the listener connects to an address without a server.
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

    // The listener is killed while the host fetches, and restarted while the host activates.
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

    // The host can no longer be reached.
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

#[tokio::test]
async fn hosts_without_git_roll_out_in_waves_from_one_map() {
    let Some(mut fetching) = Fetching::set().await else { return };
    let trusting = fetching.make_keys();
    let others = ["ns2", "ns3"].map(|name| fetching.stage.boot(name, &trusting));
    assert_completed(&deploy(&fetching.stage, "evaluated", &trusting).await, &[]);
    let commit = fetching.stage.push(&format!("{}\nbox.activation = \"# new\";", fetching.trust()));
    let systems: Vec<_> = ["ns1", "ns2", "ns3"].map(|host| (host, fetching.publish_of(host, &commit))).into();
    for other in &others {
        until(other, "the host listens", "journalctl --unit homelab-deploy-listener | grep --quiet 'listening on'")
            .await;
        fetching.believe(other);
        only_fetch(other);
    }
    fetching.only_fetch();
    let map = json!({ "commit": commit, "systems": systems.iter().cloned().collect::<BTreeMap<_, _>>() });
    let home = fetching.stage.lab.home();
    fs::write(home.join("systems.json"), map.to_string()).unwrap();
    let waves = "[[wave]]\ntargets = 'prod.ns1'\n[[wave]]\ntargets = ['prod.ns2', 'prod.ns3']\nmax_parallel = 1\n";
    let (map, plan) = (home.join("systems.json"), home.join("plan.toml"));
    let apply = ["apply", "--yes", plan.to_str().unwrap(), "--systems", map.to_str().unwrap()];
    let run = |machine: &Machine| machine.run(&format!("cat {CURRENT}/nixos-version {PROFILE}/nixos-version")).unwrap();
    let (old, new) = (format!("{trusting}\n{trusting}"), format!("{commit}\n{commit}"));
    let hosts = |fetching: &Fetching| [run(&fetching.stage.machine), run(&others[0]), run(&others[1])];

    // The cache has lost the system of the second wave's first host. If all hosts fetch first, no host is changed.
    let archive = fetching.archive(&systems[1].1);
    fs::rename(&archive, archive.with_extension("away")).unwrap();
    fs::write(&plan, format!("stage = true\n{waves}")).unwrap();
    let ended = fetching.stage.operator(&apply).ended().await.unwrap().expect(1);
    ended.told("does not exist in binary cache");
    assert_eq!(hosts(&fetching), [old.clone(), old.clone(), old.clone()]);
    fs::write(&plan, waves).unwrap();
    let ended = fetching.stage.operator(&apply).ended().await.unwrap().expect(1);
    ended.told("does not exist in binary cache");
    assert_eq!(hosts(&fetching), [new.clone(), old.clone(), old]);

    fs::rename(archive.with_extension("away"), &archive).unwrap();
    fetching.stage.operator(&["apply", "--resume"]).ended().await.unwrap().expect(0);
    assert_eq!(hosts(&fetching), [new.clone(), new.clone(), new]);

    // All hosts run their systems, so none is asked.
    let mut wire = fetching.stage.overhear().await.unwrap();
    fetching.stage.operator(&apply).ended().await.unwrap().expect(0);
    assert_eq!(fetching.stage.finals(&mut wire).await, [Value::Null; 0]);
    for machine in [&fetching.stage.machine, &others[0], &others[1]] {
        assert_nothing_evaluated(machine);
    }
}
