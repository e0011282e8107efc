//! Tests properties of all plans and all rosters.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::super::{Parallel, Plan, Rollback, Selector, Settings, Spanned, Wave};
use super::{aliases, answered_by, host, parse};
use crate::protocol::{Action, HostReport, Subject, Target, Tier};

fn duration(least: u64) -> impl Strategy<Value = Duration> {
    prop_oneof![
        (least..100_000).prop_map(Duration::from_secs),
        (least.max(1)..1_000_000_000).prop_map(Duration::from_micros),
    ]
}

prop_compose! {
    fn settings()(
        action in select(Action::ALL.to_vec()),
        max_parallel in prop_oneof![(1..1000usize).prop_map(Parallel::Hosts), (1..=100u8).prop_map(Parallel::Percent)],
        (max_failures, min_hosts, retries) in (0..9usize, 0..9usize, 0..9u32),
        (ignore_unreachable, confirm) in any::<(bool, bool)>(),
        (accept_timeout, more) in (duration(1), duration(1)),
        (bake_time, check_timeout, retry_delay) in (duration(0), duration(1), duration(0)),
        (rollback, confirm_timeout) in (prop::option::of(select(Rollback::ALL.to_vec())), prop::option::of(5..=3600u64)),
        check in prop::option::of(prop::collection::vec("\\PC{1,6}|[\\\\\"\u{0}-\u{1f}]{1,3}", 1..4)),
    ) -> Settings {
        Settings {
            action, max_parallel, max_failures, min_hosts, ignore_unreachable, bake_time, check, check_timeout, confirm, retries,
            retry_delay,
            rollback: rollback.map(Spanned::nowhere),
            confirm_timeout: confirm_timeout.map(Duration::from_secs),
            accept_timeout: Spanned::nowhere(accept_timeout),
            timeout: Spanned::nowhere(accept_timeout + more),
        }
    }
}

fn selector() -> impl Strategy<Value = Spanned<Selector>> {
    let text = "(test|prod)\\.([a-f]|all|role\\.[xyz])|fleet\\.[a-c\\\\\"]|deploy\\.prod\\.[a-f]|my-lab";
    text.prop_map(|text| Spanned::nowhere(Selector::parse(&text, &aliases).unwrap()))
}

prop_compose! {
    fn random_plan()(
        name in "[a-z0-9-]{1,9}",
        revision in prop::option::of(select(vec!["main", "v1.2", "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b"])),
        flake in prop::option::of(select(vec!["github:o/r", "git+https://h/x?dir=\"a\\b\""])),
        (systems, stage) in (prop::option::of("[a-z\\\\\"./]{1,6}"), any::<bool>()),
        on_finish in prop::option::of(prop::collection::vec("[a-z \"]{1,5}", 1..3)),
        waves in prop::collection::vec(
            (prop::collection::vec(selector(), 1..4), prop::collection::vec(selector(), 0..3), settings()), 1..5),
    ) -> Plan {
        let wave = |(index, (targets, exclude, settings))| {
            Wave { name: Spanned::nowhere(format!("w{index}")), targets, exclude, settings }
        };
        Plan {
            name,
            revision: revision.map(|text| Spanned::nowhere(text.parse().unwrap())),
            flake: flake.map(|text| text.parse().unwrap()),
            systems,
            stage,
            hooks: on_finish.map(|argv| (crate::plan::Hook::OnFinish, argv)).into_iter().collect(),
            waves: waves.into_iter().enumerate().map(wave).collect(),
        }
    }
}

/// Returns the fixed tier of each host of [`random_roster`], so that most plans fit most rosters.
fn tier_of(name: &str) -> Tier {
    if name < "d" { Tier::Test } else { Tier::Prod }
}

/// A plan that can probably be resolved: it names each host once at most, in its own tier. Waves may be empty.
fn likely_plan() -> impl Strategy<Value = Plan> {
    random_plan().prop_map(|mut plan| {
        let count = plan.waves.len();
        for (index, wave) in plan.waves.iter_mut().enumerate() {
            wave.settings.min_hosts = 0;
            wave.targets.retain(|selector| match &selector.value.target {
                Target::Host(tier, name) => {
                    let name = name.as_str();
                    *tier == tier_of(name) && usize::from(name.as_bytes()[0]) % count == index
                }
                _ => true,
            });
        }
        plan
    })
}

