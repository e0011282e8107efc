//! Rollouts in which all hosts fetch their systems before any of them is deployed.

use crate::protocol::Status::{Completed, Failed};
use crate::rollout::tests::drive::Drive;
use crate::rollout::tests::fixture::{wave, wave_with};

#[test]
fn the_hosts_of_all_waves_fetch_before_the_first_is_changed() {
    let mut drive = Drive::staged([wave("a"), wave("b")]);
    drive.says(1.0, "b", Completed).says(2.0, "a", Completed);
    drive.says(9.0, "a", Completed).says(10.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 fetch until 135s
     0s b dispatched: r2, attempt 1
     0s -> deploy.prod.b: r2 fetch until 135s
     1s       < r2: b completed
     1s b COMPLETED
     1s       < deadline
     1s -> deploy.prod.a: r1 fetch until 136s again, for its state
     2s       < r1: a completed
     2s a COMPLETED
     2s wave 1 succeeded
     2s all have fetched
     2s wave 2 started
     2s a dispatched: r3, attempt 1
     2s -> deploy.prod.a: r3 switch until 137s
     3s       < deadline
     3s -> deploy.prod.a: r3 switch until 138s again, for its state
     5s       < deadline
     5s -> deploy.prod.a: r3 switch until 140s again, for its state
     9s       < r3: a completed
     9s a COMPLETED
     9s wave 2 succeeded
     9s wave 3 started
     9s b dispatched: r4, attempt 1
     9s -> deploy.prod.b: r4 switch until 144s
    10s       < r4: b completed
    10s b COMPLETED
    10s wave 3 succeeded
    10s the rollout Succeeded
    ");
}

#[test]
fn one_that_cannot_fetch_halts_before_anything_is_changed_and_a_resumed_rollout_goes_on_with_it() {
    let mut drive = Drive::staged([wave("a"), wave("b")]);
    drive.says(1.0, "a", Completed).says(2.0, "b", Failed);
    drive.is_restarted(60.0).says(61.0, "b", Completed);
    drive.says(62.0, "a", Completed).says(63.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 fetch until 135s
     0s b dispatched: r2, attempt 1
     0s -> deploy.prod.b: r2 fetch until 135s
     1s       < r1: a completed
     1s a COMPLETED
     1s       < deadline
     1s -> deploy.prod.b: r2 fetch until 136s again, for its state
     2s       < r2: b failed
     2s b FAILED
     2s wave 1 failed: 1 failed, 0 may
     2s wave 2 skipped
     2s wave 3 skipped
     2s the rollout Failed
    60s       < the operator's machine died and is back
    60s resumed
    60s wave 1 started
    60s b dispatched: r3, attempt 1
    60s -> deploy.prod.b: r3 fetch until 195s
    61s       < r3: b completed
    61s b COMPLETED
    61s wave 1 succeeded
    61s all have fetched
    61s wave 2 started
    61s a dispatched: r4, attempt 1
    61s -> deploy.prod.a: r4 switch until 196s
    62s       < r4: a completed
    62s a COMPLETED
    62s wave 2 succeeded
    62s wave 3 started
    62s b dispatched: r5, attempt 1
    62s -> deploy.prod.b: r5 switch until 197s
    63s       < r5: b completed
    63s b COMPLETED
    63s wave 3 succeeded
    63s the rollout Succeeded
    ");
}

#[test]
fn a_host_that_is_away_is_excused_where_its_own_wave_excuses_it() {
    let mut drive = Drive::staged([
        wave("a"),
        wave_with("b", |limits| {
            limits.ignore_unreachable = true;
            limits.min_hosts = 0;
        }),
    ]);
    drive.says(1.0, "a", Completed).silence_until(20.0).says(21.0, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 fetch until 135s
     0s b dispatched: r2, attempt 1
     0s -> deploy.prod.b: r2 fetch until 135s
     1s       < r1: a completed
     1s a COMPLETED
     1s       < deadline
     1s -> deploy.prod.b: r2 fetch until 136s again, for its state
     3s       < deadline
     3s -> deploy.prod.b: r2 fetch until 138s again, for its state
     7s       < deadline
     7s -> deploy.prod.b: r2 fetch until 142s again, for its state
    15s       < deadline
    15s b UNREACHABLE
    15s wave 1 succeeded
    15s all have fetched
    15s wave 2 started
    15s a dispatched: r3, attempt 1
    15s -> deploy.prod.a: r3 switch until 150s
    16s       < deadline
    16s -> deploy.prod.a: r3 switch until 151s again, for its state
    18s       < deadline
    18s -> deploy.prod.a: r3 switch until 153s again, for its state
    21s       < r3: a completed
    21s a COMPLETED
    21s wave 2 succeeded
    21s wave 3 started
    21s b dispatched: r4, attempt 1
    21s -> deploy.prod.b: r4 switch until 156s
    22s       < deadline
    22s -> deploy.prod.b: r4 switch until 157s again, for its state
    24s       < deadline
    24s -> deploy.prod.b: r4 switch until 159s again, for its state
    28s       < deadline
    28s -> deploy.prod.b: r4 switch until 163s again, for its state
    36s       < deadline
    36s b UNREACHABLE
    36s wave 3 succeeded
    36s the rollout Succeeded
    ");
}
