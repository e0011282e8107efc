//! Tests resolved plans, and the errors of plans that cannot be resolved.

use jiff::Timestamp;
use uuid::Uuid;

use super::super::{Hook, Hooks, ResolvedPlan, Roster};
use super::{answered_by, demo_roster, host, listening, plan, report, roster, told, waves};
use crate::protocol::{HostReport, Tier};

const SUNDAY: &str = include_str!("../../../plans/sunday.toml");
const DEMO: &str = include_str!("../../../plans/demo.toml");

fn resolved(text: &str, roster: &Roster) -> String {
    match plan(text).resolve(roster) {
        Ok((resolved, _)) => waves(&resolved),
        Err(mistakes) => panic!("{}", report(&mistakes.named("plan.toml", text))),
    }
}

fn wrong(text: &str, roster: &Roster) -> String {
    told(plan(text).resolve(roster).unwrap_err().iter())
}

fn warned(text: &str, roster: &Roster) -> String {
    let plan = plan(text);
    let (resolved, mut warnings) = plan.resolve(roster).unwrap();
    warnings.extend(plan.advice(&resolved));
    told(&warnings)
}

fn on_machine(text: &str, machine: &str) -> HostReport {
    HostReport { machine: Some(machine.to_owned()), ..host(text) }
}

/// Formats waves with these targets; a leading `!` excludes one.
fn waves_of(targets: &[&[&str]]) -> String {
    let wave = |(index, targets): (usize, &&[&str])| {
        let (exclude, targets): (Vec<&str>, Vec<&str>) = targets.iter().partition(|target| target.starts_with('!'));
        let exclude: Vec<_> = exclude.iter().map(|target| &target[1..]).collect();
        format!("[[wave]]\nname = 'w{index}'\ntargets = {targets:?}\nexclude = {exclude:?}\n")
    };
    targets.iter().enumerate().map(wave).collect()
}

#[test]
fn who_excludes_a_host_that_is_down_has_not_misspelt_it() {
    let text = waves_of(&[&["prod.db-east"], &["prod.db-west"]]);
    let mut plan = plan(&text);
    plan.exclude(&"db-east".parse().unwrap());
    let (_, warnings) = plan.resolve(&roster(&["prod.db-west"])).unwrap();
    assert_eq!(told(&warnings), "");
}

#[test]
fn a_record_of_a_later_version_may_have_hooks_of_its_own() {
    let record = serde_json::json!({ "name": "p", "waves": [], "hooks": { "on_wave": true, "on_start": null, "on_halt": ["x"] } });
    let plan: ResolvedPlan = serde_json::from_value(record).unwrap();
    assert_eq!(plan.hooks, Hooks::from([(Hook::OnHalt, vec!["x".to_owned()])]));
}

