//! What the operator decides: bake time, check, confirmation and interrupt.

use std::sync::Arc;

use crate::plan::Groups;
use crate::protocol::Status::Completed;
use crate::protocol::{Sender, Tier};
use crate::rollout::tests::drive::Drive;
use crate::rollout::tests::fixture::{
    EPOCH, MAX_PREPARED, check, name, report, response, rollout, secs, wave, wave_with,
};
use crate::rollout::{Confirmation, Effect, Input, Interrupt, Machine};

#[test]
fn a_wave_bakes_and_is_checked() {
    let careful = wave_with("a", |limits| {
        limits.bake_time = secs(120);
        limits.check = Some(check());
    });
    let mut drive = Drive::plan([careful, wave("b")]);
    drive.says(5.0, "a", Completed);
    drive.at(127.0, Input::CheckDone(Ok(()))).says(130.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      1s       < deadline
      1s -> deploy.prod.a: r1 switch until 136s again, for its state
      3s       < deadline
      3s -> deploy.prod.a: r1 switch until 138s again, for its state
      5s       < r1: a completed
      5s a COMPLETED
      5s wave 1 baking for 120s
    125s       < deadline
    125s wave 1 checking
    125s -> run the check of wave 1
    127s       < the check says Ok(())
    127s wave 1 succeeded
    127s wave 2 started
    127s b dispatched: r2, attempt 1
    127s -> deploy.prod.b: r2 switch until 262s
    128s       < deadline
    128s -> deploy.prod.b: r2 switch until 263s again, for its state
    130s       < r2: b completed
    130s b COMPLETED
    130s wave 2 succeeded
    130s the rollout Succeeded
    ");
}

#[test]
fn a_check_that_fails_halts() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.check = Some(check())), wave("b")]);
    drive.says(5.0, "a", Completed).at(6.0, Input::CheckDone(Err("exit status 1".to_owned())));
    insta::assert_snapshot!(drive.transcript(), @r#"
    0s sunday begins
    0s wave 1 started
    0s a dispatched: r1, attempt 1
    0s -> deploy.prod.a: r1 switch until 135s
    1s       < deadline
    1s -> deploy.prod.a: r1 switch until 136s again, for its state
    3s       < deadline
    3s -> deploy.prod.a: r1 switch until 138s again, for its state
    5s       < r1: a completed
    5s a COMPLETED
    5s wave 1 checking
    5s -> run the check of wave 1
    6s       < the check says Err("exit status 1")
    6s wave 1 failed: check: exit status 1
    6s b SKIPPED: EarlierWave
    6s wave 2 skipped
    6s the rollout Failed
    "#);
}

#[test]
fn nothing_is_baked_after_the_last_wave() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.bake_time = secs(120))]);
    drive.says(5.0, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
    0s sunday begins
    0s wave 1 started
    0s a dispatched: r1, attempt 1
    0s -> deploy.prod.a: r1 switch until 135s
    1s       < deadline
    1s -> deploy.prod.a: r1 switch until 136s again, for its state
    3s       < deadline
    3s -> deploy.prod.a: r1 switch until 138s again, for its state
    5s       < r1: a completed
    5s a COMPLETED
    5s wave 1 succeeded
    5s the rollout Succeeded
    ");
}

#[test]
fn a_confirmed_wave_begins_when_the_operator_says_so() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.confirm = true)]);
    drive.at(60.0, Input::Confirmation(Confirmation::Yes)).says(61.0, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @r"
     0s sunday begins
     0s wave 1 awaits confirmation
     0s -> ask the operator about wave 1
    60s       < the operator says Yes
    60s wave 1 started
    60s a dispatched: r1, attempt 1
    60s -> deploy.prod.a: r1 switch until 195s
    61s       < r1: a completed
    61s a COMPLETED
    61s wave 1 succeeded
    61s the rollout Succeeded
    ");
}

