use std::time::Duration;

use jiff::tz::TimeZone;

use super::*;
use crate::plan::Check;
use crate::protocol::Action;
use crate::report::tests::scenario::{NEW, commit, demo, rollout, wave};

/// The plan of the documentation: five waves, one host that does not answer and one that is current.
fn sunday() -> Rollout {
    let mut waves = vec![
        wave("test", &["test1", "test2"]),
        wave("dns", &["ns1", "ns2"]),
        wave("media", &["jelly", "sonos"]),
        wave("rest", &["ha", "nas", "laptop"]),
        wave("nats", &["nats1"]),
    ];
    waves[0].limits.bake_time = Duration::from_mins(10);
    waves[1].limits.max_parallel = 1;
    waves[1].limits.bake_time = Duration::from_mins(2);
    waves[1].limits.check = Some(Check { command: vec!["./smoke.sh".to_owned()], timeout: Duration::from_mins(1) });
    waves[1].hosts[1].revision = Some(commit(NEW));
    waves[2].limits.max_failures = 1;
    waves[2].limits.confirm = true;
    waves[3].limits.ignore_unreachable = true;
    waves[3].hosts[2].present = false;
    waves[3].hosts[2].revision = None;
    waves[4].limits.max_parallel = 1;
    rollout("sunday", waves)
}