#[test]
fn the_demonstration() {
    insta::assert_snapshot!(resolved(DEMO, &demo_roster()), @"
canary: test1 test2 at once 2
dns: ns1 ns2 at once 1
media: jelly sonos at once 2
");
    assert_eq!(warned(DEMO, &demo_roster()), "");
}

#[test]
fn a_whole_plan() {
    let there = roster(&[
        "test.test2",
        "test.test1",
        "prod.ns1/dns",
        "prod.jelly/media",
        "prod.sonos/media",
        "prod.ha",
        "prod.nas",
        "prod.nats1",
    ]);
    insta::assert_snapshot!(resolved(SUNDAY, &there), @"
test: test1 test2 at once 2
dns: ns1 ns2? at once 1
media: jelly sonos at once 2
rest: ha nas laptop? at once 2
nats: nats1 at once 1
");
    assert_eq!(warned(SUNDAY, &there), "");
}

#[test]
fn hosts_come_in_the_order_of_targets_then_names() {
    let there = roster(&["prod.b", "prod.a", "prod.z/dns", "prod.y/dns", "test.a2"]);
    insta::assert_snapshot!(resolved(&waves_of(&[&["prod.gone", "prod.role.dns", "prod.all"]]), &there), @"w0: gone? y z a b at once 5");
}

#[test]
fn an_excluded_host_is_free_for_a_later_wave() {
    let there = roster(&["prod.a", "prod.b/dns", "prod.c"]);
    insta::assert_snapshot!(resolved(&waves_of(&[&["prod.all", "!prod.role.dns"], &["prod.b"]]), &there), @"
w0: a c at once 2
w1: b at once 1
");
    insta::assert_snapshot!(resolved(&waves_of(&[&["prod.all", "!prod.a"], &["prod.all"]]), &there), @"
w0: b c at once 2
w1: a at once 1
");
}

#[test]
fn each_host_is_reached_on_the_subject_of_its_name_or_on_one_that_the_plan_spells() {
    let there = answered_by(vec![
        host("prod.a"),
        listening("prod.b", &["fleet.all", "fleet.b"]),
        listening("prod.c", &["fleet.all", "fleet.c"]),
        listening("prod.d", &[] as &[&str]),
    ]);
    insta::assert_snapshot!(resolved(&waves_of(&[&["fleet.all"], &["prod.all"]]), &there), @"
    w0: b (fleet.all) c (fleet.all) at once 2
    w1: a d at once 2
    ");
    insta::assert_snapshot!(resolved(&waves_of(&[&["fleet.b"], &["fleet.c"]]), &there), @"
w0: b (fleet.b) at once 1
w1: c (fleet.c) at once 1
");
    insta::assert_snapshot!(wrong(&waves_of(&[&["prod.b"]]), &there), @"
the host `b` does not listen on the subject of its name
  let its listener listen on a subject of its own as well: --deploy-subject deploy.prod.b
");
    insta::assert_snapshot!(wrong(&format!("{}max_parallel = 1", waves_of(&[&["fleet.all"]])), &there), @r#"
    b and c: reached by fleet.all only, so no fewer than 2 at once
      let each listener listen on a subject of its own as well: --deploy-subject deploy.<tier>.<hostname>
    "#);
    insta::assert_snapshot!(wrong(&format!("{}rollback = 'auto'", waves_of(&[&["fleet.all"]])), &there), @r#"
    b and c: reached by fleet.all only, so none can be confirmed by itself and roll back
      let each listener listen on a subject of its own as well: --deploy-subject deploy.<tier>.<hostname>
    "#);

    // Who is excluded, has a subject of its own as well or is in another wave hears a shared subject.
    let overheard = answered_by(vec![
        listening("prod.a", &["deploy.prod.a", "fleet.all"]),
        listening("prod.b", &["fleet.all"]),
        listening("prod.c", &["fleet.all", "fleet.c"]),
    ]);
    insta::assert_snapshot!(wrong(&waves_of(&[&["fleet.c"], &["fleet.all", "!prod.a"]]), &overheard), @r#"
    b: reached by fleet.all only, where a and c would run the same request
      let each listener listen on a subject of its own as well: --deploy-subject deploy.<tier>.<hostname>
    "#);
    insta::assert_snapshot!(wrong(&waves_of(&[&["fleet.all"]]), &overheard), @r#"
    b and c: reached by fleet.all only, where a would run the same request
      let each listener listen on a subject of its own as well: --deploy-subject deploy.<tier>.<hostname>
    "#);

    // A host cannot claim the subjects of other hosts, tiers and roles.
    let there = answered_by(vec![
        listening(
            "test.mallory",
            &["deploy.test.mallory", "deploy.prod.db", "deploy.prod.all", "deploy.test.role.web"],
        ),
        host("prod.db"),
    ]);
    insta::assert_snapshot!(resolved(&waves_of(&[&["test.all"], &["prod.all"]]), &there), @"
w0: mallory at once 1
w1: db at once 1
");
    insta::assert_snapshot!(wrong(&waves_of(&[&["test.role.web"]]), &there), @"
    wave `w0` matches no host
      no test host has a role; those that answered are mallory; min_hosts = 0 lets a wave be empty
    ");

    let there = answered_by(vec![
        listening("prod.b", &["fleet.all", "deploy.prod.all"]),
        listening("prod.c/dns", &["fleet.all", "deploy.prod.role.dns"]),
    ]);
    insta::assert_snapshot!(wrong(&waves_of(&[&["prod.all"]]), &there), @"
the host `b` does not listen on the subject of its name
  let its listener listen on a subject of its own as well: --deploy-subject deploy.prod.b
the host `c` does not listen on the subject of its name
  let its listener listen on a subject of its own as well: --deploy-subject deploy.prod.c
");
}

#[test]
fn an_exclusion_in_the_wrong_tier_is_not_passed_over_in_silence() {
    let there = demo_roster();
    insta::assert_snapshot!(warned(&waves_of(&[&["test.all"], &["prod.role.dns", "!test.ns1"]]), &there), @r#"
    the host `ns1` did not answer, and one of that name did as a host of prod
      write prod.ns1 if that is the one, or correct the --tier of its listener
    "#);
    assert_eq!(warned(&waves_of(&[&["test.all"], &["prod.role.dns", "!prod.ns1"]]), &there), "");
}

#[test]
fn a_host_is_in_one_wave_and_one_tier() {
    let there = demo_roster();
    insta::assert_snapshot!(wrong(&waves_of(&[&["prod.ns1"], &["prod.ns1"]]), &there), @"
the host `ns1` is named in two waves
  a host is deployed once: remove it from `w0` or `w1`
");
    insta::assert_snapshot!(wrong(&waves_of(&[&["prod.all"], &["prod.ns1"]]), &there), @r#"
the host `ns1` is in wave `w0` already, as one of `prod.all`
  a host is deployed once: give `w0` the line exclude = "prod.ns1", or remove it from `w1`
"#);
    insta::assert_snapshot!(wrong(&waves_of(&[&["test.laptop"], &["prod.laptop"]]), &there), @"
the host `laptop` is in both tiers
  a host name stands for one machine: rename one of the two, or remove the wrong one
");
    insta::assert_snapshot!(warned(&waves_of(&[&["test.ns1"]]), &there), @"
the host `ns1` did not answer, and one of that name did as a host of prod
  write prod.ns1 if that is the one, or correct the --tier of its listener
");
    insta::assert_snapshot!(resolved(&waves_of(&[&["prod.ns1", "prod.role.dns", "prod.ns1"]]), &there), @"w0: ns1 ns2 at once 2");
}

#[test]
fn one_name_is_one_machine() {
    let waves = waves_of(&[&["prod.all"]]);
    let clones = answered_by(vec![on_machine("prod.a", "1"), on_machine("prod.a", "2")]);
    insta::assert_snapshot!(wrong(&waves, &clones), @"
two machines answer to the name `a`
  a cloned machine keeps the name of the first: stop one listener, or give it another --hostname
");
    let instance = |number| HostReport { instance: Some(Uuid::from_u128(number)), ..on_machine("prod.a", "1") };
    insta::assert_snapshot!(wrong(&waves, &answered_by(vec![instance(1), instance(2)])), @"
two machines answer to the name `a`
  a cloned machine keeps the name of the first: stop one listener, or give it another --hostname
");
    // A host of another tier is another host.
    let tiers = answered_by(vec![host("test.a"), host("prod.a")]);
    insta::assert_snapshot!(resolved(&waves, &tiers), @"w0: a at once 1");
    let twice = answered_by(vec![on_machine("prod.a", "1"), on_machine("prod.a", "1")]);
    insta::assert_snapshot!(resolved(&waves, &twice), @"w0: a at once 1");
}

#[test]
fn a_wave_without_hosts_says_who_is_there() {
    let there = demo_roster();
    insta::assert_snapshot!(wrong(&waves_of(&[&["prod.role.dsn"]]), &there), @"
wave `w0` matches no host
  did you mean prod.role.dns? the roles that prod hosts answered with are dns and media; min_hosts = 0 lets a wave be empty
");
    insta::assert_snapshot!(wrong(&waves_of(&[&["test.role.dns"]]), &there), @"
wave `w0` matches no host
  no test host has a role; those that answered are test1 and test2; min_hosts = 0 lets a wave be empty
");
    insta::assert_snapshot!(wrong(&waves_of(&[&["staging.all", "prod.role.web"]]), &there), @r#"
    wave `w0` matches no host
      no host listens on this subject, and short forms begin with test or prod; those that answered are jelly, ns1, ns2, sonos, test1 and test2; the roles that prod hosts answered with are dns and media; min_hosts = 0 lets a wave be empty
    "#);
    insta::assert_snapshot!(wrong(&waves_of(&[&["prod.all"]]), &roster(&[])), @r#"
    wave `w0` matches no host
      no prod host answered: see that a listener runs; min_hosts = 0 lets a wave be empty
    "#);
    insta::assert_snapshot!(wrong(&waves_of(&[&["prod.role.dns"], &["fleet.x"]]), &roster(&[])), @r#"
    wave `w0` matches no host
      no prod host answered: see that a listener runs; min_hosts = 0 lets a wave be empty
    wave `w1` matches no host
      no host answered: see that a listener runs; min_hosts = 0 lets a wave be empty
    "#);
    insta::assert_snapshot!(wrong(&waves_of(&[&["prod.all"], &["prod.role.dns"]]), &there), @"
wave `w1` has no host left
  all that it matches are in earlier waves or excluded: remove it, or exclude them earlier
");
    insta::assert_snapshot!(wrong(&format!("{}min_hosts = 3", waves_of(&[&["prod.role.dns"]])), &there), @"
wave `w0` matches 2 of the 3 hosts that it wants
  see `homelab-deploy hosts` for the hosts that answer, or lower `min_hosts`
");
    insta::assert_snapshot!(resolved(&format!("{}min_hosts = 0", waves_of(&[&["prod.role.dsn"]])), &there), @"w0: at once 1");
}

#[test]
fn a_report_of_a_roster_points_into_the_plan() {
    let text = "[[wave]]\nname = 'all'\ntargets = 'prod.all'\n\n[[wave]]\ntargets = 'prod.ns1'\n";
    let mistakes = plan(text).resolve(&demo_roster()).unwrap_err();
    insta::assert_snapshot!(report(&mistakes.named("plan.toml", text)), @r#"
  × the plan has a mistake

Error:
  × the host `ns1` is in wave `all` already, as one of `prod.all`
   ╭─[plan.toml:3:11]
 2 │ name = 'all'
 3 │ targets = 'prod.all'
   ·           ─────┬────
   ·                ╰── taken here
 4 │
 5 │ [[wave]]
 6 │ targets = 'prod.ns1'
   ·           ─────┬────
   ·                ╰── named here
   ╰────
  help: a host is deployed once: give `all` the line exclude = "prod.ns1", or remove it from
        `prod-ns1`
"#);
}

#[test]
fn what_may_not_be_meant_is_a_warning() {
    let there = demo_roster();
    insta::assert_snapshot!(warned(&waves_of(&[&["prod.role.dns"], &["test.all"]]), &there), @r#"
wave `w0` deploys prod hosts before any test host
  let a wave of test hosts go first, such as targets = "test.all"
"#);
    insta::assert_snapshot!(warned(&waves_of(&[&["test.all", "test.role.x"]]), &there), @"
`test.role.x` matches no host
  no test host has a role; those that answered are test1 and test2
");
    insta::assert_snapshot!(warned(&format!("{}max_failures = 2", waves_of(&[&["test.all"]])), &there), @"
wave `w0` may fail on every one of its hosts: 2 may, of 2
  a smaller `max_failures` stops at a bad revision
");
    assert_eq!(warned(&format!("{}max_failures = 1", waves_of(&[&["test.all"]])), &there), "");
    let text = waves_of(&[&["prod.all"]]);
    let plan = plan(&text);
    let warnings = plan.advice(&plan.resolve(&there).unwrap().0);
    insta::assert_snapshot!(report(&warnings[0]), @r#"
⚠ wave `w0` deploys prod hosts before any test host
help: let a wave of test hosts go first, such as targets = "test.all"
"#);
}

#[test]
fn the_roll_call_asks_for_the_tiers_of_the_plan() {
    let tiers = |targets: &[&str]| plan(&waves_of(&[targets])).tiers();
    assert_eq!(tiers(&["test.a", "deploy.test.all"]), [Tier::Test].into());
    assert_eq!(tiers(&["my-lab"]), [Tier::Prod].into());
    assert_eq!(tiers(&["fleet.x"]), Tier::ALL.into());
}

#[test]
fn the_flake_is_the_one_that_all_hosts_name_and_of_prod_only_prod_hosts_are_heard() {
    let from = |name: &str, flake: &str| HostReport { flake: Some(flake.parse().unwrap()), ..host(name) };
    let flake = |targets: &[&[&str]], roster: &Roster| {
        plan(&waves_of(targets)).resolve(roster).unwrap().0.flake_of_hosts(roster)
    };
    let [prod, test, both]: [&[&[&str]]; 3] = [&[&["prod.all"]], &[&["test.all"]], &[&["test.all"], &["prod.all"]]];

    let same = answered_by(vec![
        from("prod.a", "github:a/a"),
        from("prod.b", "github:a/a"),
        host("prod.c"),
        from("test.x", "github:x/x"),
    ]);
    for plan in [prod, both] {
        assert_eq!(flake(plan, &same).unwrap().unwrap().as_str(), "github:a/a");
    }
    assert_eq!(flake(test, &same).unwrap().unwrap().as_str(), "github:x/x");
    assert_eq!(flake(prod, &roster(&["prod.a"])).unwrap(), None);
    // A test host does not choose the flake of prod hosts that name none, not even of silent ones.
    let silent = answered_by(vec![from("test.x", "github:x/x")]);
    assert_eq!(flake(&[&["test.all"], &["prod.a"]], &silent).unwrap(), None);

    let secret = answered_by(vec![from("prod.a", "git+https://bob:s3cret@h/x"), from("prod.b", "git+https://h/x")]);
    assert_eq!(flake(prod, &secret).unwrap().unwrap().as_str(), "git+https://h/x");

    let two = answered_by(vec![from("prod.a", "github:a/a"), from("prod.b", "github:b/b")]);
    insta::assert_snapshot!(told(flake(prod, &two).unwrap_err().iter()), @r#"
the hosts deploy from different flakes: github:a/a (a) and github:b/b (b)
  say which one the revision is looked up in: flake = "…" at the top of the plan, or --flake
"#);
}

#[test]
fn a_host_that_belonged_to_a_group_and_is_gone_is_missed() {
    let day = |day: u8| format!("2026-11-{day:02}T10:00:00Z").parse::<Timestamp>().unwrap();
    let before = roster(&["prod.a", "prod.b/dns", "prod.c", "prod.d", "prod.e", "test.x"]);
    let now = roster(&["prod.a", "test.y"]);
    let resolved = |targets: &[&[&str]], roster: &Roster| plan(&waves_of(targets)).resolve(roster).unwrap().0;
    let earlier = resolved(&[&["prod.all", "prod.off"], &["test.all"]], &before);
    let missed = |targets: &[&[&str]]| {
        let missed = resolved(targets, &now).missed(&now, [(day(20), &earlier), (day(3), &earlier)]);
        missed.into_iter().map(|(host, at)| format!("{host} {}", at.strftime("%d"))).collect::<Vec<_>>().join(", ")
    };
    // Not missed: hosts that the plan names or excludes, hosts that answer, and hosts that never took part.
    assert_eq!(missed(&[&["prod.all", "prod.d", "!prod.e"]]), "b 20, c 20");
    assert_eq!(missed(&[&["test.all"]]), "x 20");
    assert_eq!(missed(&[&["prod.a"]]), "");
}
