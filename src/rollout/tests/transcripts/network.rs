//! Rollouts over a network that is late, lies, repeats messages and goes down.

use crate::protocol::Status::{Accepted, Completed, Failed, Started};
use crate::rollout::tests::drive::Drive;
use crate::rollout::tests::fixture::{name, response, secs, wave, wave_with};
use crate::rollout::{Connection, Input};

#[test]
fn after_an_outage_hosts_are_asked_how_far_they_are() {
    let mut drive = Drive::plan([wave_with("a b", |limits| limits.max_parallel = 1)]);
    drive.says(1.0, "a", Started);
    drive.at(2.0, Input::Connection(Connection::Down)).at(40.0, Input::Connection(Connection::Up));
    drive.says(40.5, "a", Completed).says(42.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
       0s sunday begins
       0s wave 1 started
       0s a dispatched: r1, attempt 1
       0s -> deploy.prod.a: r1 switch until 135s
       1s       < r1: a started
       1s a started, None
       2s       < connection Down
       2s connection Down
      40s       < connection Up
      40s connection Up
      40s -> deploy.prod.a: r1 switch until 175s again, for its state
    40.5s       < r1: a completed
    40.5s a COMPLETED
    40.5s b dispatched: r2, attempt 1
    40.5s -> deploy.prod.b: r2 switch until 175s
    41.5s       < deadline
    41.5s -> deploy.prod.b: r2 switch until 176s again, for its state
      42s       < r2: b completed
      42s b COMPLETED
      42s wave 1 succeeded
      42s the rollout Succeeded
    ");
}

#[test]
fn a_host_that_answered_and_falls_silent_is_asked_how_far_it_is() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.timeout = secs(300))]);
    drive.says(1.0, "a", Started).says(31.0, "a", Started).silence_until(190.0).says(190.5, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
        0s sunday begins
        0s wave 1 started
        0s a dispatched: r1, attempt 1
        0s -> deploy.prod.a: r1 switch until 135s
        1s       < r1: a started
        1s a started, None
       31s       < r1: a started
      106s       < deadline
      106s -> deploy.prod.a: r1 switch until 241s again, for its state
      181s       < deadline
      181s -> deploy.prod.a: r1 switch until 316s again, for its state
    190.5s       < r1: a completed
    190.5s a COMPLETED
    190.5s wave 1 succeeded
    190.5s the rollout Succeeded
    ");
}

#[test]
fn nothing_is_sent_before_the_bus_is_back() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.bake_time = secs(10)), wave("b")]);
    drive.says(1.0, "a", Completed).at(5.0, Input::Connection(Connection::Down)).silence_until(20.0);
    drive.at(20.0, Input::ResponsesLost).at(21.0, Input::Connection(Connection::Up)).says(22.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @r"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s
     1s       < r1: a completed
     1s a COMPLETED
     1s wave 1 baking for 10s
     5s       < connection Down
     5s connection Down
    11s       < deadline
    11s wave 1 succeeded
    11s wave 2 started
    20s       < answers were lost
    21s       < connection Up
    21s connection Up
    21s b dispatched: r2, attempt 1
    21s -> deploy.prod.b: r2 switch until 156s
    22s       < r2: b completed
    22s b COMPLETED
    22s wave 2 succeeded
    22s the rollout Succeeded
    ");
}

