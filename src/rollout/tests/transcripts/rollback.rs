//! Confirmations and rollbacks.

use crate::plan::{ResolvedWave, Rollback};
use crate::protocol::Status::{Completed, Failed, Started};
use crate::protocol::{Feature, HostReport};
use crate::rollout::tests::drive::Drive;
use crate::rollout::tests::fixture::{check, name, report, wave, wave_with};
use crate::rollout::{Connection, Input, Interrupt};

/// Returns a wave whose hosts roll back when it fails.
fn returning(hosts: &str) -> ResolvedWave {
    wave_with(hosts, |limits| {
        limits.rollback = Rollback::Wave;
        limits.check = Some(check());
    })
}

fn check_fails() -> Input {
    Input::CheckDone(Err("exit code 1".to_owned()))
}

#[test]
fn a_host_is_confirmed_each_time_that_it_says_that_it_waits() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.rollback = Rollback::Auto)]);
    drive.says(1.0, "a", Started).waits_to_be_confirmed(30.0, "a").waits_to_be_confirmed(32.0, "a");
    drive.says(33.0, "a", Completed).waits_to_be_confirmed(34.0, "a");
    insta::assert_snapshot!(drive.transcript(), @"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s, confirmed within 60s
     1s       < r1: a started
     1s a started, None
    30s       < r1: a started to be confirmed
    30s a started, Some(Confirm)
    30s -> deploy.prod.a: r1 switch until 165s, confirmed within 60s again, to confirm it
    32s       < r1: a started to be confirmed
    32s a started, Some(Confirm)
    32s -> deploy.prod.a: r1 switch until 167s, confirmed within 60s again, to confirm it
    33s       < r1: a completed
    33s a COMPLETED
    33s wave 1 succeeded
    33s the rollout Succeeded
    34s       < r1: a started to be confirmed
    ");
}

#[test]
fn a_host_is_given_the_time_to_wait_and_to_return_and_is_not_confirmed_once_it_was_given_up() {
    let mut drive = Drive::plan([wave_with("a b", |limits| limits.rollback = Rollback::Auto)]);
    drive.says(1.0, "a", Started).says(1.0, "b", Started).waits_to_be_confirmed(100.0, "a");
    drive.ends_with(170.0, "a", Failed, Some(true));
    drive.silence_until(420.0);
    insta::assert_snapshot!(drive.transcript(), @"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s, confirmed within 60s
      0s b dispatched: r2, attempt 1
      0s -> deploy.prod.b: r2 switch until 135s, confirmed within 60s
      1s       < r1: a started
      1s a started, None
      1s       < r2: b started
      1s b started, None
     76s       < deadline
     76s -> deploy.prod.a: r1 switch until 211s, confirmed within 60s again, for its state
     76s -> deploy.prod.b: r2 switch until 211s, confirmed within 60s again, for its state
    100s       < r1: a started to be confirmed
    100s a started, Some(Confirm)
    100s -> deploy.prod.a: r1 switch until 235s, confirmed within 60s again, to confirm it
    151s       < deadline
    151s -> deploy.prod.b: r2 switch until 286s, confirmed within 60s again, for its state
    170s       < r1: a failed rolled back
    170s a FAILED
    170s wave 1 draining: 1 failed, 0 may
    226s       < deadline
    226s -> deploy.prod.b: r2 switch until 361s, confirmed within 60s again, for its state
    301s       < deadline
    301s -> deploy.prod.b: r2 switch until 436s, confirmed within 60s again, for its state
    376s       < deadline
    376s -> deploy.prod.b: r2 switch until 511s, confirmed within 60s again, for its state
    420s       < deadline
    420s b TIMED OUT
    420s wave 1 failed: 2 failed, 0 may
    420s the rollout Failed
    ");
}

#[test]
fn hosts_in_flight_are_confirmed_while_a_rollout_drains_and_after_it_is_resumed() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.rollback = Rollback::Auto), wave("b")]);
    drive.says(1.0, "a", Started).at(2.0, Input::Interrupt(Interrupt::Drain)).waits_to_be_confirmed(3.0, "a");
    drive.is_restarted(20.0).waits_to_be_confirmed(20.5, "a").at(21.0, Input::Interrupt(Interrupt::Abort));
    insta::assert_snapshot!(drive.transcript(), @"
       0s sunday begins
       0s wave 1 started
       0s a dispatched: r1, attempt 1
       0s -> deploy.prod.a: r1 switch until 135s, confirmed within 60s
       1s       < r1: a started
       1s a started, None
       2s       < interrupt: Drain
       2s interrupted: Drain
       3s       < r1: a started to be confirmed
       3s a started, Some(Confirm)
       3s -> deploy.prod.a: r1 switch until 138s, confirmed within 60s again, to confirm it
      20s       < the operator's machine died and is back
      20s resumed
      20s wave 1 started
      20s -> deploy.prod.a: r1 switch until 155s, confirmed within 60s again, for its state
    20.5s       < r1: a started to be confirmed
    20.5s a started, Some(Confirm)
    20.5s -> deploy.prod.a: r1 switch until 155s, confirmed within 60s again, to confirm it
      21s       < interrupt: Abort
      21s interrupted: Abort
      21s wave 1 interrupted
      21s b SKIPPED: Interrupt
      21s wave 2 skipped
      21s the rollout Interrupted
    ");
}

