//! Which hosts are asked again, and how.

use crate::protocol::Status::{Completed, Failed, Rejected, Started};
use crate::rollout::Input;
use crate::rollout::tests::drive::Drive;
use crate::rollout::tests::fixture::{name, response, wave_with};

#[test]
fn an_unreachable_host_is_asked_again_under_the_same_id() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.retries = 1)]);
    drive.silence_until(50.0).says(50.0, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s
     1s       < deadline
     1s -> deploy.prod.a: r1 switch until 136s again, for its state
     3s       < deadline
     3s -> deploy.prod.a: r1 switch until 138s again, for its state
     7s       < deadline
     7s -> deploy.prod.a: r1 switch until 142s again, for its state
    15s       < deadline
    15s a unreachable, retry in 30s
    45s       < deadline
    45s a dispatched: r1, attempt 2
    45s -> deploy.prod.a: r1 switch until 180s
    46s       < deadline
    46s -> deploy.prod.a: r1 switch until 181s again, for its state
    48s       < deadline
    48s -> deploy.prod.a: r1 switch until 183s again, for its state
    50s       < r1: a completed
    50s a COMPLETED
    50s wave 1 succeeded
    50s the rollout Succeeded
    ");
}

#[test]
fn retries_come_to_an_end() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.retries = 2)]);
    insta::assert_snapshot!(drive.transcript(), @"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      1s       < deadline
      1s -> deploy.prod.a: r1 switch until 136s again, for its state
      3s       < deadline
      3s -> deploy.prod.a: r1 switch until 138s again, for its state
      7s       < deadline
      7s -> deploy.prod.a: r1 switch until 142s again, for its state
     15s       < deadline
     15s a unreachable, retry in 30s
     45s       < deadline
     45s a dispatched: r1, attempt 2
     45s -> deploy.prod.a: r1 switch until 180s
     46s       < deadline
     46s -> deploy.prod.a: r1 switch until 181s again, for its state
     48s       < deadline
     48s -> deploy.prod.a: r1 switch until 183s again, for its state
     52s       < deadline
     52s -> deploy.prod.a: r1 switch until 187s again, for its state
     60s       < deadline
     60s a unreachable, retry in 30s
     90s       < deadline
     90s a dispatched: r1, attempt 3
     90s -> deploy.prod.a: r1 switch until 225s
     91s       < deadline
     91s -> deploy.prod.a: r1 switch until 226s again, for its state
     93s       < deadline
     93s -> deploy.prod.a: r1 switch until 228s again, for its state
     97s       < deadline
     97s -> deploy.prod.a: r1 switch until 232s again, for its state
    105s       < deadline
    105s a UNREACHABLE
    105s wave 1 failed: 1 failed, 0 may
    105s the rollout Failed
    ");
}

#[test]
fn a_busy_host_is_asked_again_under_a_new_id() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.retries = 1)]);
    drive.is_busy(1.0, "a").silence_until(31.0).says(32.0, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @r"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s
     1s       < r1: a rejected already_running
     1s a rejected, retry in 30s
    31s       < deadline
    31s a dispatched: r2, attempt 2
    31s -> deploy.prod.a: r2 switch until 166s
    32s       < r2: a completed
    32s a COMPLETED
    32s wave 1 succeeded
    32s the rollout Succeeded
    ");
}

#[test]
fn what_comes_late_about_a_replaced_request_says_nothing() {
    let mut drive = Drive::plan([wave_with("a b", |limits| limits.retries = 1)]);
    drive.says(0.5, "b", Started);
    let first = drive.last_request("a");
    drive.is_busy(1.0, "a").silence_until(31.0);
    drive.at(32.0, Input::NoResponders { request: first.clone() });
    drive.answers(33.0, &first, response(&name("a"), &first, Failed));
    drive.says(34.0, "a", Completed).answers(35.0, &first, response(&name("a"), &first, Rejected));
    drive.says(36.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      0s b dispatched: r2, attempt 1
      0s -> deploy.prod.b: r2 switch until 135s
    0.5s       < r2: b started
    0.5s b started, None
      1s       < r1: a rejected already_running
      1s a rejected, retry in 30s
     31s       < deadline
     31s a dispatched: r3, attempt 2
     31s -> deploy.prod.a: r3 switch until 166s
     32s       < r1: 503, nobody is there
     32s       < deadline
     32s -> deploy.prod.a: r3 switch until 167s again, for its state
     33s       < r1: a failed
     34s       < r3: a completed
     34s a COMPLETED
     35s       < r1: a rejected
     36s       < r2: b completed
     36s b COMPLETED
     36s wave 1 succeeded
     36s the rollout Succeeded
    ");
}

#[test]
fn a_real_failure_is_never_retried() {
    let stubborn = wave_with("a b", |limits| {
        limits.retries = 3;
        limits.max_failures = 1;
        limits.min_hosts = 0;
    });
    let mut drive = Drive::plan([stubborn]);
    drive.says(1.0, "a", Failed).says(2.0, "b", Rejected);
    insta::assert_snapshot!(drive.transcript(), @"
    0s sunday begins
    0s wave 1 started
    0s a dispatched: r1, attempt 1
    0s -> deploy.prod.a: r1 switch until 135s
    0s b dispatched: r2, attempt 1
    0s -> deploy.prod.b: r2 switch until 135s
    1s       < r1: a failed
    1s a FAILED
    1s       < deadline
    1s -> deploy.prod.b: r2 switch until 136s again, for its state
    2s       < r2: b rejected
    2s b REJECTED
    2s wave 1 failed: 2 failed, 1 may
    2s the rollout Failed
    ");
}

#[test]
fn a_host_that_waits_for_its_retry_is_not_asked_once_the_wave_halts() {
    let mut drive = Drive::plan([wave_with("a b", |limits| limits.retries = 1)]);
    drive.is_busy(1.0, "a").says(2.0, "b", Failed);
    insta::assert_snapshot!(drive.transcript(), @"
    0s sunday begins
    0s wave 1 started
    0s a dispatched: r1, attempt 1
    0s -> deploy.prod.a: r1 switch until 135s
    0s b dispatched: r2, attempt 1
    0s -> deploy.prod.b: r2 switch until 135s
    1s       < r1: a rejected already_running
    1s a rejected, retry in 30s
    1s       < deadline
    1s -> deploy.prod.b: r2 switch until 136s again, for its state
    2s       < r2: b failed
    2s b FAILED
    2s wave 1 draining: 1 failed, 0 may
    2s a REJECTED
    2s wave 1 failed: 2 failed, 0 may
    2s the rollout Failed
    ");
}

#[test]
fn a_host_that_was_given_up_can_take_itself_back() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.retries = 1)]);
    drive.silence_until(15.0).says(20.0, "a", Started).says(70.0, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s
     1s       < deadline
     1s -> deploy.prod.a: r1 switch until 136s again, for its state
     3s       < deadline
     3s -> deploy.prod.a: r1 switch until 138s again, for its state
     7s       < deadline
     7s -> deploy.prod.a: r1 switch until 142s again, for its state
    15s       < deadline
    15s a unreachable, retry in 30s
    20s       < r1: a started
    20s a started, None
    70s       < r1: a completed
    70s a COMPLETED
    70s wave 1 succeeded
    70s the rollout Succeeded
    ");
}