#[test]
fn right_after_an_outage_a_503_is_not_believed() {
    let mut drive = Drive::plan([wave("a")]);
    drive.at(1.0, Input::Connection(Connection::Down)).at(2.0, Input::Connection(Connection::Up));
    drive.is_absent(2.001, "a").says(4.0, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
        0s sunday begins
        0s wave 1 started
        0s a dispatched: r1, attempt 1
        0s -> deploy.prod.a: r1 switch until 135s
        1s       < connection Down
        1s connection Down
        2s       < connection Up
        2s connection Up
        2s -> deploy.prod.a: r1 switch until 137s again, for its state
    2.001s       < r1: 503, nobody is there
        3s       < deadline
        3s -> deploy.prod.a: r1 switch until 138s again, for its state
        4s       < r1: a completed
        4s a COMPLETED
        4s wave 1 succeeded
        4s the rollout Succeeded
    ");
}

#[test]
fn a_bus_that_stays_away_fails_the_wave() {
    let mut drive = Drive::plan([wave_with("a b", |limits| {
        limits.max_parallel = 1;
        limits.max_failures = 2;
    })]);
    drive.says(1.0, "a", Started).at(2.0, Input::Connection(Connection::Down));
    insta::assert_snapshot!(drive.transcript(), @r"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s
     1s       < r1: a started
     1s a started, None
     2s       < connection Down
     2s connection Down
    62s       < deadline
    62s wave 1 draining: disconnected
    62s a TIMED OUT
    62s b SKIPPED: Disconnected
    62s wave 1 failed: disconnected
    62s the rollout Failed
    ");
}

#[test]
fn when_answers_were_lost_hosts_are_asked_how_far_they_are() {
    let mut drive = Drive::plan([wave("a b")]);
    drive.says(1.0, "b", Completed).at(2.0, Input::ResponsesLost).says(2.1, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      0s b dispatched: r2, attempt 1
      0s -> deploy.prod.b: r2 switch until 135s
      1s       < r2: b completed
      1s b COMPLETED
      1s       < deadline
      1s -> deploy.prod.a: r1 switch until 136s again, for its state
      2s       < answers were lost
      2s -> deploy.prod.a: r1 switch until 137s again, for its state
    2.1s       < r1: a completed
    2.1s a COMPLETED
    2.1s wave 1 succeeded
    2.1s the rollout Succeeded
    ");
}

#[test]
fn a_started_beside_a_completed_is_no_failure() {
    let mut drive = Drive::plan([wave("a b")]);
    drive.says(1.0, "a", Completed).says(1.1, "a", Started).says(2.0, "b", Started).says(3.0, "b", Completed);
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
    1.1s       < r1: a started
      2s       < r2: b started
      2s b started, None
      3s       < r2: b completed
      3s b COMPLETED
      3s wave 1 succeeded
      3s the rollout Succeeded
    ");
}

#[test]
fn the_first_final_stands_and_repeating_it_is_no_harm() {
    let mut drive = Drive::plan([wave("a b")]);
    drive.says(1.0, "a", Completed).says(1.1, "a", Completed).says(1.2, "a", Failed);
    drive.says(2.0, "b", Completed);
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
    1.2s       < r1: a failed
    1.2s a anomaly: conflicting failed
      2s       < r2: b completed
      2s b COMPLETED
      2s wave 1 succeeded
      2s the rollout Succeeded
    ");
}

#[test]
fn a_final_that_comes_too_late_changes_nothing() {
    let mut drive = Drive::plan([wave_with("a b", |limits| limits.max_failures = 1)]);
    drive.says(1.0, "b", Accepted).silence_until(15.0);
    drive.says(16.0, "a", Completed).says(17.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s
     0s b dispatched: r2, attempt 1
     0s -> deploy.prod.b: r2 switch until 135s
     1s       < r2: b accepted
     1s b accepted
     1s       < deadline
     1s -> deploy.prod.a: r1 switch until 136s again, for its state
     3s       < deadline
     3s -> deploy.prod.a: r1 switch until 138s again, for its state
     7s       < deadline
     7s -> deploy.prod.a: r1 switch until 142s again, for its state
    15s       < deadline
    15s a UNREACHABLE
    16s       < r1: a completed
    16s a anomaly: late completed
    17s       < r2: b completed
    17s b COMPLETED
    17s wave 1 succeeded
    17s the rollout Succeeded
    ");
}

#[test]
fn an_answer_in_the_name_of_another_is_not_counted() {
    let mut drive = Drive::plan([wave("a b")]);
    let of_a = drive.last_request("a");
    for seconds in [1.0, 1.1, 1.2, 1.3] {
        drive.answers(seconds, &of_a, response(&name("b"), &of_a, Completed));
    }
    drive.answers(1.4, &"unknown".parse().unwrap(), response(&name("a"), &of_a, Failed));
    drive.says(2.0, "a", Completed).says(3.0, "b", Completed);
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
    1.1s       < r1: b completed
    1.1s a anomaly: b answered in its place
    1.2s       < r1: b completed
    1.2s a anomaly: b answered in its place
    1.3s       < r1: b completed
    1.4s       < r3: a failed
      2s       < r1: a completed
      2s a COMPLETED
      3s       < r2: b completed
      3s b COMPLETED
      3s wave 1 succeeded
      3s the rollout Succeeded
    ");
}
