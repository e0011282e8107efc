//! When a wave goes on, and what halts it.

use crate::protocol::Status::{Accepted, Completed, Failed, Rejected, Started};
use crate::rollout::tests::drive::Drive;
use crate::rollout::tests::fixture::{wave, wave_with};

#[test]
fn three_waves_succeed() {
    let mut drive = Drive::plan([wave("a"), wave("b c"), wave("d")]);
    drive.says(1.0, "a", Accepted).says(2.0, "a", Started).says(9.0, "a", Completed);
    drive.says(10.0, "c", Completed).says(11.0, "b", Completed);
    drive.says(12.0, "d", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s
     1s       < r1: a accepted
     1s a accepted
     2s       < r1: a started
     2s a started, None
     9s       < r1: a completed
     9s a COMPLETED
     9s wave 1 succeeded
     9s wave 2 started
     9s b dispatched: r2, attempt 1
     9s -> deploy.prod.b: r2 switch until 144s
     9s c dispatched: r3, attempt 1
     9s -> deploy.prod.c: r3 switch until 144s
    10s       < r3: c completed
    10s c COMPLETED
    10s       < deadline
    10s -> deploy.prod.b: r2 switch until 145s again, for its state
    11s       < r2: b completed
    11s b COMPLETED
    11s wave 2 succeeded
    11s wave 3 started
    11s d dispatched: r4, attempt 1
    11s -> deploy.prod.d: r4 switch until 146s
    12s       < r4: d completed
    12s d COMPLETED
    12s wave 3 succeeded
    12s the rollout Succeeded
    ");
}

#[test]
fn a_failed_host_halts() {
    let mut drive = Drive::plan([wave("a b"), wave("c")]);
    drive.says(1.0, "a", Accepted).says(1.0, "b", Accepted);
    drive.says(5.0, "a", Failed).says(9.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @r"
    0s sunday begins
    0s wave 1 started
    0s a dispatched: r1, attempt 1
    0s -> deploy.prod.a: r1 switch until 135s
    0s b dispatched: r2, attempt 1
    0s -> deploy.prod.b: r2 switch until 135s
    1s       < r1: a accepted
    1s a accepted
    1s       < r2: b accepted
    1s b accepted
    5s       < r1: a failed
    5s a FAILED
    5s wave 1 draining: 1 failed, 0 may
    9s       < r2: b completed
    9s b COMPLETED
    9s wave 1 failed: 1 failed, 0 may
    9s c SKIPPED: EarlierWave
    9s wave 2 skipped
    9s the rollout Failed
    ");
}

#[test]
fn a_rejecting_host_halts() {
    let mut drive = Drive::plan([wave_with("a b", |limits| limits.max_parallel = 1), wave("c")]);
    drive.says(1.0, "a", Rejected);
    insta::assert_snapshot!(drive.transcript(), @r"
    0s sunday begins
    0s wave 1 started
    0s a dispatched: r1, attempt 1
    0s -> deploy.prod.a: r1 switch until 135s
    1s       < r1: a rejected
    1s a REJECTED
    1s b SKIPPED: WaveHalted
    1s wave 1 failed: 1 failed, 0 may
    1s c SKIPPED: EarlierWave
    1s wave 2 skipped
    1s the rollout Failed
    ");
}

#[test]
fn a_silent_host_halts() {
    let mut drive = Drive::plan([wave("a b"), wave("c")]);
    drive.says(1.0, "b", Completed);
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
     3s       < deadline
     3s -> deploy.prod.a: r1 switch until 138s again, for its state
     7s       < deadline
     7s -> deploy.prod.a: r1 switch until 142s again, for its state
    15s       < deadline
    15s a UNREACHABLE
    15s wave 1 failed: 1 failed, 0 may
    15s c SKIPPED: EarlierWave
    15s wave 2 skipped
    15s the rollout Failed
    ");
}

#[test]
fn an_absent_host_halts_at_once() {
    let mut drive = Drive::plan([wave("a"), wave("b")]);
    drive.is_absent(0.001, "a");
    insta::assert_snapshot!(drive.transcript(), @r"
        0s sunday begins
        0s wave 1 started
        0s a dispatched: r1, attempt 1
        0s -> deploy.prod.a: r1 switch until 135s
    0.001s       < r1: 503, nobody is there
    0.001s a UNREACHABLE
    0.001s wave 1 failed: 1 failed, 0 may
    0.001s b SKIPPED: EarlierWave
    0.001s wave 2 skipped
    0.001s the rollout Failed
    ");
}

#[test]
fn a_host_that_falls_silent_halts_and_is_not_excused() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.ignore_unreachable = true), wave("b")]);
    drive.says(1.0, "a", Accepted);
    insta::assert_snapshot!(drive.transcript(), @r"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s
     1s       < r1: a accepted
     1s a accepted
    60s       < deadline
    60s a TIMED OUT
    60s wave 1 failed: 1 failed, 0 may
    60s b SKIPPED: EarlierWave
    60s wave 2 skipped
    60s the rollout Failed
    ");
}

#[test]
fn a_host_that_never_answers_can_be_excused() {
    let lenient = wave_with("laptop a", |limits| limits.ignore_unreachable = true);
    let mut drive = Drive::plan([lenient]);
    drive.says(1.0, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
     0s sunday begins
     0s wave 1 started
     0s laptop dispatched: r1, attempt 1
     0s -> deploy.prod.laptop: r1 switch until 135s
     0s a dispatched: r2, attempt 1
     0s -> deploy.prod.a: r2 switch until 135s
     1s       < r2: a completed
     1s a COMPLETED
     1s       < deadline
     1s -> deploy.prod.laptop: r1 switch until 136s again, for its state
     3s       < deadline
     3s -> deploy.prod.laptop: r1 switch until 138s again, for its state
     7s       < deadline
     7s -> deploy.prod.laptop: r1 switch until 142s again, for its state
    15s       < deadline
    15s laptop UNREACHABLE
    15s wave 1 succeeded
    15s the rollout Succeeded
    ");
}

#[test]
fn a_host_that_was_busy_and_fell_silent_is_not_excused() {
    let mut drive = Drive::plan([wave_with("a b", |limits| {
        limits.ignore_unreachable = true;
        limits.retries = 1;
    })]);
    drive.says(1.0, "b", Completed).is_busy(2.0, "a");
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
     2s       < r1: a rejected already_running
     2s a rejected, retry in 30s
    32s       < deadline
    32s a dispatched: r3, attempt 2
    32s -> deploy.prod.a: r3 switch until 167s
    33s       < deadline
    33s -> deploy.prod.a: r3 switch until 168s again, for its state
    35s       < deadline
    35s -> deploy.prod.a: r3 switch until 170s again, for its state
    39s       < deadline
    39s -> deploy.prod.a: r3 switch until 174s again, for its state
    47s       < deadline
    47s a UNREACHABLE
    47s wave 1 failed: 1 failed, 0 may
    47s the rollout Failed
    ");
}

#[test]
fn excuses_do_not_add_up_to_success() {
    let lenient = wave_with("laptop tablet", |limits| limits.ignore_unreachable = true);
    let mut drive = Drive::plan([lenient]);
    insta::assert_snapshot!(drive.transcript(), @"
     0s sunday begins
     0s wave 1 started
     0s laptop dispatched: r1, attempt 1
     0s -> deploy.prod.laptop: r1 switch until 135s
     0s tablet dispatched: r2, attempt 1
     0s -> deploy.prod.tablet: r2 switch until 135s
     1s       < deadline
     1s -> deploy.prod.laptop: r1 switch until 136s again, for its state
     1s -> deploy.prod.tablet: r2 switch until 136s again, for its state
     3s       < deadline
     3s -> deploy.prod.laptop: r1 switch until 138s again, for its state
     3s -> deploy.prod.tablet: r2 switch until 138s again, for its state
     7s       < deadline
     7s -> deploy.prod.laptop: r1 switch until 142s again, for its state
     7s -> deploy.prod.tablet: r2 switch until 142s again, for its state
    15s       < deadline
    15s laptop UNREACHABLE
    15s tablet UNREACHABLE
    15s wave 1 failed: 0 completed, 1 must
    15s the rollout Failed
    ");
}

#[test]
fn one_failure_is_tolerated() {
    let mut drive = Drive::plan([wave_with("a b", |limits| limits.max_failures = 1), wave("c")]);
    drive.says(1.0, "a", Failed).says(2.0, "b", Completed).says(3.0, "c", Completed);
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
    2s       < r2: b completed
    2s b COMPLETED
    2s wave 1 succeeded
    2s wave 2 started
    2s c dispatched: r3, attempt 1
    2s -> deploy.prod.c: r3 switch until 137s
    3s       < r3: c completed
    3s c COMPLETED
    3s wave 2 succeeded
    3s the rollout Succeeded
    ");
}

#[test]
fn a_second_failure_is_not() {
    let tolerant = wave_with("a b c d", |limits| {
        limits.max_failures = 1;
        limits.max_parallel = 2;
    });
    let mut drive = Drive::plan([tolerant]);
    drive.says(1.0, "a", Failed).says(2.0, "b", Failed).says(3.0, "c", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
    0s sunday begins
    0s wave 1 started
    0s a dispatched: r1, attempt 1
    0s -> deploy.prod.a: r1 switch until 135s
    0s b dispatched: r2, attempt 1
    0s -> deploy.prod.b: r2 switch until 135s
    1s       < r1: a failed
    1s a FAILED
    1s c dispatched: r3, attempt 1
    1s -> deploy.prod.c: r3 switch until 136s
    1s       < deadline
    1s -> deploy.prod.b: r2 switch until 136s again, for its state
    2s       < r2: b failed
    2s b FAILED
    2s wave 1 draining: 2 failed, 1 may
    2s       < deadline
    2s -> deploy.prod.c: r3 switch until 137s again, for its state
    3s       < r3: c completed
    3s c COMPLETED
    3s d SKIPPED: WaveHalted
    3s wave 1 failed: 2 failed, 1 may
    3s the rollout Failed
    ");
}

#[test]
fn the_window_slides() {
    let mut drive = Drive::plan([wave_with("a b c d", |limits| limits.max_parallel = 2)]);
    drive.says(1.0, "b", Completed).says(2.0, "c", Completed).says(3.0, "a", Completed).says(4.0, "d", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
    0s sunday begins
    0s wave 1 started
    0s a dispatched: r1, attempt 1
    0s -> deploy.prod.a: r1 switch until 135s
    0s b dispatched: r2, attempt 1
    0s -> deploy.prod.b: r2 switch until 135s
    1s       < r2: b completed
    1s b COMPLETED
    1s c dispatched: r3, attempt 1
    1s -> deploy.prod.c: r3 switch until 136s
    1s       < deadline
    1s -> deploy.prod.a: r1 switch until 136s again, for its state
    2s       < r3: c completed
    2s c COMPLETED
    2s d dispatched: r4, attempt 1
    2s -> deploy.prod.d: r4 switch until 137s
    3s       < r1: a completed
    3s a COMPLETED
    3s       < deadline
    3s -> deploy.prod.d: r4 switch until 138s again, for its state
    4s       < r4: d completed
    4s d COMPLETED
    4s wave 1 succeeded
    4s the rollout Succeeded
    ");
}
