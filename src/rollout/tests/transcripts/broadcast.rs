//! A deployment to one subject, whoever listens there.

use crate::protocol::Status::{Accepted, Completed, Failed, Rejected, Started};
use crate::protocol::{HostReport, Subject};
use crate::rollout::tests::drive::{Drive, to};
use crate::rollout::tests::fixture::{name, report, response, subject_of};
use crate::rollout::{Connection, Input, Interrupt};

/// A host that listens on its own subject and on that of all.
fn member(host: &str) -> HostReport {
    let all: Subject = "deploy.prod.all".parse().unwrap();
    report(&name(host), vec![subject_of(&name(host)), all])
}

/// A host that listens on its own subject only.
fn loner(host: &str) -> HostReport {
    report(&name(host), vec![subject_of(&name(host))])
}

#[test]
fn a_host_that_contradicts_itself_for_ever_is_reported_a_few_times() {
    let mut drive = Drive::deploy(to("deploy.prod.all"));
    drive.says(0.1, "a", Completed);
    for _ in 0..50 {
        drive.says(0.2, "a", Failed);
    }
    drive.at(2.0, Input::RollCallOver);
    assert_eq!(drive.transcript().matches("anomaly").count(), 3);
}

#[test]
fn a_named_host_completes() {
    let mut drive = Drive::deploy(to("deploy.prod.a"));
    drive.says(0.1, "a", Accepted).says(0.2, "a", Started).says(9.0, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @r"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      0s a joined
    0.1s       < r1: a accepted
    0.1s a accepted
    0.2s       < r1: a started
    0.2s a started, None
      9s       < r1: a completed
      9s a COMPLETED
      9s wave 1 succeeded
      9s the rollout Succeeded
    ");
}

#[test]
fn a_named_host_that_is_silent_and_not_there_is_unreachable() {
    let mut drive = Drive::deploy(to("deploy.prod.a"));
    drive.silence_until(0.5).is_present(0.6, loner("b")).at(2.5, Input::RollCallOver);
    insta::assert_snapshot!(drive.transcript(), @r"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      0s a joined
    0.5s       < deadline
    0.5s -> call the roll
    0.6s       < b is there
    2.5s       < the roll call is over
    2.5s a UNREACHABLE
    2.5s wave 1 failed: 1 failed, 0 may
    2.5s the rollout Failed
    ");
}

#[test]
fn a_named_host_that_nobody_is_subscribed_for_is_looked_for_at_once() {
    let mut drive = Drive::deploy(to("deploy.prod.a"));
    drive.is_absent(0.001, "a").at(2.0, Input::RollCallOver);
    insta::assert_snapshot!(drive.transcript(), @r"
        0s sunday begins
        0s wave 1 started
        0s a dispatched: r1, attempt 1
        0s -> deploy.prod.a: r1 switch until 135s
        0s a joined
    0.001s       < r1: 503, nobody is there
    0.001s -> call the roll
        2s       < the roll call is over
        2s a UNREACHABLE
        2s wave 1 failed: 1 failed, 0 may
        2s the rollout Failed
    ");
}

#[test]
fn a_named_host_that_is_there_is_waited_for() {
    let mut drive = Drive::deploy(to("deploy.prod.a"));
    drive.silence_until(0.5).is_present(0.6, loner("a")).at(2.5, Input::RollCallOver);
    insta::assert_snapshot!(drive.transcript(), @r"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      0s a joined
    0.5s       < deadline
    0.5s -> call the roll
    0.6s       < a is there
    2.5s       < the roll call is over
     15s       < deadline
     15s a UNREACHABLE
     15s wave 1 failed: 1 failed, 0 may
     15s the rollout Failed
    ");
}

#[test]
fn a_named_host_that_falls_silent_times_out() {
    let mut drive = Drive::deploy(to("deploy.prod.a"));
    drive.says(0.1, "a", Accepted);
    insta::assert_snapshot!(drive.transcript(), @r"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      0s a joined
    0.1s       < r1: a accepted
    0.1s a accepted
     60s       < deadline
     60s a TIMED OUT
     60s wave 1 failed: 1 failed, 0 may
     60s the rollout Failed
    ");
}

#[test]
fn another_host_cannot_answer_for_the_named_one() {
    let mut drive = Drive::deploy(to("deploy.prod.a"));
    let request = drive.last_request("a");
    drive.answers(0.1, &request, response(&name("b"), &request, Completed)).says(0.2, "a", Rejected);
    insta::assert_snapshot!(drive.transcript(), @r"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      0s a joined
    0.1s       < r1: b completed
    0.1s a anomaly: b answered in its place
    0.2s       < r1: a rejected
    0.2s a REJECTED
    0.2s wave 1 failed: 1 failed, 0 may
    0.2s the rollout Failed
    ");
}

#[test]
fn a_group_completes_when_all_who_are_there_do() {
    let mut drive = Drive::deploy(to("deploy.prod.all"));
    drive.says(0.1, "a", Started).silence_until(0.3);
    drive.is_present(0.4, member("a")).is_present(0.4, member("b")).is_present(0.4, loner("c"));
    drive.says(0.5, "a", Completed).says(0.6, "b", Started).at(2.3, Input::RollCallOver);
    drive.says(3.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @r"
      0s sunday begins
      0s wave 1 started
      0s dispatched to all: r1
      0s -> deploy.prod.all: r1 switch until 135s
    0.1s       < r1: a started
    0.1s a joined
    0.1s a started, None
    0.3s       < deadline
    0.3s -> call the roll
    0.4s       < a is there
    0.4s       < b is there
    0.4s b joined
    0.4s       < c is there
    0.5s       < r1: a completed
    0.5s a COMPLETED
    0.6s       < r1: b started
    0.6s b started, None
    2.3s       < the roll call is over
      3s       < r1: b completed
      3s b COMPLETED
      3s wave 1 succeeded
      3s the rollout Succeeded
    ");
}

#[test]
fn a_member_that_answers_the_roll_call_only_has_failed() {
    let mut drive = Drive::deploy(to("deploy.prod.all"));
    drive.says(0.1, "a", Completed).silence_until(0.3);
    drive.is_present(0.4, member("a")).is_present(0.4, member("b")).at(2.3, Input::RollCallOver);
    insta::assert_snapshot!(drive.transcript(), @r"
      0s sunday begins
      0s wave 1 started
      0s dispatched to all: r1
      0s -> deploy.prod.all: r1 switch until 135s
    0.1s       < r1: a completed
    0.1s a joined
    0.1s a COMPLETED
    0.3s       < deadline
    0.3s -> call the roll
    0.4s       < a is there
    0.4s       < b is there
    0.4s b joined
    2.3s       < the roll call is over
     15s       < deadline
     15s b UNREACHABLE
     15s wave 1 failed: 1 failed, 0 may
     15s the rollout Failed
    ");
}

#[test]
fn a_member_that_fails_is_not_hidden_by_those_that_complete() {
    let mut drive = Drive::deploy(to("deploy.prod.all"));
    drive.says(0.1, "a", Failed).says(0.2, "b", Completed).at(2.4, Input::RollCallOver);
    insta::assert_snapshot!(drive.transcript(), @r"
      0s sunday begins
      0s wave 1 started
      0s dispatched to all: r1
      0s -> deploy.prod.all: r1 switch until 135s
    0.1s       < r1: a failed
    0.1s a joined
    0.1s a FAILED
    0.2s       < r1: b completed
    0.2s b joined
    0.2s b COMPLETED
    0.4s       < deadline
    0.4s -> call the roll
    2.4s       < the roll call is over
    2.4s wave 1 failed: 1 failed, 0 may
    2.4s the rollout Failed
    ");
}

#[test]
fn nobody_there_is_a_failure() {
    let mut drive = Drive::deploy(to("deploy.prod.all"));
    drive.silence_until(0.5).is_present(0.6, loner("c")).at(2.5, Input::RollCallOver);
    insta::assert_snapshot!(drive.transcript(), @r"
      0s sunday begins
      0s wave 1 started
      0s dispatched to all: r1
      0s -> deploy.prod.all: r1 switch until 135s
    0.5s       < deadline
    0.5s -> call the roll
    0.6s       < c is there
    2.5s       < the roll call is over
    2.5s wave 1 failed: 0 completed, 1 must
    2.5s the rollout Failed
    ");
}

#[test]
fn a_late_joiner_is_waited_for() {
    let mut drive = Drive::deploy(to("deploy.prod.all"));
    drive.silence_until(0.5).is_present(0.6, member("a")).at(2.5, Input::RollCallOver);
    drive.says(3.0, "late", Started).says(4.0, "a", Completed).says(50.0, "late", Failed);
    insta::assert_snapshot!(drive.transcript(), @r"
      0s sunday begins
      0s wave 1 started
      0s dispatched to all: r1
      0s -> deploy.prod.all: r1 switch until 135s
    0.5s       < deadline
    0.5s -> call the roll
    0.6s       < a is there
    0.6s a joined
    2.5s       < the roll call is over
      3s       < r1: late started
      3s late joined
      3s late started, None
      4s       < r1: a completed
      4s a COMPLETED
     50s       < r1: late failed
     50s late FAILED
     50s wave 1 failed: 1 failed, 0 may
     50s the rollout Failed
    ");
}

#[test]
fn the_first_interrupt_waits_and_the_second_leaves() {
    let mut drive = Drive::deploy(to("deploy.prod.all"));
    drive.silence_until(0.5).is_present(0.6, member("a")).at(2.5, Input::RollCallOver).says(2.6, "a", Started);
    drive.at(3.0, Input::Interrupt(Interrupt::Drain)).at(4.0, Input::Interrupt(Interrupt::Abort));
    insta::assert_snapshot!(drive.transcript(), @r"
      0s sunday begins
      0s wave 1 started
      0s dispatched to all: r1
      0s -> deploy.prod.all: r1 switch until 135s
    0.5s       < deadline
    0.5s -> call the roll
    0.6s       < a is there
    0.6s a joined
    2.5s       < the roll call is over
    2.6s       < r1: a started
    2.6s a started, None
      3s       < interrupt: Drain
      3s interrupted: Drain
      4s       < interrupt: Abort
      4s interrupted: Abort
      4s wave 1 interrupted
      4s the rollout Interrupted
    ");
}

#[test]
fn after_an_outage_each_host_is_asked_on_its_own_subject() {
    let mut drive = Drive::deploy(to("deploy.prod.all"));
    drive.silence_until(0.5).is_present(0.6, member("a")).is_present(0.6, member("b")).at(2.5, Input::RollCallOver);
    drive.says(3.0, "a", Started).says(3.0, "b", Completed);
    drive.at(4.0, Input::Connection(Connection::Down)).at(5.0, Input::AnswersLost);
    drive.at(40.0, Input::Connection(Connection::Up)).says(40.1, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @r"
       0s sunday begins
       0s wave 1 started
       0s dispatched to all: r1
       0s -> deploy.prod.all: r1 switch until 135s
     0.5s       < deadline
     0.5s -> call the roll
     0.6s       < a is there
     0.6s a joined
     0.6s       < b is there
     0.6s b joined
     2.5s       < the roll call is over
       3s       < r1: a started
       3s a started, None
       3s       < r1: b completed
       3s b COMPLETED
       4s       < connection Down
       4s connection Down
       5s       < answers were lost
      40s       < connection Up
      40s connection Up
      40s -> deploy.prod.a: r1 switch until 175s again, for its state
    40.1s       < r1: a completed
    40.1s a COMPLETED
    40.1s wave 1 succeeded
    40.1s the rollout Succeeded
    ");
}

#[test]
fn a_roll_call_that_an_outage_cut_short_is_called_again() {
    let mut drive = Drive::deploy(to("deploy.prod.all"));
    drive.silence_until(0.5).at(0.6, Input::Connection(Connection::Down)).at(2.5, Input::RollCallOver);
    drive.at(30.0, Input::Connection(Connection::Up)).is_present(30.1, member("a")).at(32.0, Input::RollCallOver);
    drive.says(33.0, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @r"
       0s sunday begins
       0s wave 1 started
       0s dispatched to all: r1
       0s -> deploy.prod.all: r1 switch until 135s
     0.5s       < deadline
     0.5s -> call the roll
     0.6s       < connection Down
     0.6s connection Down
     2.5s       < the roll call is over
      30s       < connection Up
      30s connection Up
      30s -> call the roll
    30.1s       < a is there
    30.1s a joined
    30.1s -> deploy.prod.a: r1 switch until 165s again, for its state
      32s       < the roll call is over
      33s       < r1: a completed
      33s a COMPLETED
      33s wave 1 succeeded
      33s the rollout Succeeded
    ");
}

#[test]
fn a_roll_call_that_was_due_during_an_outage_follows_it() {
    let mut drive = Drive::deploy(to("deploy.prod.all"));
    drive.at(0.1, Input::Connection(Connection::Down)).at(30.0, Input::Connection(Connection::Up));
    drive.is_present(30.1, member("a")).says(31.0, "a", Completed).at(32.0, Input::RollCallOver);
    insta::assert_snapshot!(drive.transcript(), @r"
       0s sunday begins
       0s wave 1 started
       0s dispatched to all: r1
       0s -> deploy.prod.all: r1 switch until 135s
     0.1s       < connection Down
     0.1s connection Down
      30s       < connection Up
      30s connection Up
      30s       < deadline
      30s -> call the roll
    30.1s       < a is there
    30.1s a joined
    30.1s -> deploy.prod.a: r1 switch until 165s again, for its state
      31s       < r1: a completed
      31s a COMPLETED
      32s       < the roll call is over
      32s wave 1 succeeded
      32s the rollout Succeeded
    ");
}

#[test]
fn answers_put_the_roll_call_off_but_not_for_long() {
    let mut drive = Drive::deploy(to("deploy.prod.all"));
    for seconds in [0.4, 0.59, 0.78, 0.97, 1.01] {
        drive.says(seconds, &format!("after-{}ms", seconds * 1e3), Completed);
    }
    let transcript = drive.at(3.0, Input::RollCallOver).transcript();
    let calls = transcript.lines().filter(|line| line.ends_with("call the roll")).map(str::trim);
    assert_eq!(calls.collect::<Vec<_>>(), ["1s -> call the roll"]);
}

#[test]
fn the_roll_of_a_group_that_nobody_is_subscribed_to_is_called_at_once() {
    let mut drive = Drive::deploy(to("deploy.prod.all"));
    drive.is_absent(0.001, "anyone").at(2.001, Input::RollCallOver);
    insta::assert_snapshot!(drive.transcript(), @r"
        0s sunday begins
        0s wave 1 started
        0s dispatched to all: r1
        0s -> deploy.prod.all: r1 switch until 135s
    0.001s       < r1: 503, nobody is there
    0.001s -> call the roll
    2.001s       < the roll call is over
    2.001s wave 1 failed: 0 completed, 1 must
    2.001s the rollout Failed
    ");
}

#[test]
fn a_bus_that_stays_away_leaves_nobody_known() {
    let mut drive = Drive::deploy(to("deploy.prod.a"));
    drive.says(0.1, "a", Started).at(1.0, Input::Connection(Connection::Down));
    insta::assert_snapshot!(drive.transcript(), @r"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      0s a joined
    0.1s       < r1: a started
    0.1s a started, None
      1s       < connection Down
      1s connection Down
     61s       < deadline
     61s a TIMED OUT
     61s wave 1 failed: 1 failed, 0 may
     61s the rollout Failed
    ");
}
