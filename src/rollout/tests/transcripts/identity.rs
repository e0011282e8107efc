//! The sender of a response: other hosts cannot change a host's state, and two machines with one name are a failure.

use uuid::Uuid;

use crate::protocol::{RequestId, Response, Sender, Status, Tier};
use crate::rollout::Input;
use crate::rollout::tests::drive::Drive;
use crate::rollout::tests::fixture::{name, response, wave, wave_with};

use Status::{Accepted, Completed, Failed, Started};

/// Returns the response of this instance to the last request of a host.
fn from_instance(drive: &Drive, host: &str, instance: u128, status: Status) -> (RequestId, Response) {
    let request = drive.last_request(host);
    let said = response(&name(host), &request, status);
    (request, Response { instance: Some(Uuid::from_u128(instance)), ..said })
}

fn says(drive: &mut Drive, seconds: f64, host: &str, instance: u128, status: Status) {
    let (request, said) = from_instance(drive, host, instance, status);
    drive.answers(seconds, &request, said);
}

#[test]
fn only_the_host_itself_answers_for_it() {
    let mut drive = Drive::plan([wave("a b")]);
    let (a, b) = (drive.last_request("a"), drive.last_request("b"));
    let sender = |tier, host: &str| Sender { tier, host: name(host) };
    // Host b can publish below its own prefix, about any request and under any name.
    drive.answers_as(1.0, sender(Tier::Prod, "b"), &a, response(&name("b"), &a, Completed));
    drive.answers_as(1.1, sender(Tier::Prod, "b"), &a, response(&name("a"), &a, Completed));
    drive.answers_as(1.2, sender(Tier::Test, "a"), &a, response(&name("a"), &a, Completed));
    drive.answers_as(1.3, sender(Tier::Prod, "b"), &b, response(&name("b"), &a, Completed));
    drive.answers_as(1.4, sender(Tier::Prod, "b"), &b, response(&name("a"), &b, Completed));
    drive.says(2.0, "a", Completed).says(2.0, "b", Failed);
    insta::assert_snapshot!(drive.transcript(), @"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      0s b dispatched: r2, attempt 1
      0s -> deploy.prod.b: r2 switch until 135s
      1s       < r1: b completed
      1s a anomaly: b answered in its place
      1s       < deadline
      1s -> deploy.prod.a: r1 switch until 136s again, for its state
      1s -> deploy.prod.b: r2 switch until 136s again, for its state
    1.1s       < r1: a completed, on the subject of prod.b
    1.1s a anomaly: b answered in its place
    1.2s       < r1: a completed, on the subject of test.a
    1.2s a anomaly: a of test answered in its place
    1.3s       < r2: b completed
    1.3s b anomaly: an answer to another request
    1.4s       < r2: a completed, on the subject of prod.b
    1.4s b anomaly: a answered in its place
      2s       < r1: a completed
      2s a COMPLETED
      2s       < r2: b failed
      2s b FAILED
      2s wave 1 failed: 1 failed, 0 may
      2s the rollout Failed
    ");
}

#[test]
fn a_listener_that_supports_ids_has_to_name_them() {
    let mut drive = Drive::plan([wave("a")]);
    let request = drive.last_request("a");
    let bare = Response { id: None, ..response(&name("a"), &request, Completed) };
    drive.answers(1.0, &request, bare).says(2.0, "a", Failed);
    insta::assert_snapshot!(drive.transcript(), @"
    0s sunday begins
    0s wave 1 started
    0s a dispatched: r1, attempt 1
    0s -> deploy.prod.a: r1 switch until 135s
    1s       < r1: a completed
    1s a anomaly: an answer to another request
    1s       < deadline
    1s -> deploy.prod.a: r1 switch until 136s again, for its state
    2s       < r1: a failed
    2s a FAILED
    2s wave 1 failed: 1 failed, 0 may
    2s the rollout Failed
    ");
}

#[test]
fn an_instance_that_speaks_again_after_another_is_a_second_machine() {
    let mut drive = Drive::plan([wave("a"), wave("b")]);
    says(&mut drive, 1.0, "a", 1, Accepted);
    says(&mut drive, 1.1, "a", 2, Accepted);
    says(&mut drive, 1.2, "a", 1, Started);
    insta::assert_snapshot!(drive.transcript(), @"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      1s       < r1: a accepted
      1s a accepted
    1.1s       < r1: a accepted
    1.2s       < r1: a started
    1.2s a anomaly: two machines
    1.2s a FAILED
    1.2s wave 1 failed: 1 failed, 0 may
    1.2s b SKIPPED: EarlierWave
    1.2s wave 2 skipped
    1.2s the rollout Failed
    ");
}

#[test]
fn a_host_that_reboots_is_the_same_machine() {
    let mut drive = Drive::plan([wave("a")]);
    says(&mut drive, 1.0, "a", 1, Accepted);
    says(&mut drive, 1.1, "a", 1, Started);
    says(&mut drive, 30.0, "a", 2, Completed);
    insta::assert_snapshot!(drive.transcript(), @"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      1s       < r1: a accepted
      1s a accepted
    1.1s       < r1: a started
    1.1s a started, None
     30s       < r1: a completed
     30s a COMPLETED
     30s wave 1 succeeded
     30s the rollout Succeeded
    ");
}

#[test]
fn another_final_of_another_machine_takes_a_completion_back() {
    let mut drive = Drive::plan([wave("a b"), wave("c")]);
    says(&mut drive, 1.0, "a", 1, Completed);
    says(&mut drive, 1.1, "a", 1, Completed);
    says(&mut drive, 2.0, "a", 2, Failed);
    drive.says(3.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      0s b dispatched: r2, attempt 1
      0s -> deploy.prod.b: r2 switch until 135s
      1s       < r1: a completed
      1s a COMPLETED
      1s       < deadline
      1s -> deploy.prod.b: r2 switch until 136s again, for its state
    1.1s       < r1: a completed
      2s       < r1: a failed
      2s a anomaly: two machines
      2s wave 1 draining: 1 failed, 0 may
      3s       < r2: b completed
      3s b COMPLETED
      3s wave 1 failed: 1 failed, 0 may
      3s c SKIPPED: EarlierWave
      3s wave 2 skipped
      3s the rollout Failed
    ");
}

#[test]
fn the_same_final_of_another_machine_is_a_repetition() {
    let mut drive = Drive::plan([wave("a b")]);
    says(&mut drive, 1.0, "a", 1, Completed);
    says(&mut drive, 2.0, "a", 2, Completed);
    drive.says(3.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
    0s sunday begins
    0s wave 1 started
    0s a dispatched: r1, attempt 1
    0s -> deploy.prod.a: r1 switch until 135s
    0s b dispatched: r2, attempt 1
    0s -> deploy.prod.b: r2 switch until 135s
    1s       < r1: a completed
    1s a COMPLETED
    1s       < deadline
    1s -> deploy.prod.b: r2 switch until 136s again, for its state
    2s       < r1: a completed
    3s       < r2: b completed
    3s b COMPLETED
    3s wave 1 succeeded
    3s the rollout Succeeded
    ");
}

#[test]
fn a_completion_of_an_earlier_wave_that_is_taken_back_ends_the_rollout() {
    let mut drive = Drive::plan([wave("a"), wave_with("b c", |limits| limits.max_parallel = 1), wave("d")]);
    says(&mut drive, 1.0, "a", 1, Completed);
    says(&mut drive, 2.0, "a", 2, Failed);
    drive.says(3.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
    0s sunday begins
    0s wave 1 started
    0s a dispatched: r1, attempt 1
    0s -> deploy.prod.a: r1 switch until 135s
    1s       < r1: a completed
    1s a COMPLETED
    1s wave 1 succeeded
    1s wave 2 started
    1s b dispatched: r2, attempt 1
    1s -> deploy.prod.b: r2 switch until 136s
    2s       < r1: a failed
    2s a anomaly: two machines
    2s wave 2 draining: a is two machines
    2s       < deadline
    2s -> deploy.prod.b: r2 switch until 137s again, for its state
    3s       < r2: b completed
    3s b COMPLETED
    3s c SKIPPED: EarlierWave
    3s wave 2 failed: a is two machines
    3s d SKIPPED: EarlierWave
    3s wave 3 skipped
    3s the rollout Failed
    ");
}

#[test]
fn hosts_without_subjects_of_their_own_wait_until_the_window_has_room_for_all_of_them() {
    let mut together = wave_with("a b c", |limits| limits.max_parallel = 2);
    for host in &mut together.hosts[1..] {
        host.shared_subject = Some("fleet.all".parse().unwrap());
    }
    let mut drive = Drive::plan([together]);
    drive.says(1.0, "a", Completed).says(1.5, "b", Completed).says(1.5, "c", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      1s       < r1: a completed
      1s a COMPLETED
      1s b dispatched: r2, attempt 1
      1s c dispatched: r2, attempt 1
      1s -> fleet.all: r2 switch until 136s
    1.5s       < r2: b completed
    1.5s b COMPLETED
    1.5s       < r2: c completed
    1.5s c COMPLETED
    1.5s wave 1 succeeded
    1.5s the rollout Succeeded
    ");
}

#[test]
fn hosts_without_subjects_of_their_own_are_sent_one_request() {
    let mut together = wave("a b c");
    for host in &mut together.hosts {
        host.shared_subject = Some("fleet.all".parse().unwrap());
    }
    together.hosts[2].supports_ids = false;
    let mut drive = Drive::plan([together]);
    let request = drive.last_request("a");
    for host in ["b", "a"] {
        drive.answers(1.0, &request, response(&name(host), &request, Started));
    }
    drive.answers(2.0, &request, response(&name("b"), &request, Completed));
    // The old form counts only for the host whose listener is not known to support ids.
    let bare = |host: &str, status| Response { id: None, ..response(&name(host), &request, status) };
    drive
        .at(3.0, Input::OldResponse(bare("a", Failed).into()))
        .at(3.1, Input::OldResponse(bare("c", Completed).into()));
    drive.answers(4.0, &request, response(&name("a"), &request, Completed));
    insta::assert_snapshot!(drive.transcript(), @"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s b dispatched: r1, attempt 1
      0s c dispatched: r1, attempt 1
      0s -> fleet.all: r1 switch until 135s
      1s       < r1: b started
      1s b started, None
      1s       < r1: a started
      1s a started, None
      1s       < deadline
      2s       < r1: b completed
      2s b COMPLETED
      3s       < in the old form: a failed
      3s       < deadline
    3.1s       < in the old form: c completed
    3.1s c COMPLETED
      4s       < r1: a completed
      4s a COMPLETED
      4s wave 1 succeeded
      4s the rollout Succeeded
    ");
}
