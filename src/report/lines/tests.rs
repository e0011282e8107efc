use std::time::Duration;

use crate::plan::Check;
use crate::protocol::{ErrorCode, Phase, Status};
use crate::report::Style;
use crate::report::tests::scenario::{Scenario, answer, build_failure, demo, deployment, name, request, rollout, wave};
use crate::rollout::{
    Connection, EventKind, FailureReason, HostOutcome, Interrupt, Outcome, SkipReason, UnexpectedResponse, WaveIndex,
    WaveVerdict,
};

const HALTED: FailureReason = FailureReason::TooManyFailures { failures: 1, max_failures: 0 };

/// Returns the demo rollout after its first wave, with the second one started.
fn in_second_wave() -> Scenario {
    let mut story = Scenario::begin(demo());
    story.wave_starts(0).deploys("test1").deploys("test2").wave_ends(0, WaveVerdict::Succeeded).wave_starts(1);
    story
}

#[test]
fn three_waves_that_succeed() {
    let mut story = in_second_wave();
    story.deploys("ns1").deploys("ns2").wave_ends(1, WaveVerdict::Succeeded);
    story.wave_starts(2).deploys("jelly").deploys("sonos").wave_ends(2, WaveVerdict::Succeeded);
    story.ends(Outcome::Succeeded);
    insta::assert_snapshot!(story.told(), @"
    ◌ Rollout demo 01f92b3c begins: main -> 8c1f0e2, 6 hosts in 3 waves
    ◌ 1/3 test    2 hosts, 2 at once
        ◌ test1  sent
        ◌ test1  building    1s
        ◌ test1  activating  11s
        ✔ test1  completed   12s     a91be77 -> 8c1f0e2
        ◌ test2  sent
        ◌ test2  building    1s
        ◌ test2  activating  11s
        ✔ test2  completed   12s     a91be77 -> 8c1f0e2
    ✔ 1/3 test    2/2   24s
    ◌ 2/3 dns     2 hosts, 1 at once
        ◌ ns1    sent
        ◌ ns1    building    1s
        ◌ ns1    activating  11s
        ✔ ns1    completed   12s     a91be77 -> 8c1f0e2
        ◌ ns2    sent
        ◌ ns2    building    1s
        ◌ ns2    activating  11s
        ✔ ns2    completed   12s     a91be77 -> 8c1f0e2
    ✔ 2/3 dns     2/2   24s
    ◌ 3/3 media   2 hosts, 2 at once
        ◌ jelly  sent
        ◌ jelly  building    1s
        ◌ jelly  activating  11s
        ✔ jelly  completed   12s     a91be77 -> 8c1f0e2
        ◌ sonos  sent
        ◌ sonos  building    1s
        ◌ sonos  activating  11s
        ✔ sonos  completed   12s     a91be77 -> 8c1f0e2
    ✔ 3/3 media   2/2   24s

    ✔ Rollout demo: 6 hosts completed in 3 waves, main -> 8c1f0e2   1m12s
    ");
}

#[test]
fn a_host_that_fails_halts_the_rollout() {
    let mut story = in_second_wave();
    story.sent("ns1").wait(2).at("ns1", Phase::Build).wait(240).answered(build_failure("ns1"));
    story.skipped(&["ns2"], SkipReason::WaveHalted).wave_ends(1, WaveVerdict::Failed(HALTED));
    story.skipped(&["jelly", "sonos"], SkipReason::EarlierWave).wave_ends(2, WaveVerdict::Skipped);
    story.ends(Outcome::Failed);
    insta::assert_snapshot!(story.told(), @r#"
    ◌ Rollout demo 01f92b3c begins: main -> 8c1f0e2, 6 hosts in 3 waves
    ◌ 1/3 test    2 hosts, 2 at once
        ◌ test1  sent
        ◌ test1  building    1s
        ◌ test1  activating  11s
        ✔ test1  completed   12s     a91be77 -> 8c1f0e2
        ◌ test2  sent
        ◌ test2  building    1s
        ◌ test2  activating  11s
        ✔ test2  completed   12s     a91be77 -> 8c1f0e2
    ✔ 1/3 test    2/2   24s
    ◌ 2/3 dns     2 hosts, 1 at once
        ◌ ns1    sent
        ◌ ns1    building    2s
        ◌ ns1    building    1m02s   of 45m
        ◌ ns1    building    2m02s   of 45m
        ◌ ns1    building    3m02s   of 45m
        ◌ ns1    building    4m02s   of 45m
        ✖ ns1    failed      4m02s   build: attribute 'unboundd' missing
    ✖ 2/3 dns     0/2   4m02s   failed: 1 failed, 0 may fail   1 skipped
    ○ 3/3 media   skipped   2 hosts

    ✖ Rollout demo failed in wave 2/3 "dns": 1 failed, 0 may fail. Wave 3 was not started.

      ns1  failed      4m02s   build: attribute 'unboundd' missing   (still on a91be77)
          | building the system configuration...
          | error: attribute 'unboundd' missing
      ns2  skipped             wave halted

      6 hosts: 2 completed, 1 failed, 3 skipped   4m26s
    "#);
}

#[test]
fn a_failure_within_the_budget_is_told_and_tolerated() {
    let mut media = wave("media", &["jelly", "sonos", "tv"]);
    media.limits.max_failures = 1;
    let mut story = Scenario::begin(rollout("evening", vec![media]));
    story.wave_starts(0).sent("jelly").sent("sonos").wait(15).given_up("sonos", HostOutcome::Unreachable);
    story.sent("tv").wait(3).answered(answer("tv", Status::Completed)).answered(answer("jelly", Status::Completed));
    story.wave_ends(0, WaveVerdict::Succeeded).ends(Outcome::Succeeded);
    insta::assert_snapshot!(story.told(), @"
    ◌ Rollout evening 01f92b3c begins: main -> 8c1f0e2, 3 hosts in 1 wave
    ◌ 1/1 media   3 hosts, 2 at once
        ◌ jelly  sent
        ◌ sonos  sent
        ✖ sonos  unreachable 15s     it never answered
        ◌ tv     sent
        ✔ tv     completed   3s      a91be77 -> 8c1f0e2
        ✔ jelly  completed   18s     a91be77 -> 8c1f0e2
    ✔ 1/1 media   2/3   18s   1 unreachable

    ✔ Rollout evening: 2 of 3 hosts completed in 1 wave, main -> 8c1f0e2

      sonos  unreachable 15s     it never answered   (was on a91be77)

      3 hosts: 2 completed, 1 unreachable   18s
    ");
}

#[test]
fn hosts_in_flight_are_awaited_before_the_wave_is_over() {
    let mut story = Scenario::begin(rollout("evening", vec![wave("media", &["jelly", "sonos"])]));
    let mut timeout = answer("sonos", Status::Failed);
    timeout.error = Some(ErrorCode::Timeout);
    story.wave_starts(0).sent("jelly").sent("sonos").wait(5).answered(build_failure("jelly"));
    story.event(EventKind::Draining { wave: WaveIndex(0), cause: HALTED }).wait(20).answered(timeout);
    story.wave_ends(0, WaveVerdict::Failed(FailureReason::TooManyFailures { failures: 2, max_failures: 0 }));
    story.ends(Outcome::Failed);
    insta::assert_snapshot!(story.lines(), @"
    ◌ Rollout evening 01f92b3c begins: main -> 8c1f0e2, 2 hosts in 1 wave
    ◌ 1/1 media   2 hosts, 2 at once
        ◌ jelly  sent
        ◌ sonos  sent
        ✖ jelly  failed      5s      build: attribute 'unboundd' missing
    ✖ 1/1 media   halted: 1 failed, 0 may fail; waiting for sonos
        ✖ sonos  failed      25s     timeout
    ✖ 1/1 media   0/2   25s   failed: 2 failed, 0 may fail
    ");
}

#[test]
fn the_first_interrupt_waits_and_the_second_leaves() {
    let mut story = in_second_wave();
    story.sent("ns1").at("ns1", Phase::Activate).wait(3);
    story.event(EventKind::Interrupted { how: Interrupt::Drain }).wait(2);
    story.event(EventKind::Interrupted { how: Interrupt::Abort });
    story.skipped(&["ns2"], SkipReason::Interrupt).wave_ends(1, WaveVerdict::Interrupted);
    story.skipped(&["jelly", "sonos"], SkipReason::Interrupt).wave_ends(2, WaveVerdict::Skipped);
    story.ends(Outcome::Interrupted);
    insta::assert_snapshot!(story.told(), @r#"
    ◌ Rollout demo 01f92b3c begins: main -> 8c1f0e2, 6 hosts in 3 waves
    ◌ 1/3 test    2 hosts, 2 at once
        ◌ test1  sent
        ◌ test1  building    1s
        ◌ test1  activating  11s
        ✔ test1  completed   12s     a91be77 -> 8c1f0e2
        ◌ test2  sent
        ◌ test2  building    1s
        ◌ test2  activating  11s
        ✔ test2  completed   12s     a91be77 -> 8c1f0e2
    ✔ 1/3 test    2/2   24s
    ◌ 2/3 dns     2 hosts, 1 at once
        ◌ ns1    sent
        ◌ ns1    activating  0s
    ✖ interrupted: nothing new is sent; waiting for ns1. A second interrupt leaves at once
    ✖ interrupted: leaving at once
    ✖ 2/3 dns     0/2   interrupted   1 skipped, 1 in flight
    ○ 3/3 media   skipped   2 hosts

    ✖ Rollout demo was interrupted in wave 2/3 "dns". Wave 3 was not started.

      ns1  activating  5s      left in flight: its deployment continues
      ns2  skipped             interrupted

      6 hosts: 2 completed, 3 skipped, 1 in flight   29s
    "#);
}

#[test]
fn a_host_that_was_silent_is_asked_again() {
    let mut story = Scenario::begin(rollout("evening", vec![wave("media", &["jelly"])]));
    let delay = Duration::from_secs(30);
    story.wave_starts(0).sent("jelly").wait(15);
    story.event(EventKind::Retrying { host: name("jelly"), outcome: HostOutcome::Unreachable, delay }).wait(30);
    story.event(EventKind::Dispatched { host: name("jelly"), request: request(1), attempt: 2 }).wait(12);
    story.answered(answer("jelly", Status::Completed)).wave_ends(0, WaveVerdict::Succeeded).ends(Outcome::Succeeded);
    insta::assert_snapshot!(story.told(), @"
    ◌ Rollout evening 01f92b3c begins: main -> 8c1f0e2, 1 host in 1 wave
    ◌ 1/1 media   1 host, 1 at once
        ◌ jelly  sent
        ◷ jelly  unreachable         asked again in 30s
        ◌ jelly  sent                attempt 2
        ✔ jelly  completed   57s     a91be77 -> 8c1f0e2
    ✔ 1/1 media   1/1   57s

    ✔ Rollout evening: 1 host completed in 1 wave, main -> 8c1f0e2   57s
    ");
}

#[test]
fn what_should_not_be_is_a_warning_and_stands_in_the_recap() {
    let mut story = Scenario::begin(rollout("evening", vec![wave("media", &["jelly", "sonos"])]));
    let anomaly = |host: &str, anomaly| EventKind::UnexpectedResponse { host: name(host), anomaly };
    story.wave_starts(0).sent("jelly").sent("sonos").wait(5).answered(answer("jelly", Status::Completed));
    story.event(anomaly("jelly", UnexpectedResponse::Conflict { status: Status::Failed }));
    story.event(anomaly("sonos", UnexpectedResponse::WrongHost { said: name("mallory"), tier: None })).wait(10);
    story.given_up("sonos", HostOutcome::Unreachable);
    story.event(EventKind::Draining { wave: WaveIndex(0), cause: HALTED }).wait(1);
    story.event(anomaly("sonos", UnexpectedResponse::Late { status: Status::Completed }));
    story.wave_ends(0, WaveVerdict::Failed(HALTED)).ends(Outcome::Failed);
    insta::assert_snapshot!(story.told(), @r#"
    ◌ Rollout evening 01f92b3c begins: main -> 8c1f0e2, 2 hosts in 1 wave
    ◌ 1/1 media   2 hosts, 2 at once
        ◌ jelly  sent
        ◌ sonos  sent
        ✔ jelly  completed   5s      a91be77 -> 8c1f0e2
    ⚠ warning: jelly said 'failed' after its final word; it counts as completed
    ⚠ warning: mallory answered for sonos; that does not count
        ✖ sonos  unreachable 15s     it never answered
    ✖ 1/1 media   halted: 1 failed, 0 may fail; nothing is in flight
    ⚠ warning: sonos said 'completed' too late; it counts as unreachable
    ✖ 1/1 media   1/2   15s   failed: 1 failed, 0 may fail

    ✖ Rollout evening failed in wave 1/1 "media": 1 failed, 0 may fail.

      sonos  unreachable 15s     it never answered   (was on a91be77)

      late or unexpected:
        jelly said 'failed' after its final word; it counts as completed
        mallory answered for sonos; that does not count
        sonos said 'completed' too late; it counts as unreachable

      2 hosts: 1 completed, 1 unreachable   16s
    "#);
}

#[test]
fn a_wave_asks_bakes_and_checks() {
    let mut dns = wave("dns", &["ns1"]);
    dns.limits.confirm = true;
    dns.limits.bake_time = Duration::from_mins(2);
    dns.limits.check =
        Some(Check { command: vec!["./smoke.sh".to_owned(), "dns".to_owned()], timeout: Duration::from_mins(1) });
    let mut story = Scenario::begin(rollout("evening", vec![dns]));
    story.event(EventKind::AwaitingConfirmation { wave: WaveIndex(0) }).wait(5).wave_starts(0).deploys("ns1");
    story.event(EventKind::Baking { wave: WaveIndex(0), remaining: Duration::from_mins(2) }).wait(120);
    story.event(EventKind::Checking { wave: WaveIndex(0) }).wait(3).wave_ends(0, WaveVerdict::Succeeded);
    story.ends(Outcome::Succeeded);
    insta::assert_snapshot!(story.told(), @"
    ◌ Rollout evening 01f92b3c begins: main -> 8c1f0e2, 1 host in 1 wave
    ◷ 1/1 dns   asks first
    ◌ 1/1 dns   1 host, 1 at once
        ◌ ns1  sent
        ◌ ns1  building    1s
        ◌ ns1  activating  11s
        ✔ ns1  completed   12s     a91be77 -> 8c1f0e2
    ◷ 1/1 dns   baking 2m
    ◌ 1/1 dns   checking: ./smoke.sh dns
    ✔ 1/1 dns   1/1   12s   baked 2m

    ✔ Rollout evening: 1 host completed in 1 wave, main -> 8c1f0e2   2m20s
    ");
}

#[test]
fn once_a_minute_hosts_in_flight_are_shown() {
    let mut story = Scenario::begin(rollout("evening", vec![wave("media", &["jelly", "sonos"])]));
    story.wave_starts(0).sent("jelly").sent("sonos").wait(4).at("jelly", Phase::Build).wait(60);
    story.at("jelly", Phase::Build).event(EventKind::Connection { state: Connection::Down }).wait(60);
    story.event(EventKind::Connection { state: Connection::Up });
    insta::assert_snapshot!(story.lines(), @"
    ◌ Rollout evening 01f92b3c begins: main -> 8c1f0e2, 2 hosts in 1 wave
    ◌ 1/1 media   2 hosts, 2 at once
        ◌ jelly  sent
        ◌ sonos  sent
        ◌ jelly  building    4s
        ◌ sonos  sent        1m      of 45m
        ◌ jelly  building    1m04s   of 45m
    ⚠ connection lost; deployments on the hosts continue
        ◌ sonos  sent        2m      of 45m
        ◌ jelly  building    2m04s   of 45m
    ✔ reconnected
    ");
}

#[test]
fn a_deployment_to_a_subject() {
    let mut story = Scenario::begin(deployment("deploy.prod.role.dns", wave("dns", &["ns1", "dns-backup"])));
    let mut done = answer("ns1", Status::Completed);
    done.previous_revision = None;
    done.message = "Switched to generation 42".to_owned();
    story.wave_starts(0).sent("ns1").sent("dns-backup").event(EventKind::Accepted { host: name("ns1") }).wait(2);
    story.at("ns1", Phase::Build).wait(80).answered(done);
    story.answered(answer("dns-backup", Status::Completed)).wave_ends(0, WaveVerdict::Succeeded);
    story.ends(Outcome::Succeeded);
    insta::assert_snapshot!(story.told(), @"
    ◌ deploy.prod.role.dns: switch main -> 8c1f0e2
    ◌ ns1         sent
    ◌ dns-backup  sent
    ◌ ns1         building    2s
    ◌ dns-backup  sent        1m      of 45m
    ◌ ns1         building    1m02s   of 45m
    ✔ ns1         completed   1m22s   a91be77 -> 8c1f0e2   Switched to generation 42
    ✔ dns-backup  completed   1m22s   a91be77 -> 8c1f0e2

    ✔ deploy.prod.role.dns: 2 hosts completed, main -> 8c1f0e2   1m22s
    ");
}

#[test]
fn a_deployment_to_one_host() {
    let mut story = Scenario::begin(deployment("deploy.prod.ns1", wave("ns1", &["ns1"])));
    let mut done = answer("ns1", Status::Completed);
    done.message = "Switched to generation 42".to_owned();
    done.reboot_required = Some(true);
    story.wave_starts(0).sent("ns1").wait(2).at("ns1", Phase::Build);
    story.event(EventKind::Interrupted { how: Interrupt::Drain }).wait(40).answered(done);
    story.wave_ends(0, WaveVerdict::Succeeded).ends(Outcome::Succeeded);
    insta::assert_snapshot!(story.told(), @"
    ◌ deploy.prod.ns1: switch main -> 8c1f0e2
    ◌ ns1  sent
    ◌ ns1  building    2s
    ✖ interrupted: nothing new is sent; waiting for ns1. A second interrupt leaves at once
    ✔ ns1  completed   42s     a91be77 -> 8c1f0e2   Switched to generation 42   reboot required

    ✔ deploy.prod.ns1: 1 host completed, main -> 8c1f0e2   42s
    ");
}

#[test]
fn what_hosts_say_cannot_paint_the_screen() {
    let mut story = Scenario::begin(rollout("evening", vec![wave("media", &["jellyx"])]));
    let mut hostile = build_failure("jellyx");
    hostile.error = Some(ErrorCode::Other("\x1b[2Jcleared".to_owned()));
    hostile.message = "\x1b]0;owned\x07first\u{202e}line\nsecond line".to_owned();
    hostile.log_tail = vec!["\x1b[31mred\x1b[0m\r\x1b[K".to_owned(), "✔ all\u{200b} well".to_owned()];
    hostile.failed_units = vec!["a\x1b[1m.service".to_owned()];
    story.wave_starts(0).sent("jellyx").wait(1).answered(hostile);
    story.wave_ends(0, WaveVerdict::Failed(FailureReason::CheckFailed { reason: "\x1b[5mblink".to_owned() }));
    story.ends(Outcome::Failed);
    let told = story.told();
    assert!(told.chars().all(|c| c == '\n' || !c.is_control()));
    insta::assert_snapshot!(told, @r#"
    ◌ Rollout evening 01f92b3c begins: main -> 8c1f0e2, 1 host in 1 wave
    ◌ 1/1 media   1 host, 1 at once
        ◌ jellyx  sent
        ✖ jellyx  failed      1s      cleared: firstline
    ✖ 1/1 media   0/1   1s   failed: its check says: blink

    ✖ Rollout evening failed in wave 1/1 "media": its check says: blink.

      jellyx  failed      1s      cleared: firstline   (was on a91be77)
          failed units: a.service
          | red
          | ✔ all well

      1 host: 1 failed   1s
    "#);
}

#[test]
fn only_symbols_are_colored_and_only_when_wanted() {
    let mut story = Scenario::in_style(rollout("evening", vec![wave("media", &["jelly"])]), Style::Colored);
    story.wave_starts(0).deploys("jelly").wave_ends(0, WaveVerdict::Succeeded);
    insta::assert_snapshot!(story.lines().replace('\x1b', "ESC"), @"
    ESC[36m◌ESC[0m Rollout evening 01f92b3c begins: main -> 8c1f0e2, 1 host in 1 wave
    ESC[36m◌ESC[0m 1/1 media   1 host, 1 at once
        ESC[36m◌ESC[0m jelly  sent
        ESC[36m◌ESC[0m jelly  building    1s
        ESC[36m◌ESC[0m jelly  activating  11s
        ESC[32m✔ESC[0m jelly  completed   12s     a91be77 -> 8c1f0e2
    ESC[32m✔ESC[0m 1/1 media   1/1   12s
    ");
}
