//! Tests when hosts roll back, and which hosts must support it.

use std::time::Duration;

use super::super::{Plan, Rollback};
use super::{answered_by, host, plan, report, roster, told};
use crate::protocol::{Feature, HostReport};

/// Creates a host whose listener does not support rollbacks.
fn old(text: &str) -> HostReport {
    HostReport { features: vec![Feature::Id], ..host(text) }
}

fn waves(text: &str) -> String {
    resolved(&plan(text))
}

/// Formats the rollback of each wave and the longest time of a host.
fn resolved(plan: &Plan) -> String {
    let there = roster(&["test.test1", "prod.ns1", "prod.ns2"]);
    let (resolved, _) = plan.resolve(&there).unwrap_or_else(|mistakes| panic!("{}", report(&mistakes)));
    let line = |wave: &super::super::ResolvedWave| {
        let within = humantime::format_duration(wave.limits.finish_timeout());
        let confirm =
            wave.limits.rollback_confirm_timeout().map(|timeout| humantime::format_duration(timeout).to_string());
        format!("{}: {}, confirmed within {confirm:?}, over within {within}\n", wave.name, wave.limits.rollback)
    };
    resolved.waves.iter().map(line).collect()
}

#[test]
fn a_wave_says_it_or_starts_from_the_defaults() {
    insta::assert_snapshot!(waves(
        "[defaults]\nrollback = 'auto'\nconfirm_timeout = '90s'\n\
         [[wave]]\ntargets = 'test.all'\n\
         [[wave]]\ntargets = 'prod.ns1'\nrollback = 'wave'\nconfirm_timeout = '5s'\n\
         [[wave]]\ntargets = 'prod.ns2'\nrollback = 'none'\n"
    ), @r#"
    test-all: auto, confirmed within Some("1m 30s"), over within 36m 30s
    prod-ns1: wave, confirmed within Some("5s"), over within 35m 5s
    prod-ns2: none, confirmed within None, over within 30m
    "#);
}

#[test]
fn what_changes_nothing_needs_no_rollback() {
    let action =
        |action: &str| waves(&format!("action = '{action}'\n[[wave]]\ntargets = 'test.all'\nrollback = 'wave'\n"));
    insta::assert_snapshot!(["switch", "test", "boot", "dry-activate"].map(action).concat(), @r#"
    test-all: wave, confirmed within Some("1m"), over within 36m
    test-all: wave, confirmed within Some("1m"), over within 36m
    test-all: wave, confirmed within Some("1m"), over within 36m
    test-all: none, confirmed within None, over within 30m
    "#);
}

#[test]
fn the_command_line_speaks_for_waves_that_say_nothing() {
    let mut plan = plan(
        "[[wave]]\ntargets = 'test.all'\n\
         [[wave]]\ntargets = 'prod.ns1'\nrollback = 'none'\n\
         [[wave]]\ntargets = 'prod.ns2'\nrollback = 'wave'\nconfirm_timeout = '2m'\n",
    );
    plan.set_default_rollback(Rollback::Auto);
    plan.set_default_confirm_timeout(Duration::from_secs(30));
    insta::assert_snapshot!(resolved(&plan), @r#"
    test-all: auto, confirmed within Some("30s"), over within 35m 30s
    prod-ns1: none, confirmed within None, over within 30m
    prod-ns2: wave, confirmed within Some("2m"), over within 37m
    "#);
}

#[test]
fn a_listener_that_cannot_return_is_a_mistake_of_the_wave_that_wants_it_to() {
    let there = answered_by(vec![old("test.test1"), old("test.test2"), host("test.test3"), old("prod.ns1")]);
    let text = "[defaults]\nrollback = 'auto'\n[[wave]]\ntargets = 'test.all'\n[[wave]]\ntargets = 'prod.all'\nrollback = 'none'\n";
    let mistakes = plan(text).resolve(&there).unwrap_err();
    insta::assert_snapshot!(report(&mistakes.named("plan.toml", text)), @r#"
      × the plan has a mistake

    Error:
      × wave `test-all` rolls back, which the listeners of test1 and test2 cannot
       ╭─[plan.toml:2:12]
     1 │ [defaults]
     2 │ rollback = 'auto'
       ·            ───┬──
       ·               ╰── asked for here
     3 │ [[wave]]
     4 │ targets = 'test.all'
       ·           ─────┬────
       ·                ╰── too old
     5 │ [[wave]]
       ╰────
      help: update them first, in a wave or deployment without a rollback; or write rollback = "none"
            in this wave
    "#);
}

#[test]
fn it_is_told_of_the_command_line_as_well() {
    let mut plan = plan("[[wave]]\ntargets = 'test.all'\n");
    plan.set_default_rollback(Rollback::Auto);
    let mistakes = plan.resolve(&answered_by(vec![old("test.test1")])).unwrap_err();
    insta::assert_snapshot!(told(mistakes.iter()), @r#"
    wave `test-all` rolls back, which the listeners of test1 cannot
      update them first, in a wave or deployment without a rollback; or write rollback = "none" in this wave
    "#);
}

#[test]
fn of_a_host_that_is_silent_it_is_not_known() {
    let (resolved, _) = plan("[[wave]]\ntargets = ['test.test1', 'test.test2']\nrollback = 'auto'\n")
        .resolve(&roster(&["test.test1"]))
        .unwrap();
    let known: Vec<bool> = resolved.hosts().map(|host| host.supports_rollback).collect();
    assert_eq!(known, [true, false]);
}
