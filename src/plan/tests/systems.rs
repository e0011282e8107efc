//! Tests the assignment of built systems to hosts.

use super::super::{ResolvedPlan, Systems};
use super::{answered_by, host, listening, plan, told};
use crate::protocol::{Feature, HostReport};

const COMMIT: &str = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";

fn systems(hosts: &[&str]) -> Systems {
    let systems: serde_json::Map<_, _> = hosts.iter().map(|host| ((*host).to_owned(), path(host).into())).collect();
    serde_json::from_value(serde_json::json!({ "commit": COMMIT, "systems": systems, "by": "some CI" })).unwrap()
}

fn path(host: &str) -> String {
    format!("/nix/store/{}-nixos-system-{host}", "0".repeat(32))
}

/// Creates a host whose listener accepts built systems.
fn taking(text: &str) -> HostReport {
    let mut report = host(text);
    report.features.push(Feature::System);
    report
}

fn resolved(targets: &str, reports: Vec<HostReport>) -> ResolvedPlan {
    plan(&format!("[[wave]]\ntargets = {targets}\n")).resolve(&answered_by(reports)).unwrap().0
}

#[test]
fn each_host_gets_its_own() {
    let mut plan = resolved("['prod.ns1', 'prod.ns2']", vec![taking("prod.ns1"), taking("prod.ns2")]);
    plan.take_systems(&systems(&["ns2", "ns1", "other.host"])).unwrap();
    let given: Vec<_> = plan.hosts().map(|host| host.system.as_ref().unwrap().as_str().to_owned()).collect();
    assert_eq!(given, [path("ns1"), path("ns2")]);
}

#[test]
fn no_host_is_left_to_build_its_own() {
    let shared = {
        let mut report = listening("prod.box", &["lab.boxes"]);
        report.features.push(Feature::System);
        report
    };
    let reports = vec![taking("prod.ns1"), host("prod.ns2"), host("prod.ns3"), shared];
    let mut plan = resolved("['prod.ns1', 'prod.ns2', 'prod.ns3', 'prod.silent', 'lab.boxes']", reports);
    let mistakes = plan.take_systems(&systems(&["ns2", "ns3", "silent", "box"])).unwrap_err();
    // A silent host may not accept systems. It receives no request before that is known.
    insta::assert_snapshot!(told(mistakes.iter()), @"
    no system was built for ns1
      build theirs as well with `homelab-deploy build`, or leave them out with --exclude
    the listeners of ns2 and ns3 do not take systems that were built elsewhere
      set `systems.trustedKeys` there and deploy that once without built systems, or leave them out with --exclude
    box cannot be sent a system of their own: others may hear it
      let each listener listen on a subject of its own as well: --deploy-subject deploy.<tier>.<hostname>
    ");
}

#[test]
fn systems_of_another_commit_are_refused() {
    let other = "0123456789012345678901234567890123456789".parse().unwrap();
    let systems = systems(&[]);
    assert!(systems.check_commit(&COMMIT.parse().unwrap()).is_ok());
    insta::assert_snapshot!(told(systems.check_commit(&other).unwrap_err().iter()), @"
    the systems were built from 8c1f0e2, and the plan is for 0123456
      build them again with `homelab-deploy build`, or deploy what was built with --revision 8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b
    ");
}

#[test]
fn a_host_is_current_that_runs_and_boots_its_system() {
    let system = path("ns1").parse().unwrap();
    let report = |change: fn(&mut serde_json::Value)| {
        let mut report = serde_json::to_value(HostReport { system: Some(path("ns1")), ..host("prod.ns1") }).unwrap();
        change(&mut report);
        serde_json::from_value::<HostReport>(report).unwrap()
    };
    let last = |status: &str| serde_json::json!({ "id": "r", "status": status, "at": "2026-11-23T10:00:00Z" });
    assert!(report(|_| {}).is_current_system(&system));
    assert!(report(|report| report["next_boot_differs"] = false.into()).is_current_system(&system));
    assert!(!report(|report| report["next_boot_differs"] = true.into()).is_current_system(&system));
    assert!(!report(|report| report["system"] = path("ns2").into()).is_current_system(&system));
    assert!(!report(|report| report["system"] = serde_json::Value::Null).is_current_system(&system));
    let with_last = |status: &str| {
        let report = serde_json::to_value(HostReport { system: Some(path("ns1")), ..host("prod.ns1") });
        let mut report = report.unwrap();
        report["last"] = last(status);
        serde_json::from_value::<HostReport>(report).unwrap()
    };
    assert!(with_last("completed").is_current_system(&system));
    assert!(!with_last("failed").is_current_system(&system), "its activation may have stopped half-way");
}
