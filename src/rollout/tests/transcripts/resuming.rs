//! Rollouts that are resumed after a crash of the operator's machine.

use crate::protocol::Status::{Accepted, Completed, Failed, Started};
use crate::rollout::tests::drive::Drive;
use crate::rollout::tests::fixture::{check, name, report, secs, wave, wave_with};
use crate::rollout::{Confirmation, Input, Interrupt};

#[test]
fn a_rollout_of_which_only_the_beginning_is_on_record_begins() {
    let mut drive = Drive::plan([wave("a")]);
    drive.is_restarted_after(1, 20.0).says(21.0, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @r"
     0s sunday begins
    20s       < the operator's machine died and is back
    20s resumed
    20s wave 1 started
    20s a dispatched: r1, attempt 1
    20s -> deploy.prod.a: r1 switch until 155s
    21s       < r1: a completed
    21s a COMPLETED
    21s wave 1 succeeded
    21s the rollout Succeeded
    ");
}

#[test]
fn a_host_in_flight_that_completed_meanwhile_says_so() {
    let mut drive = Drive::plan([wave("a"), wave("b")]);
    drive.says(1.0, "a", Started).is_restarted(20.0);
    drive.says(20.5, "a", Completed).says(22.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
       0s sunday begins
       0s wave 1 started
       0s a dispatched: r1, attempt 1
       0s -> deploy.prod.a: r1 switch until 135s
       1s       < r1: a started
       1s a started, None
      20s       < the operator's machine died and is back
      20s resumed
      20s wave 1 started
      20s -> deploy.prod.a: r1 switch until 155s again, for its state
    20.5s       < r1: a completed
    20.5s a COMPLETED
    20.5s wave 1 succeeded
    20.5s wave 2 started
    20.5s b dispatched: r2, attempt 1
    20.5s -> deploy.prod.b: r2 switch until 155s
    21.5s       < deadline
    21.5s -> deploy.prod.b: r2 switch until 156s again, for its state
      22s       < r2: b completed
      22s b COMPLETED
      22s wave 2 succeeded
      22s the rollout Succeeded
    ");
}

#[test]
fn a_host_in_flight_that_never_heard_of_it_takes_it_now() {
    let mut drive = Drive::plan([wave_with("a b", |limits| limits.max_parallel = 1)]);
    drive.is_restarted(20.0).says(21.0, "a", Accepted).says(50.0, "a", Completed).says(51.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s
    20s       < the operator's machine died and is back
    20s resumed
    20s wave 1 started
    20s -> deploy.prod.a: r1 switch until 155s again, for its state
    21s       < r1: a accepted
    21s a accepted
    50s       < r1: a completed
    50s a COMPLETED
    50s b dispatched: r2, attempt 1
    50s -> deploy.prod.b: r2 switch until 185s
    51s       < r2: b completed
    51s b COMPLETED
    51s wave 1 succeeded
    51s the rollout Succeeded
    ");
}

#[test]
fn a_host_in_flight_that_nobody_is_subscribed_for_may_be_restarting_its_listener() {
    let mut drive = Drive::plan([wave("a")]);
    drive.is_restarted(20.0).is_absent(20.1, "a").silence_until(21.2).says(21.3, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
       0s sunday begins
       0s wave 1 started
       0s a dispatched: r1, attempt 1
       0s -> deploy.prod.a: r1 switch until 135s
      20s       < the operator's machine died and is back
      20s resumed
      20s wave 1 started
      20s -> deploy.prod.a: r1 switch until 155s again, for its state
    20.1s       < r1: 503, nobody is there
      21s       < deadline
      21s -> deploy.prod.a: r1 switch until 156s again, for its state
    21.3s       < r1: a completed
    21.3s a COMPLETED
    21.3s wave 1 succeeded
    21.3s the rollout Succeeded
    ");
}

#[test]
fn completed_hosts_of_a_wave_are_not_asked_again_and_count() {
    let mut drive = Drive::plan([wave_with("a b c", |limits| {
        limits.max_parallel = 2;
        limits.min_hosts = 3;
    })]);
    drive.says(1.0, "b", Completed).is_restarted(20.0);
    drive.says(21.0, "a", Completed).says(22.0, "c", Completed);
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
    20s       < the operator's machine died and is back
    20s resumed
    20s wave 1 started
    20s -> deploy.prod.a: r1 switch until 155s again, for its state
    20s -> deploy.prod.c: r3 switch until 155s again, for its state
    21s       < r1: a completed
    21s a COMPLETED
    21s       < deadline
    21s -> deploy.prod.c: r3 switch until 156s again, for its state
    22s       < r3: c completed
    22s c COMPLETED
    22s wave 1 succeeded
    22s the rollout Succeeded
    ");
}

#[test]
fn a_failed_host_is_asked_under_a_new_id_and_a_timed_out_one_under_its_old() {
    let mut drive = Drive::plan([wave_with("a b", |limits| limits.max_failures = 0), wave("c")]);
    drive.says(1.0, "b", Started).says(2.0, "a", Failed).silence_until(60.0).is_restarted(100.0);
    drive.says(101.0, "b", Completed).says(102.0, "a", Completed).says(103.0, "c", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      0s b dispatched: r2, attempt 1
      0s -> deploy.prod.b: r2 switch until 135s
      1s       < r2: b started
      1s b started, None
      1s       < deadline
      1s -> deploy.prod.a: r1 switch until 136s again, for its state
      2s       < r1: a failed
      2s a FAILED
      2s wave 1 draining: 1 failed, 0 may
     60s       < deadline
     60s b TIMED OUT
     60s wave 1 failed: 2 failed, 0 may
     60s c SKIPPED: EarlierWave
     60s wave 2 skipped
     60s the rollout Failed
    100s       < the operator's machine died and is back
    100s resumed
    100s wave 1 started
    100s a dispatched: r3, attempt 1
    100s -> deploy.prod.a: r3 switch until 235s
    100s b dispatched: r2, attempt 1
    100s -> deploy.prod.b: r2 switch until 235s
    101s       < r2: b completed
    101s b COMPLETED
    101s       < deadline
    101s -> deploy.prod.a: r3 switch until 236s again, for its state
    102s       < r3: a completed
    102s a COMPLETED
    102s wave 1 succeeded
    102s wave 2 started
    102s c dispatched: r4, attempt 1
    102s -> deploy.prod.c: r4 switch until 237s
    103s       < r4: c completed
    103s c COMPLETED
    103s wave 2 succeeded
    103s the rollout Succeeded
    ");
}

#[test]
fn a_host_that_failed_within_the_budget_of_a_wave_behind_is_left_alone() {
    let tolerant = wave_with("a b", |limits| limits.max_failures = 1);
    let mut drive = Drive::plan([tolerant, wave("c")]);
    drive.says(1.0, "a", Failed).says(2.0, "b", Completed).is_restarted(20.0).says(21.0, "c", Completed);
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
    20s       < the operator's machine died and is back
    20s resumed
    20s wave 2 started
    20s -> deploy.prod.c: r3 switch until 155s again, for its state
    21s       < r3: c completed
    21s c COMPLETED
    21s wave 2 succeeded
    21s the rollout Succeeded
    ");
}

#[test]
fn a_wave_that_was_complete_bakes_and_is_checked() {
    let careful = wave_with("a b", |limits| {
        limits.bake_time = secs(10);
        limits.check = Some(check());
    });
    let mut drive = Drive::plan([careful]);
    drive.says(1.0, "a", Completed).says(2.0, "b", Completed).is_restarted(20.0);
    drive.silence_until(30.0).is_restarted(40.0).silence_until(50.0).at(51.0, Input::CheckDone(Ok(())));
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
     2s       < r2: b completed
     2s b COMPLETED
     2s wave 1 baking for 10s
    20s       < the operator's machine died and is back
    20s resumed
    20s wave 1 started
    20s wave 1 baking for 10s
    30s       < deadline
    30s wave 1 checking
    30s -> run the check of wave 1
    40s       < the operator's machine died and is back
    40s resumed
    40s wave 1 started
    40s wave 1 baking for 10s
    50s       < deadline
    50s wave 1 checking
    50s -> run the check of wave 1
    51s       < the check says Ok(())
    51s wave 1 succeeded
    51s the rollout Succeeded
    ");
}

#[test]
fn a_wave_that_was_confirmed_is_not_asked_about_again() {
    let mut drive = Drive::plan([wave_with("a b", |limits| {
        limits.confirm = true;
        limits.max_parallel = 1;
    })]);
    drive.at(1.0, Input::Confirmation(Confirmation::Yes)).says(2.0, "a", Completed).is_restarted(20.0);
    drive.says(21.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
     0s sunday begins
     0s wave 1 awaits confirmation
     0s -> ask the operator about wave 1
     1s       < the operator says Yes
     1s wave 1 started
     1s a dispatched: r1, attempt 1
     1s -> deploy.prod.a: r1 switch until 136s
     2s       < r1: a completed
     2s a COMPLETED
     2s b dispatched: r2, attempt 1
     2s -> deploy.prod.b: r2 switch until 137s
    20s       < the operator's machine died and is back
    20s resumed
    20s wave 1 started
    20s -> deploy.prod.b: r2 switch until 155s again, for its state
    21s       < r2: b completed
    21s b COMPLETED
    21s wave 1 succeeded
    21s the rollout Succeeded
    ");
}

#[test]
fn a_wave_that_was_not_confirmed_is_asked_about_again() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.confirm = true)]);
    drive.at(1.0, Input::Confirmation(Confirmation::Unavailable)).is_restarted(20.0);
    drive.at(21.0, Input::Confirmation(Confirmation::Yes)).says(22.0, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @r"
     0s sunday begins
     0s wave 1 awaits confirmation
     0s -> ask the operator about wave 1
     1s       < the operator says Unavailable
     1s a SKIPPED: NotConfirmed
     1s wave 1 skipped
     1s the rollout Paused
    20s       < the operator's machine died and is back
    20s resumed
    20s wave 1 awaits confirmation
    20s -> ask the operator about wave 1
    21s       < the operator says Yes
    21s wave 1 started
    21s a dispatched: r1, attempt 1
    21s -> deploy.prod.a: r1 switch until 156s
    22s       < r1: a completed
    22s a COMPLETED
    22s wave 1 succeeded
    22s the rollout Succeeded
    ");
}

#[test]
fn a_host_in_flight_fills_the_window_before_those_that_come_first() {
    let mut drive = Drive::plan([wave_with("a b c", |limits| {
        limits.max_parallel = 1;
        limits.max_failures = 1;
    })]);
    drive.says(1.0, "a", Failed).is_restarted(20.0);
    drive.says(21.0, "b", Completed).says(22.0, "a", Completed).says(23.0, "c", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s
     1s       < r1: a failed
     1s a FAILED
     1s b dispatched: r2, attempt 1
     1s -> deploy.prod.b: r2 switch until 136s
    20s       < the operator's machine died and is back
    20s resumed
    20s wave 1 started
    20s -> deploy.prod.b: r2 switch until 155s again, for its state
    21s       < r2: b completed
    21s b COMPLETED
    21s a dispatched: r3, attempt 1
    21s -> deploy.prod.a: r3 switch until 156s
    22s       < r3: a completed
    22s a COMPLETED
    22s c dispatched: r4, attempt 1
    22s -> deploy.prod.c: r4 switch until 157s
    23s       < r4: c completed
    23s c COMPLETED
    23s wave 1 succeeded
    23s the rollout Succeeded
    ");
}

#[test]
fn a_rollout_that_was_left_in_a_hurry_goes_on() {
    let mut drive = Drive::plan([wave_with("a b", |limits| limits.max_parallel = 1), wave("c")]);
    drive.at(1.0, Input::Interrupt(Interrupt::Abort)).is_restarted(20.0);
    drive.says(21.0, "a", Completed).says(22.0, "b", Completed).says(23.0, "c", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s
     1s       < interrupt: Abort
     1s interrupted: Abort
     1s b SKIPPED: Interrupt
     1s wave 1 interrupted
     1s c SKIPPED: Interrupt
     1s wave 2 skipped
     1s the rollout Interrupted
    20s       < the operator's machine died and is back
    20s resumed
    20s wave 1 started
    20s -> deploy.prod.a: r1 switch until 155s again, for its state
    21s       < r1: a completed
    21s a COMPLETED
    21s b dispatched: r2, attempt 1
    21s -> deploy.prod.b: r2 switch until 156s
    22s       < r2: b completed
    22s b COMPLETED
    22s wave 1 succeeded
    22s wave 2 started
    22s c dispatched: r3, attempt 1
    22s -> deploy.prod.c: r3 switch until 157s
    23s       < r3: c completed
    23s c COMPLETED
    23s wave 2 succeeded
    23s the rollout Succeeded
    ");
}

#[test]
fn what_has_succeeded_only_has_to_say_so() {
    let mut drive = Drive::plan([wave("a")]);
    drive.says(1.0, "a", Completed).is_restarted(20.0);
    insta::assert_snapshot!(drive.transcript(), @r"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s
     1s       < r1: a completed
     1s a COMPLETED
     1s wave 1 succeeded
     1s the rollout Succeeded
    20s       < the operator's machine died and is back
    20s resumed
    20s the rollout Succeeded
    ");
}

#[test]
fn who_answers_the_roll_call_of_the_process_before_is_no_news_when_it_is_of_the_plan() {
    let mut groups = wave_with("b", |limits| limits.confirm = true);
    groups.groups.targets = vec!["deploy.prod.all".parse().unwrap()];
    let mut drive = Drive::plan([wave("a"), groups]);
    drive.says(1.0, "a", Completed).is_restarted(20.0);
    drive.is_present(20.5, report(&name("b"), vec!["deploy.prod.all".parse().unwrap()]));
    drive.at(21.0, Input::Confirmation(Confirmation::No));
    insta::assert_snapshot!(drive.transcript(), @"
       0s sunday begins
       0s wave 1 started
       0s a dispatched: r1, attempt 1
       0s -> deploy.prod.a: r1 switch until 135s
       1s       < r1: a completed
       1s a COMPLETED
       1s wave 1 succeeded
       1s wave 2 awaits confirmation
       1s -> ask the operator about wave 2
      20s       < the operator's machine died and is back
      20s resumed
      20s wave 2 awaits confirmation
      20s -> ask the operator about wave 2
    20.5s       < b is there
      21s       < the operator says No
      21s b SKIPPED: NotConfirmed
      21s wave 2 skipped
      21s the rollout Declined
    ");
}