/// Some of the hosts that [`selector`] can select, and one that no plan names. Some have unusual subjects.
fn random_roster() -> impl Strategy<Value = Vec<HostReport>> {
    let hosts = prop::sample::subsequence(["a", "b", "c", "d", "e", "f", "g"].to_vec(), 0..=7);
    let details = prop::collection::vec((select(vec!["", "/x", "/y", "/lab"]), any::<bool>()), 7);
    (hosts, details).prop_map(|(hosts, details)| {
        let report = |(name, (role, custom)): (&str, (&str, bool))| {
            let mut report = host(&format!("{}.{name}{role}", tier_of(name)));
            if custom {
                report.deploy_subjects = vec!["fleet.a".parse().unwrap(), format!("own.{name}").parse().unwrap()];
            }
            report
        };
        hosts.into_iter().zip(details).map(report).collect()
    })
}

proptest! {
    #[test]
    fn p21_a_share_is_at_least_one_host_and_grows_with_percent_and_hosts(percent in 1..=100u8, hosts in prop_oneof![1..200usize, 1..20_000usize]) {
        let share = |percent, hosts| Parallel::Percent(percent).of(hosts);
        let this = share(percent, hosts);
        prop_assert_eq!(this, (hosts * usize::from(percent) / 100).max(1));
        prop_assert!((1..=hosts).contains(&this));
        prop_assert!(share(percent, hosts + 1) >= this);
        prop_assert!(share((percent + 1).min(100), hosts) >= this);
        prop_assert_eq!(share(100, hosts), hosts);
        prop_assert!((1..=hosts).contains(&Parallel::Hosts(usize::from(percent)).of(hosts)));
    }

    #[test]
    fn p22_parsing_never_panics(text in "\\PC{0,40}|([a-z_]{0,8} ?[=\\[\\]\"'\\n.{}0-9]{0,4}){0,12}") {
        let _ = parse(&text);
    }

    #[test]
    fn p22_a_damaged_plan_is_a_plan_or_a_report(
        plan in random_plan(),
        edits in prop::collection::vec((any::<Index>(), prop::option::of("[\\[\\]\"=\\n a-z0-9é]")), 1..4),
    ) {
        let mut text: Vec<char> = plan.to_string().chars().collect();
        for (place, edit) in edits {
            let place = place.index(text.len());
            text.remove(place);
            text.splice(place..place, edit.iter().flat_map(|edit| edit.chars()));
        }
        let text: String = text.into_iter().collect();
        if let Err(mistakes) = parse(&text) {
            let shown = super::report(&mistakes.named("plan.toml", &text));
            prop_assert!(shown.contains("help: ") && !shown.contains("Failed to read"), "{}", shown);
        }
    }

    #[test]
    fn p22_a_printed_plan_reads_as_the_same_plan(plan in random_plan()) {
        let text = plan.to_string();
        match parse(&text) {
            Ok(read) => prop_assert_eq!(read, plan),
            Err(mistakes) => prop_assert!(false, "{}", super::report(&mistakes.named("plan.toml", &text))),
        }
    }

    #[test]
    fn p22_unknown_keys_are_refused(plan in random_plan(), key in "x[a-z_]{0,12}", header in select(vec!["", "[[wave]]", "[defaults]"])) {
        let text = match header {
            "" => format!("{key} = 1\n{plan}"),
            "[[wave]]" => format!("{plan}{key} = 1\n"),
            defaults => format!("{plan}\n{defaults}\n{key} = 1\n"),
        };
        let mistakes = parse(&text).unwrap_err();
        let told = format!("unknown key `{key}`");
        prop_assert!(mistakes.iter().any(|mistake| mistake.to_string() == told));
    }

    #[test]
    fn the_host_set_is_what_the_plan_says(plan in likely_plan(), reports in random_roster()) {
        let roster = answered_by(reports.clone());
        let Ok((resolved, _)) = plan.resolve(&roster) else { return Ok(()) };
        let names: Vec<_> = resolved.hosts().map(|host| &host.hostname).collect();
        prop_assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "a host is in one wave only");

        let means = |selector: &Spanned<Selector>, report: &HostReport| match &selector.value.target {
            Target::Host(tier, name) => (*tier, name) == (report.tier, &report.hostname),
            Target::All(tier) => *tier == report.tier,
            Target::Role(tier, role) => *tier == report.tier && Some(role) == report.role.as_ref(),
            Target::Custom(subject) => report.deploy_subjects.contains(subject),
        };
        let mut earlier = BTreeSet::new();
        for (wave, resolved) in plan.waves.iter().zip(&resolved.waves) {
            // The hosts of the wave that answered, found in the slow and plain way.
            let mut expected: Vec<(usize, &HostReport)> = Vec::new();
            for report in &reports {
                let excluded = wave.exclude.iter().any(|selector| means(selector, report));
                let by = wave.targets.iter().position(|selector| means(selector, report));
                if let Some(by) = by && !excluded && earlier.insert(report.hostname.clone()) {
                    expected.push((by, report));
                }
            }
            let is_unnamed = |report: &HostReport| {
                let own = Target::Host(report.tier, report.hostname.clone()).subject();
                !report.deploy_subjects.is_empty() && !report.deploy_subjects.contains(&own)
            };
            expected.sort_by_key(|(by, report)| (is_unnamed(report), *by, report.hostname.clone()));
            let expected: Vec<_> = expected.iter().map(|(_, report)| &report.hostname).collect();
            let present: Vec<_> = resolved.hosts.iter().filter(|host| host.present).map(|host| &host.hostname).collect();
            prop_assert_eq!(present, expected);

            prop_assert!(resolved.hosts.len() >= wave.settings.min_hosts);
            prop_assert!((1..=resolved.hosts.len().max(1)).contains(&resolved.limits.max_parallel));
            for host in resolved.hosts.iter().filter(|host| !host.present) {
                let target = Target::Host(host.tier, host.hostname.clone());
                prop_assert!(wave.targets.iter().any(|selector| selector.value.target == target), "a group takes only who answered");
            }
        }
        for wave in &plan.waves {
            for selector in &wave.targets {
                let Target::Host(tier, name) = &selector.value.target else { continue };
                let excluded = wave.exclude.iter().any(|exclude| means(exclude, roster.host(*tier, name).unwrap_or(&host(&format!("{tier}.{name}")))));
                prop_assert!(excluded || names.contains(&name), "a named host is in");
            }
        }
        for report in reports.iter().filter(|report| !plan.names_host(&report.hostname)) {
            let taken = resolved.waves.iter().position(|wave| wave.hosts.iter().any(|host| host.hostname == report.hostname));
            prop_assert_eq!(resolved.wave_of_group(report), taken, "a host that is late is missed where it would have been");
        }
        for host in resolved.hosts() {
            let named = Target::Host(host.tier, host.hostname.clone()).subject();
            let has_subject = |subject: &Subject| {
                plan.waves.iter().flat_map(|wave| &wave.targets).any(|by| by.value.target == Target::Custom(subject.clone()))
            };
            let is_fine = host.subject() == named || has_subject(&host.subject());
            prop_assert!(is_fine, "a request goes where the name of the host says, or where the plan does");
        }
    }
}

#[test]
fn ten_thousand_hosts_are_no_work() {
    let reports: Vec<_> = (0..10_000).map(|n| host(&format!("{}.h{n}/r{}", Tier::ALL[n % 2], n % 100))).collect();
    let named: Vec<_> = (0..10_000).step_by(2).map(|n| format!("test.h{n}")).collect();
    let text = format!(
        "[[wave]]\ntargets = {named:?}\n[[wave]]\ntargets = 'prod.all'\nexclude = 'prod.role.r1'\n[[wave]]\nname = 'last'\ntargets = 'prod.all'"
    );
    let begin = Instant::now();
    let roster = answered_by(reports);
    let (resolved, _) = parse(&text).unwrap().resolve(&roster).unwrap();
    let took = begin.elapsed();
    assert_eq!(resolved.hosts().count(), 10_000);
    // A tenth of this is enough even without optimization; a quadratic algorithm takes longer.
    assert!(took < Duration::from_secs(5), "{took:?}");
}
