use std::time::Duration;

use crate::plan::{Check, Rollback};
use crate::protocol::{Phase, Status};
use crate::report::bars::*;
use crate::report::format::columns as columns_of;
use crate::report::layout::LayoutState;
use crate::report::tests::scenario::{Scenario, answer, build_failure, demo, deployment, name, rollout, wave};
use crate::rollout::{EventKind, FailureReason, Interrupt, Summary, WaveVerdict};

const HALTED: FailureReason = FailureReason::TooManyFailures { failures: 1, max_failures: 0 };

/// Returns the lines that are drawn in place at the end of a scenario.
fn lines(story: &Scenario, columns: usize, rows: usize) -> Vec<String> {
    let (mut summary, mut memory) = (Summary::default(), LayoutState::default());
    for event in &story.events {
        summary.apply(event);
        memory.update(event, &summary);
    }
    let page = Layout::new(&summary, memory).unwrap();
    region(&page, &LastLines::new(), story.now(), Size { columns, rows }, Style::Plain)
}

fn shown(story: &Scenario, columns: usize, rows: usize) -> String {
    lines(story, columns, rows).join("\n")
}

/// Returns the rollout of five waves from the documentation.
fn sunday() -> Scenario {
    let mut waves = vec![
        wave("test", &["test1", "test2"]),
        wave("dns", &["ns1", "ns2"]),
        wave("media", &["jelly", "sonos"]),
        wave("rest", &["ha", "nas", "laptop"]),
        wave("nats", &["nats1"]),
    ];
    waves[1].limits.max_parallel = 1;
    waves[2].limits.confirm = true;
    Scenario::begin(rollout("sunday", waves))
}