#[test]
fn a_declined_wave_is_the_end() {
    let mut drive = Drive::plan([wave("a"), wave_with("b", |limits| limits.confirm = true), wave("c")]);
    drive.says(1.0, "a", Completed).at(2.0, Input::Confirmation(Confirmation::No));
    insta::assert_snapshot!(drive.transcript(), @r"
    0s sunday begins
    0s wave 1 started
    0s a dispatched: r1, attempt 1
    0s -> deploy.prod.a: r1 switch until 135s
    1s       < r1: a completed
    1s a COMPLETED
    1s wave 1 succeeded
    1s wave 2 awaits confirmation
    1s -> ask the operator about wave 2
    2s       < the operator says No
    2s b SKIPPED: NotConfirmed
    2s wave 2 skipped
    2s c SKIPPED: NotConfirmed
    2s wave 3 skipped
    2s the rollout Declined
    ");
}

#[test]
fn a_question_that_nobody_can_answer_pauses() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.confirm = true)]);
    drive.at(0.0, Input::Confirmation(Confirmation::Unavailable));
    insta::assert_snapshot!(drive.transcript(), @r"
    0s sunday begins
    0s wave 1 awaits confirmation
    0s -> ask the operator about wave 1
    0s       < the operator says Unavailable
    0s a SKIPPED: NotConfirmed
    0s wave 1 skipped
    0s the rollout Paused
    ");
}

#[test]
fn an_interrupt_between_waves_is_not_lost() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.bake_time = secs(60)), wave("b")]);
    drive.says(1.0, "a", Completed).at(30.0, Input::Interrupt(Interrupt::Drain));
    insta::assert_snapshot!(drive.transcript(), @r"
     0s sunday begins
     0s wave 1 started
     0s a dispatched: r1, attempt 1
     0s -> deploy.prod.a: r1 switch until 135s
     1s       < r1: a completed
     1s a COMPLETED
     1s wave 1 baking for 60s
    30s       < interrupt: Drain
    30s interrupted: Drain
    30s wave 1 interrupted
    30s b SKIPPED: Interrupt
    30s wave 2 skipped
    30s the rollout Interrupted
    ");
}