fn many(count: usize) -> Rollout {
    let hosts: Vec<String> = (1..=count).map(|number| format!("web{number:03}")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let mut web = wave("web", &hosts);
    web.limits.max_parallel = 30;
    web.hosts.iter_mut().step_by(3).for_each(|host| host.revision = Some(commit(NEW)));
    web.hosts.iter_mut().step_by(100).for_each(|host| host.present = false);
    rollout("fleet", vec![wave("test", &["test1"]), web])
}

#[test]
fn a_plan_at_80_columns() {
    insta::assert_snapshot!(preview(&sunday(), &[], None, 80), @r#"
    Rollout sunday   main -> 8c1f0e2 "flake: bump nixpkgs"   switch

      wave      hosts                          at once  may fail  then
      1 test    test1 test2                    2        0         bake 10m
      2 dns     ns1 ns2=                       1        0         bake 2m, check
      3 media   jelly sonos                    2        1         asks first
      4 rest    ha nas laptop?                 2        0         -
      5 nats    nats1                          1        0         -

      laptop? did not answer; wave 4 ignores unreachable hosts.
      ns2= already runs 8c1f0e2.
      10 hosts in 5 waves: 8 to change, 1 current, 1 unreachable. At most 5h28m.
    "#);
}

#[test]
fn a_short_plan_looks_the_same_in_a_wide_terminal() {
    assert_eq!(preview(&sunday(), &[], None, 120), preview(&sunday(), &[], None, 80));
}

#[test]
fn three_hundred_hosts_at_80_columns() {
    insta::assert_snapshot!(preview(&many(300), &[], None, 80), @r#"
    Rollout fleet   main -> 8c1f0e2 "flake: bump nixpkgs"   switch

      wave     hosts                                         at once  may fail  then
      1 test   test1                                         2        0         -
      2 web    web001? web002 web003 web004= web005 web006   30       0         -
               web007= web008 web009 web010= web011 web012
               web013= web014 web015 … and 285 more

      web001? web101? web201? did not answer; silence counts as a failure in wave
        2.
      web004= web007= web010= web013= web016= web019= web022= web025= and 91 more
        already run 8c1f0e2.
      301 hosts in 2 waves: 199 to change, 99 current, 3 unreachable. At most
        8h15m.
    "#);
}

#[test]
fn three_hundred_hosts_at_120_columns() {
    insta::assert_snapshot!(preview(&many(300), &[], None, 120), @r#"
    Rollout fleet   main -> 8c1f0e2 "flake: bump nixpkgs"   switch

      wave     hosts                                                                                 at once  may fail  then
      1 test   test1                                                                                 2        0         -
      2 web    web001? web002 web003 web004= web005 web006 web007= web008 web009 web010= web011      30       0         -
               web012 web013= web014 web015 web016= web017 web018 web019= web020 web021 web022=
               web023 web024 web025= web026 web027 web028= web029 web030 web031= … and 269 more

      web001? web101? web201? did not answer; silence counts as a failure in wave 2.
      web004= web007= web010= web013= web016= web019= web022= web025= and 91 more already run 8c1f0e2.
      301 hosts in 2 waves: 199 to change, 99 current, 3 unreachable. At most 8h15m.
    "#);
}

#[test]
fn what_does_not_fit_into_a_line_goes_on_in_the_next() {
    insta::assert_snapshot!(preview(&many(12), &[], None, 80), @r#"
    Rollout fleet   main -> 8c1f0e2 "flake: bump nixpkgs"   switch

      wave     hosts                                         at once  may fail  then
      1 test   test1                                         2        0         -
      2 web    web001? web002 web003 web004= web005 web006   30       0         -
               web007= web008 web009 web010= web011 web012

      web001? did not answer; silence counts as a failure in wave 2.
      web004= web007= web010= already run 8c1f0e2.
      13 hosts in 2 waves: 9 to change, 3 current, 1 unreachable. At most 1h30m.
    "#);
}

#[test]
fn no_line_is_longer_than_the_terminal_is_wide() {
    for (rollout, width) in [(many(300), 80), (many(300), 120), (many(300), 200), (many(40), 72), (sunday(), 80)] {
        let preview = preview(&rollout, &[], None, width);
        let longest = preview.lines().map(crate::report::format::columns).max().unwrap();
        assert!(longest <= width, "{longest} > {width}:\n{preview}");
    }
}

#[test]
fn a_host_name_is_never_cut() {
    let long = "a-host-whose-name-is-longer-than-the-column-that-there-is-for-names";
    let preview = preview(&rollout("long", vec![wave("all", &["ns1", long, "ns2"])]), &[], None, 60);
    insta::assert_snapshot!(preview, @r#"
    Rollout long   main -> 8c1f0e2 "flake: bump nixpkgs"
        switch

      wave    hosts                      at once  may fail  then
      1 all   ns1                        2        0         -
              a-host-whose-name-is-longer-than-the-column-that-there-is-for-names
              ns2

      3 hosts in 1 wave: 3 to change. At most 1h30m.
    "#);
}

#[test]
fn warnings_silent_hosts_and_different_actions_are_pointed_out() {
    let mut rollout = demo();
    rollout.subject = Some("\x1b[31mflake\u{202e}: bump\nmore".to_owned());
    rollout.plan.waves[0].action = Action::DryActivate;
    rollout.plan.waves[1].hosts.iter_mut().for_each(|host| host.present = false);
    rollout.plan.waves[2].hosts[0].present = false;
    let warnings = [
        "wave 2 tolerates the failure of every host".to_owned(),
        "ns9 belonged to this group in the rollout of 2026-11-16 and did not answer this time: is it switched off?"
            .to_owned(),
    ];
    insta::assert_snapshot!(preview(&rollout, &warnings, None, 80), @r#"
    Rollout demo   main -> 8c1f0e2 "flake: bump"

      wave                    hosts                          at once  may fail  then
      1 test (dry-activate)   test1 test2                    2        0         -
      2 dns (switch)          ns1? ns2?                      1        0         -
      3 media (switch)        jelly? sonos                   2        0         -

      ⚠ warning: wave 2 tolerates the failure of every host
      ⚠ warning: ns9 belonged to this group in the rollout of 2026-11-16 and did
        not answer this time: is it switched off?
      ns1? ns2? did not answer; silence counts as a failure in wave 2.
      jelly? did not answer; silence counts as a failure in wave 3.
      6 hosts in 3 waves: 3 to change, 3 unreachable. At most 3h.
    "#);
}

#[test]
fn a_host_that_runs_the_commit_already_does_not_go_back_to_it() {
    let told = rollback_commits(&sunday());
    assert!(told.contains("test1") && !told.contains("ns2") && !told.contains("from 8c1f0e2"), "{told}");
}

#[test]
fn where_the_commit_is_not_known_each_host_may_go_back() {
    let mut rollout = sunday();
    rollout.revision = "main".parse().unwrap();
    for host in rollout.plan.waves.iter_mut().flat_map(|wave| &mut wave.hosts) {
        host.revision = None;
        host.is_current = false;
    }
    insta::assert_snapshot!(rollback_commits(&rollout), @"from what they run back to main: test1 test2 ns1 ns2 jelly sonos ha nas and 2 more");
}

#[test]
fn a_bound_is_rounded_up() {
    assert_eq!(rounded_up(Duration::from_secs(3601)), Duration::from_mins(61));
    assert_eq!(rounded_up(Duration::from_millis(59_500)), Duration::from_mins(1));
}

#[test]
fn hosts_that_are_missed_are_told_of_by_day() {
    let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
    let days = [("ns3", "2026-11-20T23:59:00Z"), ("nas", "2026-11-22T10:00:00Z"), ("ha", "2026-11-22T20:00:00Z")];
    let missed = days.map(|(host, day)| (crate::report::tests::scenario::name(host), at(day))).into();
    insta::assert_snapshot!(crate::report::missed(&missed, &TimeZone::UTC).join("\n"), @"
    ns3 was there on 2026-11-20 and does not answer now
    ha nas were there on 2026-11-22 and do not answer now
    ");
    insta::assert_snapshot!(crate::report::missed(&missed, &TimeZone::fixed(jiff::tz::offset(1))).join("\n"), @"
    ns3 was there on 2026-11-21 and does not answer now
    ha nas were there on 2026-11-22 and do not answer now
    ");
}

#[test]
fn a_terminal_of_sixty_columns_is_not_too_narrow() {
    insta::assert_snapshot!(preview(&sunday(), &[], None, 60), @r#"
    Rollout sunday   main -> 8c1f0e2 "flake: bump nixpkgs"
        switch

      wave      hosts          at once  may fail  then
      1 test    test1 test2    2        0         bake 10m
      2 dns     ns1 ns2=       1        0         bake 2m, check
      3 media   jelly sonos    2        1         asks first
      4 rest    ha nas         2        0         -
                laptop?
      5 nats    nats1          1        0         -

      laptop? did not answer; wave 4 ignores unreachable
        hosts.
      ns2= already runs 8c1f0e2.
      10 hosts in 5 waves: 8 to change, 1 current, 1
        unreachable. At most 5h28m.
    "#);
    for width in 50..130 {
        let shown = preview(&sunday(), &[], None, width);
        assert!(shown.lines().all(|line| super::super::format::columns(line) <= width), "{width}:\n{shown}");
    }
}

#[test]
fn the_titles_of_a_preview_stand_out_on_a_terminal_and_nowhere_else() {
    let plain = preview(&sunday(), &[], None, 80);
    assert_eq!(emphasize(&plain, Style::Plain), plain);
    let colored = emphasize(&plain, Style::Colored);
    assert!(colored.starts_with("\x1b[1mRollout sunday") && colored.contains("\n\x1b[2m  wave "), "{colored:?}");
    assert_eq!(colored.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", ""), plain);
}