#[test]
fn nothing_is_sent_to_a_host_that_may_not_be_able_to_return() {
    let mut wave = wave_with("a b", |limits| limits.rollback = Rollback::Auto);
    wave.hosts[0].supports_rollback = false;
    wave.limits.max_failures = 1;
    let mut drive = Drive::plan([wave]);
    drive.says(1.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
    0s sunday begins
    0s wave 1 started
    0s a UNREACHABLE
    0s b dispatched: r1, attempt 1
    0s -> deploy.prod.b: r1 switch until 135s, confirmed within 60s
    1s       < r1: b completed
    1s b COMPLETED
    1s wave 1 succeeded
    1s the rollout Succeeded
    ");
}

#[test]
fn a_silent_host_that_answers_the_next_roll_call_can_return_and_is_deployed() {
    let later = || {
        let mut wave = wave_with("b c", |limits| limits.rollback = Rollback::Auto);
        wave.hosts[0].supports_rollback = false;
        wave.hosts[1].supports_rollback = false;
        wave.limits.max_failures = 1;
        wave
    };
    let mut drive = Drive::plan([wave("a"), later()]);
    drive.says(1.0, "a", Completed).is_present(1.2, able("b")).says(2.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      1s       < r1: a completed
      1s a COMPLETED
      1s wave 1 succeeded
      1s wave 2 started
      1s -> call the roll
    1.2s       < b is there
    1.2s b dispatched: r2, attempt 1
    1.2s -> deploy.prod.b: r2 switch until 136s, confirmed within 60s
      2s       < r2: b completed
      2s b COMPLETED
     16s       < deadline
     16s c UNREACHABLE
     16s wave 2 succeeded
     16s the rollout Succeeded
    ");

    let mut drive = Drive::plan([later()]);
    drive.is_restarted_after(1, 20.0).is_present(20.2, able("c")).silence_until(35.0).says(36.0, "c", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
       0s sunday begins
      20s       < the operator's machine died and is back
      20s resumed
      20s -> call the roll
      20s wave 1 started
    20.2s       < c is there
      35s       < deadline
      35s b UNREACHABLE
      35s c dispatched: r1, attempt 1
      35s -> deploy.prod.c: r1 switch until 170s, confirmed within 60s
      36s       < r1: c completed
      36s c COMPLETED
      36s wave 1 succeeded
      36s the rollout Succeeded
    ");
}

/// Returns the report of a host that supports rollback.
fn able(host: &str) -> HostReport {
    HostReport { features: vec![Feature::Id, Feature::Rollback], ..report(&name(host), Vec::new()) }
}

#[test]
fn the_hosts_of_a_wave_that_failed_return_newest_first() {
    let mut drive = Drive::plan([returning("a b c"), wave("d")]);
    drive.says(1.0, "b", Completed).says(2.0, "c", Completed).says(3.0, "a", Completed).at(4.0, check_fails());
    drive.ends_with(5.0, "a", Completed, Some(true)).ends_with(6.0, "c", Failed, Some(false));
    drive.is_absent(6.1, "b").says(7.5, "b", Started).ends_with(8.0, "b", Completed, None);
    insta::assert_snapshot!(drive.transcript(), @r#"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s, confirmed within 60s
      0s b dispatched: r2, attempt 1
      0s -> deploy.prod.b: r2 switch until 135s, confirmed within 60s
      0s c dispatched: r3, attempt 1
      0s -> deploy.prod.c: r3 switch until 135s, confirmed within 60s
      1s       < r2: b completed
      1s b COMPLETED
      1s       < deadline
      1s -> deploy.prod.a: r1 switch until 136s, confirmed within 60s again, for its state
      1s -> deploy.prod.c: r3 switch until 136s, confirmed within 60s again, for its state
      2s       < r3: c completed
      2s c COMPLETED
      3s       < r1: a completed
      3s a COMPLETED
      3s wave 1 checking
      3s -> run the check of wave 1
      4s       < the check says Err("exit code 1")
      4s wave 1 failed: check: exit code 1
      4s a returning: r4
      4s -> deploy.prod.a: r4 back from r1 until 139s
      5s       < r4: a completed rolled back
      5s a return COMPLETED
      5s c returning: r5
      5s -> deploy.prod.c: r5 back from r3 until 140s
      6s       < r5: c failed not rolled back
      6s c return FAILED
      6s b returning: r6
      6s -> deploy.prod.b: r6 back from r2 until 141s
    6.1s       < r6: 503, nobody is there
      7s       < deadline
      7s -> deploy.prod.b: r6 back from r2 until 142s again, for its state
    7.5s       < r6: b started
      8s       < r6: b completed
      8s b return FAILED
      8s d SKIPPED: EarlierWave
      8s wave 2 skipped
      8s the rollout Failed
    "#);
}

#[test]
fn a_return_that_a_crash_interrupts_goes_on_and_only_then_is_the_wave_done_anew() {
    let mut drive = Drive::plan([returning("a b")]);
    drive.says(1.0, "a", Completed).says(2.0, "b", Completed).at(4.0, check_fails());
    drive.is_restarted(20.0).ends_with(21.0, "b", Completed, Some(true)).ends_with(22.0, "a", Completed, Some(true));
    drive.is_restarted(30.0).says(31.0, "a", Completed).says(31.0, "b", Completed).at(32.0, Input::CheckDone(Ok(())));
    insta::assert_snapshot!(drive.transcript(), @r#"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s, confirmed within 60s
     0s b dispatched: r2, attempt 1
     0s -> deploy.prod.b: r2 switch until 135s, confirmed within 60s
     1s       < r1: a completed
     1s a COMPLETED
     1s       < deadline
     1s -> deploy.prod.b: r2 switch until 136s, confirmed within 60s again, for its state
     2s       < r2: b completed
     2s b COMPLETED
     2s wave 1 checking
     2s -> run the check of wave 1
     4s       < the check says Err("exit code 1")
     4s wave 1 failed: check: exit code 1
     4s b returning: r3
     4s -> deploy.prod.b: r3 back from r2 until 139s
    20s       < the operator's machine died and is back
    20s resumed
    20s -> deploy.prod.b: r3 back from r2 until 155s again, for its state
    21s       < r3: b completed rolled back
    21s b return COMPLETED
    21s a returning: r4
    21s -> deploy.prod.a: r4 back from r1 until 156s
    22s       < r4: a completed rolled back
    22s a return COMPLETED
    22s the rollout Failed
    30s       < the operator's machine died and is back
    30s resumed
    30s wave 1 started
    30s a dispatched: r5, attempt 1
    30s -> deploy.prod.a: r5 switch until 165s, confirmed within 60s
    30s b dispatched: r6, attempt 1
    30s -> deploy.prod.b: r6 switch until 165s, confirmed within 60s
    31s       < r5: a completed
    31s a COMPLETED
    31s       < r6: b completed
    31s b COMPLETED
    31s wave 1 checking
    31s -> run the check of wave 1
    32s       < the check says Ok(())
    32s wave 1 succeeded
    32s the rollout Succeeded
    "#);
}

#[test]
fn after_an_interrupt_nobody_else_returns_until_the_rollout_is_resumed() {
    let mut drive = Drive::plan([returning("a b")]);
    drive.says(1.0, "a", Completed).says(2.0, "b", Completed).at(4.0, check_fails());
    drive.at(5.0, Input::Interrupt(Interrupt::Drain)).ends_with(6.0, "b", Completed, Some(true));
    drive.is_restarted(30.0).ends_with(31.0, "a", Completed, Some(true));
    insta::assert_snapshot!(drive.transcript(), @r#"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s, confirmed within 60s
     0s b dispatched: r2, attempt 1
     0s -> deploy.prod.b: r2 switch until 135s, confirmed within 60s
     1s       < r1: a completed
     1s a COMPLETED
     1s       < deadline
     1s -> deploy.prod.b: r2 switch until 136s, confirmed within 60s again, for its state
     2s       < r2: b completed
     2s b COMPLETED
     2s wave 1 checking
     2s -> run the check of wave 1
     4s       < the check says Err("exit code 1")
     4s wave 1 failed: check: exit code 1
     4s b returning: r3
     4s -> deploy.prod.b: r3 back from r2 until 139s
     5s       < interrupt: Drain
     5s interrupted: Drain
     5s       < deadline
     5s -> deploy.prod.b: r3 back from r2 until 140s again, for its state
     6s       < r3: b completed rolled back
     6s b return COMPLETED
     6s the rollout Interrupted
    30s       < the operator's machine died and is back
    30s resumed
    30s a returning: r4
    30s -> deploy.prod.a: r4 back from r1 until 165s
    31s       < r4: a completed rolled back
    31s a return COMPLETED
    31s the rollout Failed
    "#);
}

#[test]
fn nobody_is_asked_to_return_while_the_bus_is_away() {
    let mut drive = Drive::plan([returning("a b")]);
    drive.says(1.0, "a", Completed).says(2.0, "b", Completed).at(3.0, Input::Connection(Connection::Down));
    drive.at(4.0, check_fails()).at(5.0, Input::Connection(Connection::Up)).ends_with(6.0, "b", Completed, Some(true));
    drive.at(7.0, Input::Connection(Connection::Down));
    insta::assert_snapshot!(drive.transcript(), @r#"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s, confirmed within 60s
      0s b dispatched: r2, attempt 1
      0s -> deploy.prod.b: r2 switch until 135s, confirmed within 60s
      1s       < r1: a completed
      1s a COMPLETED
      1s       < deadline
      1s -> deploy.prod.b: r2 switch until 136s, confirmed within 60s again, for its state
      2s       < r2: b completed
      2s b COMPLETED
      2s wave 1 checking
      2s -> run the check of wave 1
      3s       < connection Down
      3s connection Down
      4s       < the check says Err("exit code 1")
      4s wave 1 failed: check: exit code 1
      5s       < connection Up
      5s connection Up
      5s b returning: r3
      5s -> deploy.prod.b: r3 back from r2 until 140s
      6s       < r3: b completed rolled back
      6s b return COMPLETED
      6s a returning: r4
      6s -> deploy.prod.a: r4 back from r1 until 141s
      7s       < connection Down
      7s connection Down
    427s       < deadline
    427s a return TIMED OUT
    427s the rollout Failed
    "#);
}

#[test]
fn a_host_that_returns_after_it_was_given_up_is_reported() {
    let mut drive = Drive::plan([returning("a b")]);
    drive.says(1.0, "a", Completed).says(2.0, "b", Completed).at(3.0, check_fails()).silence_until(18.0);
    drive.ends_with(19.0, "b", Completed, Some(true)).ends_with(20.0, "a", Completed, Some(true));
    insta::assert_snapshot!(drive.transcript(), @r#"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s, confirmed within 60s
     0s b dispatched: r2, attempt 1
     0s -> deploy.prod.b: r2 switch until 135s, confirmed within 60s
     1s       < r1: a completed
     1s a COMPLETED
     1s       < deadline
     1s -> deploy.prod.b: r2 switch until 136s, confirmed within 60s again, for its state
     2s       < r2: b completed
     2s b COMPLETED
     2s wave 1 checking
     2s -> run the check of wave 1
     3s       < the check says Err("exit code 1")
     3s wave 1 failed: check: exit code 1
     3s b returning: r3
     3s -> deploy.prod.b: r3 back from r2 until 138s
     4s       < deadline
     4s -> deploy.prod.b: r3 back from r2 until 139s again, for its state
     6s       < deadline
     6s -> deploy.prod.b: r3 back from r2 until 141s again, for its state
    10s       < deadline
    10s -> deploy.prod.b: r3 back from r2 until 145s again, for its state
    18s       < deadline
    18s b return UNREACHABLE
    18s a returning: r4
    18s -> deploy.prod.a: r4 back from r1 until 153s
    19s       < r3: b completed rolled back
    19s b anomaly: late completed
    19s       < deadline
    19s -> deploy.prod.a: r4 back from r1 until 154s again, for its state
    20s       < r4: a completed rolled back
    20s a return COMPLETED
    20s the rollout Failed
    "#);
}