#[test]
fn the_first_interrupt_awaits_hosts_in_flight() {
    let mut drive = Drive::plan([wave_with("a b", |limits| limits.max_parallel = 1), wave("c")]);
    drive.at(1.0, Input::Interrupt(Interrupt::Drain)).says(5.0, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
    0s sunday begins
    0s wave 1 started
    0s a dispatched: r1, attempt 1
    0s -> deploy.prod.a: r1 switch until 135s
    1s       < interrupt: Drain
    1s interrupted: Drain
    1s       < deadline
    1s -> deploy.prod.a: r1 switch until 136s again, for its state
    3s       < deadline
    3s -> deploy.prod.a: r1 switch until 138s again, for its state
    5s       < r1: a completed
    5s a COMPLETED
    5s b SKIPPED: Interrupt
    5s wave 1 interrupted
    5s c SKIPPED: Interrupt
    5s wave 2 skipped
    5s the rollout Interrupted
    ");
}

#[test]
fn the_second_interrupt_leaves_at_once() {
    let mut drive = Drive::plan([wave_with("a b", |limits| limits.max_parallel = 1), wave("c")]);
    drive.at(1.0, Input::Interrupt(Interrupt::Drain)).at(2.0, Input::Interrupt(Interrupt::Abort));
    insta::assert_snapshot!(drive.transcript(), @"
    0s sunday begins
    0s wave 1 started
    0s a dispatched: r1, attempt 1
    0s -> deploy.prod.a: r1 switch until 135s
    1s       < interrupt: Drain
    1s interrupted: Drain
    1s       < deadline
    1s -> deploy.prod.a: r1 switch until 136s again, for its state
    2s       < interrupt: Abort
    2s interrupted: Abort
    2s b SKIPPED: Interrupt
    2s wave 1 interrupted
    2s c SKIPPED: Interrupt
    2s wave 2 skipped
    2s the rollout Interrupted
    ");
}

#[test]
fn an_interrupt_while_the_last_hosts_complete_stops_the_check() {
    let mut drive = Drive::plan([wave_with("a", |limits| limits.check = Some(check()))]);
    drive.at(1.0, Input::Interrupt(Interrupt::Drain)).says(5.0, "a", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
    0s sunday begins
    0s wave 1 started
    0s a dispatched: r1, attempt 1
    0s -> deploy.prod.a: r1 switch until 135s
    1s       < interrupt: Drain
    1s interrupted: Drain
    1s       < deadline
    1s -> deploy.prod.a: r1 switch until 136s again, for its state
    3s       < deadline
    3s -> deploy.prod.a: r1 switch until 138s again, for its state
    5s       < r1: a completed
    5s a COMPLETED
    5s wave 1 interrupted
    5s the rollout Interrupted
    ");
}

#[test]
fn who_turns_up_late_is_named_and_not_asked() {
    let mut rest = wave("b");
    rest.groups = Groups {
        targets: vec!["deploy.prod.all".parse().unwrap()],
        exclude: vec!["deploy.prod.gone".parse().unwrap(), "deploy.prod.role.dns".parse().unwrap()],
    };
    let mut drive = Drive::plan([wave("a"), rest]);
    drive.says(5.0, "a", Completed);
    for (seconds, host) in [(5.1, "a"), (5.2, "late"), (5.3, "late"), (5.4, "gone"), (5.5, "b")] {
        drive.is_present(seconds, report(&name(host), Vec::new()));
    }
    drive.is_restarted(7.0).is_present(7.1, report(&name("late"), Vec::new()));
    drive.is_present(7.2, report(&name("later"), Vec::new()));
    drive.says(9.0, "b", Completed);
    insta::assert_snapshot!(drive.transcript(), @"
      0s sunday begins
      0s wave 1 started
      0s a dispatched: r1, attempt 1
      0s -> deploy.prod.a: r1 switch until 135s
      1s       < deadline
      1s -> deploy.prod.a: r1 switch until 136s again, for its state
      3s       < deadline
      3s -> deploy.prod.a: r1 switch until 138s again, for its state
      5s       < r1: a completed
      5s a COMPLETED
      5s wave 1 succeeded
      5s wave 2 started
      5s -> call the roll
      5s b dispatched: r2, attempt 1
      5s -> deploy.prod.b: r2 switch until 140s
    5.1s       < a is there
    5.2s       < late is there
    5.2s late turned up too late for wave 2
    5.3s       < late is there
    5.4s       < gone is there
    5.5s       < b is there
      7s       < the operator's machine died and is back
      7s resumed
      7s wave 2 started
      7s -> call the roll
      7s -> deploy.prod.b: r2 switch until 142s again, for its state
    7.1s       < late is there
    7.2s       < later is there
    7.2s later turned up too late for wave 2
      8s       < deadline
      8s -> deploy.prod.b: r2 switch until 143s again, for its state
      9s       < r2: b completed
      9s b COMPLETED
      9s wave 2 succeeded
      9s the rollout Succeeded
    ");
}

/// The operator's machine slept for ten minutes. A request sent then is not expired already.
#[test]
fn requests_expire_by_the_wall_clock_at_the_moment_in_which_they_are_sent() {
    let mut machine = Machine::new(rollout([wave_with("a b", |limits| limits.max_parallel = 1)]), EPOCH, MAX_PREPARED);
    let sent = |machine: &mut Machine| {
        std::iter::from_fn(|| machine.poll_effect())
            .find_map(|effect| if let Effect::Send(dispatch) = effect { dispatch.request.expires_at } else { None })
            .map(|expires_at| expires_at.duration_since(EPOCH).as_secs())
    };
    assert_eq!(sent(&mut machine), Some(15 + 120));
    let request = machine.state().hosts[0].request.clone().unwrap();
    machine.set_clock(secs(5), EPOCH + secs(605));
    let response = Arc::new(response(&name("a"), &request, Completed));
    let from = Sender { tier: Tier::Prod, host: name("a") };
    machine.handle(secs(5), Input::Response { from, request, response });
    assert_eq!(sent(&mut machine), Some(605 + 15 + 120));
}
