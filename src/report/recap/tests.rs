use crate::plan::Rollback;
use crate::protocol::{ErrorCode, Phase, Response, Status};
use crate::report::tests::scenario::{Scenario, answer, build_failure, demo, deployment, name, rollout, wave};
use crate::rollout::{
    EventKind, FailureReason, HostOutcome, Interrupt, Outcome, Rollout, SkipReason, UnexpectedResponse, WaveIndex,
    WaveVerdict,
};

#[test]
fn a_rollout_that_nobody_confirms_says_before_which_wave_it_stopped() {
    let recap = |outcome| {
        let mut story = Scenario::begin(demo());
        story.wave_starts(0).deploys("test1").deploys("test2").wave_ends(0, WaveVerdict::Succeeded);
        story.event(EventKind::AwaitingConfirmation { wave: WaveIndex(1) }).wait(7);
        story.skipped(&["ns1", "ns2"], SkipReason::NotConfirmed).wave_ends(1, WaveVerdict::Skipped);
        story.skipped(&["jelly", "sonos"], SkipReason::NotConfirmed).wave_ends(2, WaveVerdict::Skipped);
        story.ends(outcome);
        story.recap()
    };
    insta::assert_snapshot!(recap(Outcome::Declined), @r#"
    ○ Rollout demo was declined before wave 2/3 "dns". Waves 2-3 were not started.

      6 hosts: 2 completed, 4 skipped   31s
    "#);
    insta::assert_snapshot!(recap(Outcome::Paused), @r#"
    ◷ Rollout demo is paused before wave 2/3 "dns": nobody was there to confirm it. Waves 2-3 were not started.

      6 hosts: 2 completed, 4 skipped   31s
    "#);
}

#[test]
fn lines_are_broken_between_words_where_there_is_no_room_for_them() {
    let mut story = Scenario::begin(demo());
    story.wave_starts(0).deploys("test1").deploys("test2").wave_ends(0, WaveVerdict::Succeeded).wave_starts(1);
    let mut failure = build_failure("ns1");
    failure.log_tail.push("       … while evaluating the option `services.unboundd'".to_owned());
    story.sent("ns1").wait(3).answered(failure).skipped(&["ns2"], SkipReason::WaveHalted);
    let cause = FailureReason::TooManyFailures { failures: 1, max_failures: 0 };
    story.wave_ends(1, WaveVerdict::Failed(cause)).skipped(&["jelly", "sonos"], SkipReason::EarlierWave);
    story.wave_ends(2, WaveVerdict::Skipped).ends(Outcome::Failed);
    insta::assert_snapshot!(story.recap_within(40), @r#"
    ✖ Rollout demo failed in wave 2/3 "dns":
      1 failed, 0 may fail. Wave 3 was not
      started.

      ns1  failed      3s      build:
          attribute 'unboundd' missing
          (still on a91be77)
          | building the system
          |     configuration...
          | error: attribute 'unboundd'
          |     missing
          |        … while evaluating
          |            the option
          |            `services.unboundd'
      ns2  skipped             wave halted

      6 hosts: 2 completed, 1 failed, 3
          skipped   27s
    "#);
}

#[test]
fn many_failures_and_skipped_hosts_do_not_bury_the_reason() {
    let hosts: Vec<String> = (1..=40).map(|number| format!("web{number}")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let mut story = Scenario::begin(rollout("evening", vec![wave("web", &hosts)]));
    story.wave_starts(0);
    for host in &hosts[..5] {
        let mut failure = build_failure(host);
        failure.log_tail = (1..=60).map(|number| format!("line {number}")).collect();
        story.sent(host).wait(1).answered(failure);
    }
    story.skipped(&hosts[5..], SkipReason::WaveHalted);
    story.wave_ends(0, WaveVerdict::Failed(FailureReason::TooManyFailures { failures: 5, max_failures: 0 }));
    story.ends(Outcome::Failed);
    insta::assert_snapshot!(story.recap(), @r#"
    ✖ Rollout evening failed in wave 1/1 "web": 5 failed, 0 may fail.

      web1   failed      1s      build: attribute 'unboundd' missing   (still on a91be77)
          | line 51
          | line 52
          | line 53
          | line 54
          | line 55
          | line 56
          | line 57
          | line 58
          | line 59
          | line 60
      web2   failed      1s      build: attribute 'unboundd' missing   (still on a91be77)
          | line 51
          | line 52
          | line 53
          | line 54
          | line 55
          | line 56
          | line 57
          | line 58
          | line 59
          | line 60
      web3   failed      1s      build: attribute 'unboundd' missing   (still on a91be77)
          | line 51
          | line 52
          | line 53
          | line 54
          | line 55
          | line 56
          | line 57
          | line 58
          | line 59
          | line 60
      web4   failed      1s      build: attribute 'unboundd' missing   (still on a91be77)
      web5   failed      1s      build: attribute 'unboundd' missing   (still on a91be77)
      web6   skipped             wave halted
      web7   skipped             wave halted
      web8   skipped             wave halted
      web9   skipped             wave halted
      web10  skipped             wave halted
      web11  skipped             wave halted
      web12  skipped             wave halted
      web13  skipped             wave halted
      and 27 more hosts skipped

      40 hosts: 5 failed, 35 skipped   5s
    "#);
}

#[test]
fn every_kind_of_end_is_counted_and_told() {
    let hosts = ["done", "failed", "refused", "silent", "stuck", "left"];
    let mut story = Scenario::begin(rollout("evening", vec![wave("all", &hosts), wave("rest", &["later"])]));
    story.wave_starts(0);
    hosts[..5].iter().for_each(|host| {
        story.sent(host);
    });
    let mut refusal = answer("refused", Status::Rejected);
    refusal.error = Some(ErrorCode::AlreadyRunning);
    refusal.message = "a deployment by kim@laptop runs".to_owned();
    story.wait(30).answered(answer("done", Status::Completed)).answered(build_failure("failed")).answered(refusal);
    story.given_up("silent", HostOutcome::Unreachable).given_up("stuck", HostOutcome::TimedOut);
    story.sent("left").wait(9).event(EventKind::Interrupted { how: Interrupt::Abort });
    story.wave_ends(0, WaveVerdict::Interrupted);
    story.skipped(&["later"], SkipReason::Interrupt).wave_ends(1, WaveVerdict::Skipped).ends(Outcome::Interrupted);
    insta::assert_snapshot!(story.recap(), @r#"
    ✖ Rollout evening was interrupted in wave 1/2 "all". Wave 2 was not started.

      failed   failed      30s     build: attribute 'unboundd' missing   (still on a91be77)
          | building the system configuration...
          | error: attribute 'unboundd' missing
      refused  rejected    30s     already running: a deployment by kim@laptop runs   (still on a91be77)
      silent   unreachable 30s     it never answered   (was on a91be77)
      stuck    timed out   30s     it did not end within 45m   (was on a91be77)
      left     sent        9s      left in flight: its deployment continues

      7 hosts: 1 completed, 1 failed, 1 rejected, 1 unreachable, 1 timed out, 1 skipped, 1 in flight   39s
    "#);
    assert_eq!(story.summary.counts().total, 7);
}

#[test]
fn each_cause_of_a_failed_wave_has_its_words() {
    let headline = |cause| {
        let mut story = Scenario::begin(rollout("evening", vec![wave("dns", &["ns1"])]));
        story.wave_starts(0).deploys("ns1").wave_ends(0, WaveVerdict::Failed(cause)).ends(Outcome::Failed);
        story.recap()
    };
    insta::assert_snapshot!(headline(FailureReason::TooFewCompleted { completed: 1, min_hosts: 2 }), @r#"
    ✖ Rollout evening failed in wave 1/1 "dns": 1 completed, at least 2 must.

      1 host: 1 completed   12s
    "#);
    insta::assert_snapshot!(headline(FailureReason::CheckFailed { reason: "exit code 1\nmore".to_owned() }), @r#"
    ✖ Rollout evening failed in wave 1/1 "dns": its check says: exit code 1.

      1 host: 1 completed   12s
    "#);
    insta::assert_snapshot!(headline(FailureReason::Disconnected), @r#"
    ✖ Rollout evening failed in wave 1/1 "dns": no connection for longer than a host may take.

      1 host: 1 completed   12s
    "#);
}

#[test]
fn a_deployment_that_fails_says_who_and_why() {
    let mut story = Scenario::begin(deployment("deploy.prod.role.dns", wave("dns", &["ns1", "ns2"])));
    story.wave_starts(0).sent("ns1").sent("ns2").wait(61);
    story.answered(answer("ns2", Status::Completed)).answered(build_failure("ns1"));
    story.wave_ends(0, WaveVerdict::Failed(FailureReason::TooManyFailures { failures: 1, max_failures: 0 }));
    story.ends(Outcome::Failed);
    insta::assert_snapshot!(story.told(), @"
    ◌ deploy.prod.role.dns: switch main -> 8c1f0e2
    ◌ ns1  sent
    ◌ ns2  sent
    ◌ ns1  sent        1m      of 45m
    ◌ ns2  sent        1m      of 45m
    ✔ ns2  completed   1m01s   a91be77 -> 8c1f0e2
    ✖ ns1  failed      1m01s   build: attribute 'unboundd' missing

    ✖ deploy.prod.role.dns failed: 1 of 2 hosts did not complete

      ns1  failed      1m01s   build: attribute 'unboundd' missing   (still on a91be77)
          | building the system configuration...
          | error: attribute 'unboundd' missing

      2 hosts: 1 completed, 1 failed   1m01s
    ");
}

#[test]
fn a_rollout_that_nobody_carries_on_was_cut_off() {
    let mut story = Scenario::begin(demo());
    story.wave_starts(0).sent("test1").wait(3);
    insta::assert_snapshot!(story.recap(), @"
    ✖ Rollout demo was cut off.

      6 hosts: 1 in flight, 5 not asked
    ");
    assert_eq!(super::recap(&crate::rollout::Summary::default(), crate::report::Style::Plain, 80), "");
}

#[test]
fn who_turned_up_too_late_is_named_even_after_a_success() {
    let mut story = Scenario::begin(rollout("evening", vec![wave("test", &["test1"]), wave("all", &["ns1"])]));
    story.wave_starts(0).deploys("test1").wave_ends(0, WaveVerdict::Succeeded).wave_starts(1).sent("ns1");
    for late in ["nas", "laptop"] {
        story.event(EventKind::AnsweredLate { host: name(late), wave: WaveIndex(1) });
    }
    story.wait(2).answered(answer("ns1", Status::Completed)).wave_ends(1, WaveVerdict::Succeeded);
    story.ends(Outcome::Succeeded);
    insta::assert_snapshot!(story.told(), @"
    ◌ Rollout evening 01f92b3c begins: main -> 8c1f0e2, 2 hosts in 2 waves
    ◌ 1/2 test   1 host, 1 at once
        ◌ test1  sent
        ◌ test1  building    1s
        ◌ test1  activating  11s
        ✔ test1  completed   12s     a91be77 -> 8c1f0e2
    ✔ 1/2 test   1/1   12s
    ◌ 2/2 all    1 host, 1 at once
        ◌ ns1    sent
    ○ 2/2 all    nas turned up too late for this wave, and is not deployed
    ○ 2/2 all    laptop turned up too late for this wave, and is not deployed
        ✔ ns1    completed   2s      a91be77 -> 8c1f0e2
    ✔ 2/2 all    1/1   2s

    ✔ Rollout evening: 2 hosts completed in 2 waves, main -> 8c1f0e2

      turned up meanwhile and not deployed: laptop nas   (apply the plan again for them)

      2 hosts: 2 completed   14s
    ");
}

/// Returns a plan of one wave whose hosts roll back when it fails.
fn wave_that_returns() -> Rollout {
    let mut wave = wave("dns", &["ns1", "ns2", "ns3"]);
    wave.limits.rollback = Rollback::Wave;
    rollout("evening", vec![wave])
}

fn final_of(host: &str, status: Status, rolled_back: bool, message: &str) -> Response {
    Response { rolled_back: Some(rolled_back), message: message.to_owned(), ..answer(host, status) }
}

/// Lets the three hosts complete and the wave's check fail.
fn check_fails(story: &mut Scenario) {
    story.wave_starts(0).deploys("ns1").deploys("ns2").deploys("ns3");
    story.wave_ends(0, WaveVerdict::Failed(FailureReason::CheckFailed { reason: "exit code 1".to_owned() }));
}

#[test]
fn a_host_that_returns_after_it_was_given_up_is_named() {
    let mut story = Scenario::begin(wave_that_returns());
    check_fails(&mut story);
    story.sent_back("ns3").wait(15).not_back("ns3", HostOutcome::Unreachable).wait(1);
    let anomaly = UnexpectedResponse::Late { status: Status::Completed };
    story.event(EventKind::UnexpectedResponse { host: name("ns3"), anomaly }).ends(Outcome::Failed);
    let told = story.told();
    assert!(told.contains("ns3 said 'completed' too late; its rollback counts as unreachable"), "{told}");
}

#[test]
fn hosts_of_a_wave_that_failed_return_and_those_that_could_not_are_pointed_out() {
    let mut story = Scenario::begin(wave_that_returns());
    check_fails(&mut story);
    story.sent_back("ns3").wait(4).back(final_of("ns3", Status::Completed, true, "returned to generation 41"));
    let broken = Response {
        log_tail: vec!["error: the old generation is gone".to_owned()],
        error: Some(ErrorCode::ActivationFailed),
        ..final_of("ns2", Status::Failed, false, "generation 42 runs")
    };
    story.sent_back("ns2").wait(4).back(broken);
    story.sent_back("ns1").wait(15).not_back("ns1", HostOutcome::Unreachable).ends(Outcome::Failed);
    insta::assert_snapshot!(story.told(), @r#"
    ◌ Rollout evening 01f92b3c begins: main -> 8c1f0e2, 3 hosts in 1 wave
    ◌ 1/1 dns   3 hosts, 2 at once
        ◌ ns1  sent
        ◌ ns1  building    1s
        ◌ ns1  activating  11s
        ✔ ns1  completed   12s     a91be77 -> 8c1f0e2
        ◌ ns2  sent
        ◌ ns2  building    1s
        ◌ ns2  activating  11s
        ✔ ns2  completed   12s     a91be77 -> 8c1f0e2
        ◌ ns3  sent
        ◌ ns3  building    1s
        ◌ ns3  activating  11s
        ✔ ns3  completed   12s     a91be77 -> 8c1f0e2
    ✖ 1/1 dns   3/3   36s   failed: its check says: exit code 1
        ◌ ns3  returning   12s     its wave has failed
        ✔ ns3  returned    12s     returned to what ran before (a91be77)
        ◌ ns2  returning   12s     its wave has failed
        ✖ ns2  completed   12s     could NOT return: activation: generation 42 runs
        ◌ ns1  returning   12s     its wave has failed
        ✖ ns1  completed   12s     could NOT return: unreachable

    ✖ Rollout evening failed in wave 1/1 "dns": its check says: exit code 1. 2 of 3 hosts that had completed did NOT return to what ran before.

      ns1  completed   12s     could NOT return: unreachable
      ns2  completed   12s     could NOT return: activation: generation 42 runs
          | error: the old generation is gone
      ns3  returned    12s     returned to what ran before (a91be77)

      3 hosts: 2 completed, 1 returned to what ran before   59s
    "#);
}

#[test]
fn that_all_hosts_of_a_wave_that_failed_returned_is_said_as_well() {
    let mut story = Scenario::begin(wave_that_returns());
    check_fails(&mut story);
    for host in ["ns3", "ns2", "ns1"] {
        story.sent_back(host).wait(4).back(final_of(host, Status::Completed, true, "returned"));
    }
    story.ends(Outcome::Failed);
    insta::assert_snapshot!(story.recap(), @r#"
    ✖ Rollout evening failed in wave 1/1 "dns": its check says: exit code 1. 3 hosts that had completed returned to what ran before.

      ns1  returned    12s     returned to what ran before (a91be77)
      ns2  returned    12s     returned to what ran before (a91be77)
      ns3  returned    12s     returned to what ran before (a91be77)

      3 hosts: 3 returned to what ran before   48s
    "#);
}

#[test]
fn hosts_that_were_not_asked_to_return_any_more_are_pointed_out() {
    let mut story = Scenario::begin(wave_that_returns());
    check_fails(&mut story);
    story.sent_back("ns3").event(EventKind::Interrupted { how: Interrupt::Abort }).ends(Outcome::Interrupted);
    insta::assert_snapshot!(story.recap(), @r#"
    ✖ Rollout evening was interrupted in wave 1/1 "dns", which had failed: its check says: exit code 1. 3 of 3 hosts that had completed did NOT return to what ran before.

      ns1  completed   12s     did NOT return: it was not asked to
      ns2  completed   12s     did NOT return: it was not asked to
      ns3  returning   12s     left while it returns to what ran before

      3 hosts: 3 completed   36s
    "#);
}

#[test]
fn a_host_that_failed_says_whether_it_returned() {
    let mut story = Scenario::begin(wave_that_returns());
    story.wave_starts(0);
    let unconfirmed =
        final_of("ns1", Status::Failed, true, "nobody confirmed it within 60 s; the host returned to what ran before");
    story.sent("ns1").wait(80).at("ns1", Phase::Confirm).wait(5).at("ns1", Phase::Return).wait(2);
    story.answered(Response { error: Some(ErrorCode::NotConfirmed), ..unconfirmed });
    let broken = final_of("ns2", Status::Failed, false, "the old system does not activate; generation 42 runs");
    story.sent("ns2").wait(90).answered(Response { error: Some(ErrorCode::ActivationFailed), ..broken });
    story.skipped(&["ns3"], SkipReason::WaveHalted);
    story.wave_ends(0, WaveVerdict::Failed(FailureReason::TooManyFailures { failures: 2, max_failures: 0 }));
    story.ends(Outcome::Failed);
    insta::assert_snapshot!(story.told(), @r#"
    ◌ Rollout evening 01f92b3c begins: main -> 8c1f0e2, 3 hosts in 1 wave
    ◌ 1/1 dns   3 hosts, 2 at once
        ◌ ns1  sent
        ◌ ns1  sent        1m      of 51m
        ◌ ns1  confirming  1m20s
        ◌ ns1  returning   1m25s
        ✖ ns1  failed      1m27s   not confirmed: nobody confirmed it within 60 s; the host returned to what ran before
        ◌ ns2  sent
        ◌ ns2  sent        1m      of 51m
        ✖ ns2  failed      1m30s   activation: the old system does not activate; generation 42 runs; could NOT return to what ran before
    ✖ 1/1 dns   0/3   2m57s   failed: 2 failed, 0 may fail   1 skipped

    ✖ Rollout evening failed in wave 1/1 "dns": 2 failed, 0 may fail.

      ns1  failed      1m27s   not confirmed: nobody confirmed it within 60 s; the host returned to what ran before
      ns2  failed      1m30s   activation: the old system does not activate; generation 42 runs; could NOT return to what ran before
      ns3  skipped             wave halted

      3 hosts: 2 failed, 1 skipped   2m57s
    "#);
}
