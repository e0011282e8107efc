//! Tests two machines with one name, one key and one machine id, as after cloning a virtual machine.

use homelab_deploy::nats_config::ListenerName;

use super::{lab, plan, until_answering};
use crate::apply::resume::{cut_off, resume};
use crate::apply::stage::{self, ran};
use crate::apply::wiretap::Wiretap;
use crate::host;
use crate::operator;
use crate::support::fleet::Fleet;
use crate::support::lab::Lab;
use crate::support::rebuild::{FAIL, GATE};

/// Starts the host ns1 and its clone, which runs this script.
async fn twins(script: &str) -> (Lab, Fleet) {
    let lab = lab(&["prod.ns1"], &["ns1"]).await;
    let name: ListenerName = "prod.ns1".parse().unwrap();
    let mut clone = lab.another_fleet("clone").unwrap();
    clone.rebuild().on(&host("ns1"), script).unwrap();
    clone.start(&name, lab.key(&host("ns1")).unwrap(), &[]).unwrap();
    until_answering(&lab, 2).await;
    (lab, clone)
}

#[tokio::test]
async fn they_are_told_apart_before_anything_is_sent() {
    let (lab, clone) = twins(FAIL).await;
    let mut tap = Wiretap::begin(&lab).await;
    for targets in ["prod.all", "prod.ns1"] {
        let ended = stage::apply(&lab, &plan(&lab, "main", targets)).ended().await.unwrap();
        assert!(matches!(ended.code, Some(2 | 3)), "{ended:?}");
        ended.told("two machines").told("ns1");
    }
    let ended = operator::run(&lab, &["deploy", "deploy.prod.all"]).await.unwrap();
    assert!(matches!(ended.code, Some(2 | 3)), "{ended:?}");
    ended.told("two machines").told("ns1");
    assert!(tap.requests().await.is_empty());
    assert!(ran(&lab).is_empty() && clone.rebuild().record().is_empty());
    operator::run(&lab, &["hosts"]).await.unwrap().told("two machines");
}

/// The roll call of one named host may end with the first answer. A failure of the other machine still is no success.
#[tokio::test]
async fn a_deployment_to_one_host_is_no_success_while_its_clone_fails() {
    let (lab, _clone) = twins(FAIL).await;
    let ended = operator::run(&lab, &["deploy", "deploy.prod.ns1"]).await.unwrap();
    assert_ne!(ended.code, Some(0), "{ended:?}");
    ended.told("two machines");
}

#[tokio::test]
async fn a_clone_that_takes_its_time_to_fail_is_found_out_as_well() {
    let (lab, clone) = twins(&format!("{GATE}; {FAIL}")).await;
    let ended = operator::run(&lab, &["deploy", "deploy.prod.ns1"]).await.unwrap();
    clone.rebuild().open(&host("ns1")).unwrap();
    assert_ne!(ended.code, Some(0), "{ended:?}");
    ended.told("two machines");
}

#[tokio::test]
async fn a_rollout_that_was_left_does_not_go_on_to_two_machines() {
    let lab = cut_off().await;
    let mut clone = lab.another_fleet("clone").unwrap();
    clone.start(&"prod.ns1".parse().unwrap(), lab.key(&host("ns1")).unwrap(), &[]).unwrap();
    until_answering(&lab, 4).await;
    let ran_before = ran(&lab);
    resume(&lab, &[]).await.expect(3).told("two machines").told("ns1");
    assert_eq!(ran(&lab), ran_before);
    assert!(clone.rebuild().record().is_empty());
}
