//! Tests the parsed plan, and the messages about mistakes.

use super::super::{Parallel, Plan};
use super::{parse, plan, report, told};

fn wrong(text: &str) -> String {
    told(parse(text).unwrap_err().iter())
}

/// Returns the message about one wrong line in a wave.
fn wrong_line(line: &str) -> String {
    wrong(&format!("[[wave]]\ntargets = 'test.all'\n{line}\n"))
}

/// Returns the message about one wrong target.
fn wrong_target(target: &str) -> String {
    wrong(&format!("[[wave]]\ntargets = '{target}'\n"))
}

#[test]
fn a_report_shows_every_mistake_at_its_place() {
    let text = r#"revision = "main"
max_parallel = 2

[[wave]]
name = "dns"
targets = ["prod.ns1", "prod.ns2.lan"]
timeout = 90
"#;
    let mistakes = parse(text).unwrap_err().named("sunday.toml", text);
    insta::assert_snapshot!(report(&mistakes), @r#"
      × the plan has 3 mistakes

    Error:
      × `max_parallel` does not belong here
       ╭─[sunday.toml:2:1]
     1 │ revision = "main"
     2 │ max_parallel = 2
       · ──────┬─────
       ·       ╰── at the top of the file
     3 │
       ╰────
      help: it belongs in [defaults], for every wave, or in the [[wave]] that it is for

    Error:
      × "ns2.lan" is not a host name: it contains '.'
       ╭─[sunday.toml:6:24]
     5 │ name = "dns"
     6 │ targets = ["prod.ns1", "prod.ns2.lan"]
       ·                        ───────┬──────
       ·                               ╰── this target
     7 │ timeout = 90
       ╰────
      help: a target is <tier>.<host>, <tier>.role.<role>, <tier>.all, a whole subject, or an alias;
            the name of a host or role is a single word without dots

    Error:
      × `timeout` is not a duration above zero and of at most 30 days
       ╭─[sunday.toml:7:11]
     6 │ targets = ["prod.ns1", "prod.ns2.lan"]
     7 │ timeout = 90
       ·           ─┬
       ·            ╰── this value
       ╰────
      help: write it like timeout = "90s"
    "#);
}

#[test]
fn a_line_that_is_no_toml_does_not_hide_the_other_mistakes() {
    let text = "revision = main\n[[wave]]\ntargets = 'test.all\nretrys = 1\n[[wave]]\nname = 'B'\n";
    let mistakes = parse(text).unwrap_err().named("plan.toml", text);
    insta::assert_snapshot!(report(&mistakes), @r#"
      × the plan has 4 mistakes

    Error:
      × this is not TOML
       ╭─[plan.toml:1:12]
     1 │ revision = main
       ·            ──┬─
       ·              ╰── string values must be quoted, expected literal string
     2 │ [[wave]]
       ╰────
      help: https://toml.io shows the format on one page

    Error:
      × this is not TOML
       ╭─[plan.toml:3:20]
     2 │ [[wave]]
     3 │ targets = 'test.all
       ·                    ┬
       ·                    ╰── invalid literal string, expected `'`
     4 │ retrys = 1
     5 │ [[wave]]
       ╰────
      help: https://toml.io shows the format on one page

    Error:
      × unknown key `retrys`
       ╭─[plan.toml:4:1]
     3 │ targets = 'test.all
     4 │ retrys = 1
       · ───┬──
       ·    ╰── in this wave
     5 │ [[wave]]
       ╰────
      help: did you mean `retries`?

    Error:
      × `name` is not a name of lower-case letters, digits and hyphens
       ╭─[plan.toml:6:8]
     5 │ [[wave]]
     6 │ name = 'B'
       ·        ─┬─
       ·         ╰── this value
       ╰────
      help: write it like name = "b"
    "#);
}

#[test]
fn a_text_that_ends_too_early_says_there_what_is_missing_and_nothing_else() {
    for (text, missing) in [
        ("revision =", "string values must be quoted"),
        ("revision", "key with no value"),
        ("[[wave]]\ntargets = ", "string values must be quoted"),
        ("[[wave]]\ntargets = [", "unclosed array"),
        ("revision = \"\"\"main\n", "invalid multi-line basic string"),
        ("[[wave]]\ntargets = 'test.all'\n\r", "carriage return must be followed by newline"),
    ] {
        let report = report(&parse(text).unwrap_err().named("plan.toml", text));
        assert!(report.contains("the plan has a mistake\n") && report.contains(missing), "{text:?}: {report}");
    }
}

#[test]
fn a_key_that_is_not_known_or_not_at_home_says_where_to_go() {
    insta::assert_snapshot!(wrong_line("max_paralel = 1"), @"
unknown key `max_paralel`
  did you mean `max_parallel`?
");
    insta::assert_snapshot!(wrong_line("max-failures = 1"), @"
unknown key `max-failures`
  did you mean `max_failures`?
");
    insta::assert_snapshot!(wrong_line("revision = 'main'"), @"
`revision` does not belong here
  it belongs at the top of the file, before [defaults] and the first [[wave]]
");
    insta::assert_snapshot!(wrong_line("revison = 'main'"), @"
unknown key `revison`
  did you mean `revision`? It belongs at the top of the file, before [defaults] and the first [[wave]]
");
    insta::assert_snapshot!(wrong_line("zzz = 1"), @"
unknown key `zzz`
  the keys here are accept_timeout, action, bake_time, check, check_timeout, confirm, confirm_timeout, exclude, ignore_unreachable, max_failures, max_parallel, min_hosts, name, retries, retry_delay, rollback, targets, timeout
");
    insta::assert_snapshot!(wrong("timeout = '1m'\n[[wave]]\ntargets = 'test.all'"), @"
`timeout` does not belong here
  it belongs in [defaults], for every wave, or in the [[wave]] that it is for
");
    insta::assert_snapshot!(wrong("[defaults]\ntargets = 'test.all'\n[[wave]]\ntargets = 'test.all'"), @"
`targets` does not belong here
  it belongs in a [[wave]]
");
    insta::assert_snapshot!(wrong("[[waves]]\ntargets = 'test.all'"), @r#"
the plan has no wave
  add one: a line [[wave]], and below it targets = "test.all"
unknown key `waves`
  did you mean `wave`?
"#);
}

#[test]
fn a_plan_has_waves_and_a_wave_has_targets() {
    insta::assert_snapshot!(wrong(""), @r#"
the plan has no wave
  add one: a line [[wave]], and below it targets = "test.all"
"#);
    insta::assert_snapshot!(wrong("wave = []"), @r#"
the plan has no wave
  add one: a line [[wave]], and below it targets = "test.all"
"#);
    insta::assert_snapshot!(wrong("[wave]\ntargets = 'test.all'"), @"
`wave` is not a list of waves
  begin each wave with a line [[wave]], in two pairs of brackets
");
    insta::assert_snapshot!(wrong("wave = [1]"), @"
`wave` is not a list of waves
  begin each wave with a line [[wave]], in two pairs of brackets
");
    insta::assert_snapshot!(wrong("defaults = 1\n[[wave]]\nname = 'a'"), @r#"
    `defaults` is not a table
      write it like defaults = { max_parallel = 2 }
    the wave has no `targets`
      say which hosts it is for, such as targets = "test.all"
    "#);
    insta::assert_snapshot!(wrong("[[wave]]\ntargets = []"), @r#"
    `targets` is not a target or a list of targets
      write it like targets = "test.all"
    "#);
    insta::assert_snapshot!(wrong("[[wave]]\ntargets = [1]"), @r#"
    `targets` is not a string
      write it like targets = "…"
    "#);
    insta::assert_snapshot!(wrong("[[wave]]\ntargets = 1"), @r#"
    `targets` is not a target or a list of targets
      write it like targets = "test.all"
    "#);
    insta::assert_snapshot!(wrong("[[wave]]\ntargets = 'prod.all'\n[[wave]]\ntargets = 'prod.ns1'\nname = 'prod-all'"), @"
two waves are called `prod-all`
  give one of them another `name`; a wave without one is called after its first target
");
}

#[test]
fn each_wrong_check_is_shown_a_right_one() {
    for line in ["check = ''", "check = ' '", "check = []", "check = 1"] {
        assert!(wrong_line(line).contains(r#"check = ["./smoke.sh", "dns"]"#), "{line}");
    }
}

#[test]
fn a_wrong_value_says_what_to_write() {
    insta::assert_snapshot!(wrong_line("max_parallel = 0"), @r#"
    `max_parallel` is not a number of hosts from 1, or a percentage from "1%" to "100%"
      write it like max_parallel = "25%"
    "#);
    insta::assert_snapshot!(wrong_line("max_parallel = '2'"), @r#"
    `max_parallel` is not a number of hosts from 1, or a percentage from "1%" to "100%"
      write it like max_parallel = "25%"
    "#);
    insta::assert_snapshot!(wrong_line("max_parallel = '101%'"), @r#"
    `max_parallel` is not a number of hosts from 1, or a percentage from "1%" to "100%"
      write it like max_parallel = "25%"
    "#);
    insta::assert_snapshot!(wrong_line("max_failures = -1"), @r#"
    `max_failures` is not a whole number from 0, without quotes
      write it like max_failures = 1
    "#);
    insta::assert_snapshot!(wrong_line("min_hosts = '1'"), @r#"
    `min_hosts` is not a whole number from 0, without quotes
      write it like min_hosts = 1
    "#);
    insta::assert_snapshot!(wrong_line("retries = 5000"), @r#"
    `retries` is not a whole number from 0 to 1000, without quotes
      write it like retries = 1
    "#);
    insta::assert_snapshot!(wrong_line("timeout = 90"), @r#"
    `timeout` is not a duration above zero and of at most 30 days
      write it like timeout = "90s"
    "#);
    insta::assert_snapshot!(wrong_line("timeout = '90'"), @r#"
    `timeout` is not a duration above zero and of at most 30 days
      write it like timeout = "1m30s"
    "#);
    insta::assert_snapshot!(wrong_line("timeout = '10 years'"), @r#"
    `timeout` is not a duration above zero and of at most 30 days
      write it like timeout = "1m30s"
    "#);
    insta::assert_snapshot!(wrong_line("timeout = 1.5"), @r#"
    `timeout` is not a duration above zero and of at most 30 days
      write it like timeout = "1m30s"
    "#);
    insta::assert_snapshot!(wrong_line("check_timeout = '0s'"), @r#"
    `check_timeout` is not a duration above zero and of at most 30 days
      write it like check_timeout = "1m30s"
    "#);
    insta::assert_snapshot!(wrong_line("accept_timeout = '30m'"), @"
`accept_timeout` (30m) is not shorter than `timeout` (30m)
  a host that has not begun in time is unreachable: give it seconds, and the run minutes
");
    insta::assert_snapshot!(wrong_line("rollback = true"), @r#"
    `rollback` is not a string
      write it like rollback = "…"
    "#);
    insta::assert_snapshot!(wrong_line("rollback = 'always'"), @r#"
    "always" is not a rollback policy: the policies are none, auto and wave
      write it like rollback = "auto"
    "#);
    insta::assert_snapshot!(wrong_line("confirm_timeout = '2s'"), @r#"
    `confirm_timeout` is not a duration of whole seconds between 5s and 1h
      write it like confirm_timeout = "1m30s"
    "#);
    insta::assert_snapshot!(wrong_line("confirm_timeout = '61m'"), @r#"
    `confirm_timeout` is not a duration of whole seconds between 5s and 1h
      write it like confirm_timeout = "1m30s"
    "#);
    insta::assert_snapshot!(wrong_line("confirm_timeout = '1500ms'"), @r#"
    `confirm_timeout` is not a duration of whole seconds between 5s and 1h
      write it like confirm_timeout = "1m30s"
    "#);
    insta::assert_snapshot!(wrong_line("confirm = 'yes'"), @r#"
    `confirm` is not true or false, without quotes
      write it like confirm = true
    "#);
    insta::assert_snapshot!(wrong_line("check = './smoke.sh dns'"), @r#"
    `check` is not a list of strings: a program and its arguments
      write it like check = ["./smoke.sh", "dns"]
    "#);
    insta::assert_snapshot!(wrong_line("check = []"), @r#"
    `check` is not a list of strings: a program and its arguments
      write it like check = ["./smoke.sh", "dns"]
    "#);
    insta::assert_snapshot!(wrong_line("check = ['a', 1]"), @r#"
    `check` is not a list of strings: a program and its arguments
      write it like check = ["./smoke.sh", "dns"]
    "#);
    insta::assert_snapshot!(wrong_line("name = 'Name Servers'"), @r#"
    `name` is not a name of lower-case letters, digits and hyphens
      write it like name = "name-servers"
    "#);
    insta::assert_snapshot!(wrong_line("action = 'reboot'"), @r#"
    "reboot" is not an action: the actions are switch, boot, test and dry-activate
      write it like action = "switch"
    "#);
    insta::assert_snapshot!(wrong("revision = '-x'\nflake = '/etc/nixos'\nname = 1\n[[wave]]\ntargets = 'test.all'"), @r#"
    "-x" is not a revision: it does not begin with a letter or digit
      write it like revision = "main"
    "/etc/nixos" is not a usable flake URL: it cannot carry a revision: use git+https://, git+ssh://, git+file:///, github: or gitlab:
      write it like flake = "git+https://git.example.com/nixos"
    `name` is not a name of lower-case letters, digits and hyphens
      write it like name = "sunday"
    "#);
}

#[test]
fn a_mistake_is_told_once() {
    let no_names = "[[wave]]\ntargets = 'a'\n[[wave]]\ntargets = 'b'\n";
    assert_eq!(parse(no_names).unwrap_err().iter().count(), 2);
    let text = "[defaults]\naccept_timeout = '1h'\n[[wave]]\ntargets = 'test.all'\n[[wave]]\ntargets = 'prod.all'\n";
    assert_eq!(parse(text).unwrap_err().iter().count(), 1);
}

#[test]
fn a_wrong_target_says_what_to_write() {
    insta::assert_snapshot!(wrong_target("test.discover"), @r#"
    "discover" is not a host name: it is a reserved word of the subjects
      a target is <tier>.<host>, <tier>.role.<role>, <tier>.all, a whole subject, or an alias; the name of a host or role is a single word without dots
    "#);
    insta::assert_snapshot!(wrong_target("prod.ns1.lan"), @r#"
    "ns1.lan" is not a host name: it contains '.'
      a target is <tier>.<host>, <tier>.role.<role>, <tier>.all, a whole subject, or an alias; the name of a host or role is a single word without dots
    "#);
    insta::assert_snapshot!(wrong_target("prod.role.dns.lan"), @r#"
    "dns.lan" is not a role name: it contains '.'
      a target is <tier>.<host>, <tier>.role.<role>, <tier>.all, a whole subject, or an alias; the name of a host or role is a single word without dots
    "#);
    insta::assert_snapshot!(wrong_target("prod.role"), @r#"
    "role" is not a host name: it is a reserved word of the subjects
      a target is <tier>.<host>, <tier>.role.<role>, <tier>.all, a whole subject, or an alias; the name of a host or role is a single word without dots
    "#);
    insta::assert_snapshot!(wrong_target("prod."), @r#"
    "" is not a host name: it is empty
      a target is <tier>.<host>, <tier>.role.<role>, <tier>.all, a whole subject, or an alias; the name of a host or role is a single word without dots
    "#);
    insta::assert_snapshot!(wrong_target("prod.*"), @r#"
    "*" is not a host name: it contains '*'
      a target is <tier>.<host>, <tier>.role.<role>, <tier>.all, a whole subject, or an alias; the name of a host or role is a single word without dots
    "#);
    insta::assert_snapshot!(wrong_target("deploy.>"), @r#"
    "deploy.>" is not a concrete subject: it contains '>': give one without wildcards or white space
      a target is <tier>.<host>, <tier>.role.<role>, <tier>.all, a whole subject, or an alias; the name of a host or role is a single word without dots
    "#);
    insta::assert_snapshot!(wrong_target("deploy.prod.all "), @r#"
    "deploy.prod.all " is not a concrete subject: it contains ' ': give one without wildcards or white space
      a target is <tier>.<host>, <tier>.role.<role>, <tier>.all, a whole subject, or an alias; the name of a host or role is a single word without dots
    "#);
    insta::assert_snapshot!(wrong_target(""), @r#"
    "" is not a target
      a target is <tier>.<host>, <tier>.role.<role>, <tier>.all, a whole subject, or an alias; the name of a host or role is a single word without dots
    "#);
    insta::assert_snapshot!(wrong_target("ns1"), @"
there is no alias `ns1`
  set HOMELAB_DEPLOY_ALIAS_NS1 to a subject; if `ns1` is a host, write test.ns1 or prod.ns1
");
    let bad_alias = Plan::parse("[[wave]]\ntargets = 'lab'", "x", &|_: &str| Some("prod. all".to_owned()));
    insta::assert_snapshot!(told(bad_alias.unwrap_err().iter()), @r#"
    the alias `lab` stands for no subject: "prod. all" is not a concrete subject: it contains ' ': give one without wildcards or white space
      set HOMELAB_DEPLOY_ALIAS_LAB to a subject such as deploy.prod.all
    "#);
}

#[test]
fn a_plan_without_a_revision_needs_one_from_elsewhere() {
    let plan = plan("[[wave]]\ntargets = 'test.all'");
    insta::assert_snapshot!(told(plan.revision(None).unwrap_err().iter()), @r#"
there is no revision to deploy
  add a line such as revision = "main" to the top of the plan, or give --revision
"#);
    let given = "v1.2".parse().unwrap();
    assert_eq!(plan.revision(Some(given)).unwrap().as_str(), "v1.2");
}

#[test]
fn defaults_are_replaced_key_by_key_and_names_are_made_up() {
    let plan = plan(
        "action = 'boot'
        [defaults]
        max_parallel = 2
        check = ['a', 'b']
        [[wave]]
        targets = ['prod.role.dns', 'my-lab']
        check = ['c']
        [[wave]]
        targets = 'fleet.Ä.x'
        action = 'test'
        max_parallel = '50%'",
    );
    insta::assert_snapshot!(plan, @r#"
name = "weekly-update"

[[wave]]
name = "prod-role-dns"
targets = ["prod.role.dns", "my-lab"]
action = "boot"
max_parallel = 2
check = ["c"]

[[wave]]
name = "fleet---x"
targets = ["fleet.Ä.x"]
action = "test"
max_parallel = "50%"
check = ["a", "b"]
"#);
    assert_eq!(plan.waves[1].settings.max_parallel, Parallel::Percent(50));
    assert_eq!(plan.waves[0].targets[1].value.target.subject().as_str(), "deploy.prod.role.lab");
}