/// Returns a wave of `hosts` hosts, of which `in_flight` are in flight and `completed` have completed.
fn crowd(hosts: usize, in_flight: usize, completed: usize) -> Scenario {
    let names: Vec<String> = (1..=hosts).map(|number| format!("node{number:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut story = Scenario::begin(rollout("all", vec![wave("canary", &["test1"]), wave("all", &names)]));
    story.wave_starts(0).deploys("test1").wave_ends(0, WaveVerdict::Succeeded).wave_starts(1);
    for host in names.iter().take(completed + in_flight) {
        story.sent(host);
    }
    story.wait(64);
    for host in names.iter().take(completed) {
        story.answered(answer(host, Status::Completed));
    }
    for host in names.iter().skip(completed).take(in_flight) {
        story.at(host, Phase::Build);
    }
    story
}

#[test]
fn the_sample() {
    let mut story = sunday();
    story.wave_starts(0).deploys("test1").deploys("test2").wave_ends(0, WaveVerdict::Succeeded).wave_starts(1);
    story.deploys("ns1").sent("ns2").at("ns2", Phase::Build).wait(64);
    insta::assert_snapshot!(shown(&story, 80, 24), @"
    ◌ 2/5 dns     1/2   3 of 10 hosts
        ✔ ns1     completed   12s     a91be77 -> 8c1f0e2
        ◌ ns2     building    1m04s   of 45m
    ◷ 3/5 media   asks first
    ◷ 4/5 rest    3 hosts
    ◷ 5/5 nats    1 host
    ");
    assert_eq!(shown(&story, 120, 40), shown(&story, 80, 24));
}

#[test]
fn six_hosts_in_every_state() {
    let mut story = Scenario::begin(rollout("evening", vec![wave("media", &["a", "b", "c", "d", "e", "long-name"])]));
    let delay = Duration::from_secs(30);
    story.wave_starts(0).deploys("a").sent("b").answered(build_failure("b")).sent("c").wait(3).sent("d");
    story.event(EventKind::Accepted { host: name("d") }).sent("e").wait(90);
    story.event(EventKind::Retrying { host: name("e"), outcome: HostOutcome::Unreachable, delay });
    insta::assert_snapshot!(shown(&story, 80, 24), @"
    ◌ 1/1 media   1/6   1 failed
        ✔ a          completed   12s     a91be77 -> 8c1f0e2
        ◌ c          sent        1m33s   of 45m
        ◌ d          accepted    1m30s   of 45m
        ◷ e          waiting     1m30s   unreachable, to be asked again
        ◷ long-name  pending
    ");
    insta::assert_snapshot!(shown(&story, 28, 24), @"
    ◌ 1/1 media   1/6   1 failed
        ✔ a          completed …
        ◌ c          sent      …
        ◌ d          accepted  …
        ◷ e          waiting   …
        ◷ long-name  pending
    ");
}

#[test]
fn of_three_hundred_hosts_only_those_that_move_are_shown() {
    let story = crowd(300, 3, 9);
    insta::assert_snapshot!(shown(&story, 80, 24), @"
    ◌ 2/2 all      9/300   10 of 301 hosts
        ◌ node010  building    1m04s   of 45m
        ◌ node011  building    1m04s   of 45m
        ◌ node012  building    1m04s   of 45m
        … 9 completed, 288 not asked
    ");
    assert_eq!(shown(&story, 120, 40), shown(&story, 80, 24));
}

#[test]
fn three_hundred_hosts_at_once_fill_the_terminal_and_no_more() {
    let story = crowd(300, 280, 9);
    insta::assert_snapshot!(shown(&story, 80, 12), @"
    ◌ 2/2 all      9/300   10 of 301 hosts
        ◌ node010  building    1m04s   of 45m
        ◌ node011  building    1m04s   of 45m
        ◌ node012  building    1m04s   of 45m
        ◌ node013  building    1m04s   of 45m
        ◌ node014  building    1m04s   of 45m
        ◌ node015  building    1m04s   of 45m
        ◌ node016  building    1m04s   of 45m
        … 9 completed, 273 in flight, 11 not asked
    ");
    for (columns, rows) in [(80, 24), (120, 40), (20, 10), (1, 1), (0, 0)] {
        let lines = lines(&story, columns, rows);
        assert!(lines.len() < rows.max(4), "{} lines for {rows} rows", lines.len());
    }
}

#[test]
fn a_wave_that_does_more_than_wait_for_hosts() {
    let mut dns = wave("dns", &["ns1"]);
    dns.limits.bake_time = Duration::from_mins(2);
    dns.limits.check =
        Some(Check { command: vec!["./smoke.sh".to_owned(), "dns".to_owned()], timeout: Duration::from_mins(1) });
    let mut story = Scenario::begin(rollout("evening", vec![dns]));
    let mut seen = vec![shown(&story, 80, 24)];
    story.wave_starts(0).deploys("ns1");
    story.event(EventKind::Baking { wave: WaveIndex(0), remaining: Duration::from_mins(2) }).wait(48);
    seen.push(shown(&story, 80, 24));
    story.event(EventKind::Checking { wave: WaveIndex(0) }).wait(3);
    seen.push(shown(&story, 80, 24));
    story.wave_ends(0, WaveVerdict::Succeeded);
    seen.push(shown(&story, 80, 24));
    insta::assert_snapshot!(seen.join("\n--\n"), @"
    ◷ 1/1 dns   0/1
        ◷ ns1  pending
    --
    ◷ 1/1 dns   1/1   baking, 1m12s left of 2m
        ✔ ns1  completed   12s     a91be77 -> 8c1f0e2
    --
    ◌ 1/1 dns   1/1   checking: ./smoke.sh dns
        ✔ ns1  completed   12s     a91be77 -> 8c1f0e2
    --
    ");
}

#[test]
fn a_wave_that_comes_to_a_halt() {
    let mut story = Scenario::begin(demo());
    story.wave_starts(0).sent("test1").sent("test2").wait(5).answered(build_failure("test1"));
    story.event(EventKind::Draining { wave: WaveIndex(0), cause: HALTED });
    let halted = shown(&story, 80, 24);
    let mut story = Scenario::begin(demo());
    story.wave_starts(0).sent("test1").wait(5).event(EventKind::Interrupted { how: Interrupt::Drain });
    insta::assert_snapshot!(format!("{halted}\n--\n{}", shown(&story, 80, 24)), @"
    ✖ 1/3 test    0/2   0 of 6 hosts   1 failed   halted
        ◌ test2  sent        5s      of 45m
    ◷ 2/3 dns     2 hosts
    ◷ 3/3 media   2 hosts
    --
    ✖ 1/3 test    0/2   0 of 6 hosts   interrupted
        ◌ test1  sent        5s      of 45m
        ◷ test2  pending
    ◷ 2/3 dns     2 hosts
    ◷ 3/3 media   2 hosts
    ");
}

#[test]
fn waves_to_come_leave_room_for_hosts() {
    let names: Vec<String> = (1..=12).map(|number| format!("wave{number}")).collect();
    let waves = names.iter().map(|name| wave(name, &[&format!("host-of-{name}")])).collect();
    let mut story = Scenario::begin(rollout("long", waves));
    story.wave_starts(0).sent("host-of-wave1");
    insta::assert_snapshot!(shown(&story, 80, 14), @"
    ◌  1/12 wave1    0/1   0 of 12 hosts
        ◌ host-of-wave1   sent        0s      of 45m
    ◷  2/12 wave2    1 host
    … 10 more waves to come
    ");
}

#[test]
fn a_name_is_never_cut_and_anything_else_is() {
    let long = "a-host-with-a-rather-long-name";
    let mut story = Scenario::begin(rollout("evening", vec![wave("media", &["b", long])]));
    story.wave_starts(0).sent("b").sent(long).wait(100);
    insta::assert_snapshot!(shown(&story, 44, 24), @"
    ◌ 1/1 media   0/2
        ◌ b                               sent …
        ◌ a-host-with-a-rather-long-name  sent …
    ");
    insta::assert_snapshot!(shown(&story, 20, 24), @"
    ◌ 1/1 media   0/2
        ◌ b            …
        ◌ a-host-with-a-rather-long-name  …
    ");
}

#[test]
fn a_deployment_shows_those_that_are_at_it() {
    let mut story = Scenario::begin(deployment("deploy.prod.role.dns", wave("dns", &["ns1", "dns-backup"])));
    story.wave_starts(0).sent("ns1").sent("dns-backup").wait(2);
    story.at("ns1", Phase::Build).wait(80);
    let both = shown(&story, 80, 24);
    story.answered(answer("ns1", Status::Completed));
    insta::assert_snapshot!(format!("{both}\n--\n{}", shown(&story, 80, 24)), @"
    ◌ ns1         building    1m22s   of 45m
    ◌ dns-backup  sent        1m22s   of 45m
    --
    ◌ dns-backup  sent        1m22s   of 45m
    ");
}

#[test]
fn while_hosts_of_a_wave_that_failed_return_it_stands_in_place() {
    let mut dns = wave("dns", &["ns1", "ns2"]);
    dns.limits.rollback = Rollback::Wave;
    let mut story = Scenario::begin(rollout("evening", vec![dns, wave("rest", &["ha"])]));
    story.wave_starts(0).deploys("ns1").deploys("ns2");
    story.wave_ends(0, WaveVerdict::Failed(FailureReason::CheckFailed { reason: "exit code 1".to_owned() }));
    story.sent_back("ns2").wait(3);
    insta::assert_snapshot!(shown(&story, 80, 24), @"
    ✖ 1/2 dns    2/2   2 of 3 hosts   failed, and returns to what ran before
        ✔ ns1  completed   12s     a91be77 -> 8c1f0e2
        ◌ ns2  returning   12s     its wave has failed
    ◷ 2/2 rest   1 host
    ");
}

#[test]
fn the_last_line_of_a_log_stands_behind_a_host_that_moves_where_there_is_room() {
    let mut story = Scenario::begin(demo());
    story.wave_starts(0).deploys("test1").sent("test2").at("test2", Phase::Build).wait(3);
    let (mut summary, mut memory) = (Summary::default(), LayoutState::default());
    for event in &story.events {
        summary.apply(event);
        memory.update(event, &summary);
    }
    let page = Layout::new(&summary, memory).unwrap();
    let logs: LastLines =
        ["test1", "test2", "ns1"].map(|host| (name(host), format!("building {host}.drv of 17"))).into();
    let shown = |columns, style| region(&page, &logs, story.now(), Size { columns, rows: 24 }, style).join("\n");
    insta::assert_snapshot!(shown(120, Style::Plain), @"
    ◌ 1/3 test    1/2   1 of 6 hosts
        ✔ test1  completed   12s     a91be77 -> 8c1f0e2
        ◌ test2  building    3s      of 45m   building test2.drv of 17
    ◷ 2/3 dns     2 hosts
    ◷ 3/3 media   2 hosts
    ");
    insta::assert_snapshot!(shown(64, Style::Plain), @"
    ◌ 1/3 test    1/2   1 of 6 hosts
        ✔ test1  completed   12s     a91be77 -> 8c1f0e2
        ◌ test2  building    3s      of 45m   building test2.drv of…
    ◷ 2/3 dns     2 hosts
    ◷ 3/3 media   2 hosts
    ");
    insta::assert_snapshot!(shown(57, Style::Plain), @"
    ◌ 1/3 test    1/2   1 of 6 hosts
        ✔ test1  completed   12s     a91be77 -> 8c1f0e2
        ◌ test2  building    3s      of 45m
    ◷ 2/3 dns     2 hosts
    ◷ 3/3 media   2 hosts
    ");
    assert!(shown(120, Style::Colored).contains("of 45m   \x1b[2mbuilding test2.drv of 17\x1b[0m"));
    for columns in 40..120 {
        let shown = shown(columns, Style::Plain);
        assert!(shown.lines().all(|line| columns_of(line) <= columns), "{columns}:\n{shown}");
    }
}
