//! Tests the errors that end a command before anything is deployed, and `plan`, which never deploys.

use std::process::Command;

use super::fake::{self, Fake};
use super::stage::{self, plain, ran};
use super::wiretap::Wiretap;
use crate::operator::Ended;
use crate::support::lab::Lab;

/// Runs a command, and asserts that no host received a request.
async fn without_a_request(lab: &Lab, command: Command) -> Ended {
    let mut tap = Wiretap::begin(lab).await;
    let ended = stage::start(command).ended().await.unwrap();
    assert!(tap.requests().await.is_empty());
    assert!(ran(lab).is_empty());
    ended
}

#[tokio::test]
async fn all_mistakes_of_a_plan_are_shown_with_their_places_and_nobody_is_asked_anything() {
    let lab = stage::empty(&["test.test1"]).await;
    let mut tap = Wiretap::begin(&lab).await;
    let plan = "revision = \"main\"\n\
                \n\
                [[wave]]\n\
                targets = \"test.all\"\n\
                max_paralel = 2\n\
                \n\
                [[wave]]\n\
                targets = \"prod.all\"\n\
                max_failures = \"two\"\n\
                timeout = 90\n";
    let mut command = stage::command(&lab, "apply", plan);
    command.arg("--yes");
    let ended = stage::start(command).ended().await.unwrap().expect(2);
    assert_eq!(tap.heard().await, [""; 0]);
    assert_eq!(ended.stdout, "");
    insta::assert_snapshot!(plain(&ended.stderr), @r#"
× the plan has 3 mistakes
× unknown key `max_paralel`
╭─[plans/plan.toml:5:1]
4 │ targets = "test.all"
5 │ max_paralel = 2
· ─────┬─────
· ╰── in this wave
6 │
╰────
help: did you mean `max_parallel`?
× `max_failures` is not a whole number from 0, without quotes
╭─[plans/plan.toml:9:16]
8 │ targets = "prod.all"
9 │ max_failures = "two"
· ──┬──
· ╰── this value
10 │ timeout = 90
╰────
help: write it like max_failures = 1
× `timeout` is not a duration above zero and of at most 30 days
╭─[plans/plan.toml:10:11]
9 │ max_failures = "two"
10 │ timeout = 90
· ─┬
· ╰── this value
╰────
help: write it like timeout = "90s"
"#);
}

#[tokio::test]
async fn plan_shows_what_would_be_done_and_only_calls_the_roll() {
    let lab = stage::lab(&["test.test1", "prod.ns1.dns", "prod.ns2.dns"]).await;
    let commit = lab.flake.commit("services: one").unwrap();
    let mut tap = Wiretap::begin(&lab).await;
    let plan = r#"
        name     = "sunday"
        revision = "main"
        [[wave]]
        name      = "canary"
        targets   = "test.test1"
        bake_time = "10m"
        [[wave]]
        targets      = "prod.role.dns"
        max_parallel = 1
    "#;
    let ended = stage::start(stage::command(&lab, "plan", plan)).ended().await.unwrap().expect(0);
    assert_eq!(tap.requests().await, [""; 0], "what is published on deploy subjects is empty");
    assert_eq!(ended.stderr, "");
    insta::assert_snapshot!(ended.stdout.replace(&commit[..7], "COMMIT."), @r#"
Rollout sunday   main -> COMMIT. "services: one"   switch

  wave              hosts                          at once  may fail  then
  1 canary          test1                          1        0         bake 10m
  2 prod-role-dns   ns1 ns2                        1        0         -

  3 hosts in 2 waves: 3 to change. At most 1h40m.
"#);
    assert!(ran(&lab).is_empty());
}

#[tokio::test]
async fn without_a_terminal_it_wants_to_be_told_to_start() {
    let lab = stage::empty(&["test.test1"]).await;
    let mut tap = Wiretap::begin(&lab).await;
    let command = stage::command(&lab, "apply", "revision = 'main'\n[[wave]]\ntargets = 'test.test1'\n");
    let ended = stage::start(command).ended().await.unwrap().expect(2);
    assert_eq!(tap.heard().await, [""; 0]);
    insta::assert_snapshot!(plain(&ended.stderr), @r"
× nobody can be asked whether to start
help: add --yes: with --json, and without a terminal, no question can be
answered
");
}

#[tokio::test]
async fn two_machines_of_one_name_are_refused() {
    let lab = stage::empty(&["prod.ns1"]).await;
    let report = fake::modern("prod", "ns1", &lab);
    let mut clone = report.clone();
    clone["machine"] = "another machine".into();
    let _both = [Fake::start(&lab, report, |_| Vec::new()).await, Fake::start(&lab, clone, |_| Vec::new()).await];
    // A group makes the roll call wait for both answers.
    let mut command = stage::command(&lab, "apply", "revision = 'main'\n[[wave]]\ntargets = 'prod.all'\n");
    command.arg("--yes");
    let ended = without_a_request(&lab, command).await.expect(2);
    insta::assert_snapshot!(plain(&ended.stderr), @r"
× the plan has a mistake
× two machines answer to the name `ns1`
╭─[plans/plan.toml:3:11]
2 │ [[wave]]
3 │ targets = 'prod.all'
· ─────┬────
· ╰── matched here
╰────
help: a cloned machine keeps the name of the first: stop one listener, or
give it another --hostname
");
}

#[tokio::test]
async fn a_wave_that_finds_nobody_is_a_mistake_of_the_plan() {
    let lab = stage::lab(&["prod.ns1.dns"]).await;
    let mut command = stage::command(&lab, "apply", "revision = 'main'\n[[wave]]\ntargets = 'prod.role.media'\n");
    command.arg("--yes").args(["--discover-window", "300ms"]);
    let ended = without_a_request(&lab, command).await.expect(2);
    ended.told("wave `prod-role-media` matches no host").told("plan.toml:3");
}

#[tokio::test]
async fn a_server_that_is_away_is_no_host_that_does_not_answer() {
    let mut lab = stage::empty(&["prod.ns1"]).await;
    lab.server.stop();
    let mut command = stage::command(&lab, "apply", "revision = 'main'\n[[wave]]\ntargets = 'prod.ns1'\n");
    command.arg("--yes");
    stage::start(command).ended().await.unwrap().expect(3);
}
