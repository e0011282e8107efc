//! Tests which answers count, and when a roll call ends, in paused time.

use super::*;
use crate::operator::KnownHosts;

const CALL: Uuid = Uuid::from_u128(7);

fn message(subject: &str, payload: &str) -> Message {
    Message {
        subject: subject.into(),
        reply: None,
        payload: payload.to_owned().into(),
        headers: None,
        status: None,
        description: None,
        length: 0,
    }
}

fn on(tier: &str, host: &str) -> String {
    format!("deploy.responses.{tier}.{host}.{CALL}")
}

fn report(tier: &str, host: &str, instance: u128) -> String {
    format!(r#"{{"hostname":"{host}","tier":"{tier}","instance":"{}"}}"#, Uuid::from_u128(instance))
}

/// Lists the hosts that count after these answers.
fn counted(answers: &[(String, String)]) -> String {
    let mut taken = Answers::new(CALL);
    for (subject, payload) in answers {
        taken.take(&message(subject, payload), &mut nobody());
    }
    let (hosts, _) = taken.into_parts();
    let line = |host: &HostAnswer| format!("{}.{} {}", host.report.tier, host.report.hostname, host.proved);
    hosts.iter().map(line).collect::<Vec<_>>().join(", ")
}

#[test]
fn an_answer_counts_for_the_host_that_its_subject_names() {
    let old_form = || ReplySubject::single(CALL).to_string();
    let honest = (on("prod", "ns1"), report("prod", "ns1", 1));
    let another_name = (on("prod", "ns2"), report("prod", "ns1", 2));
    let another_tier = (on("test", "ns1"), report("prod", "ns1", 2));
    let another_call = ("deploy.responses.prod.ns3.x".to_owned(), report("prod", "ns3", 3));
    insta::assert_snapshot!(counted(&[another_name, another_tier, another_call, honest.clone()]), @"prod.ns1 true");
    let forged = (old_form(), report("prod", "ns1", 2));
    insta::assert_snapshot!(counted(&[forged.clone(), honest, forged.clone()]), @"prod.ns1 true");
    insta::assert_snapshot!(counted(&[forged.clone(), forged]), @"prod.ns1 false");
}

#[test]
fn a_second_machine_is_kept_and_a_repetition_is_not() {
    let says = |instance| (on("prod", "ns1"), report("prod", "ns1", instance));
    insta::assert_snapshot!(counted(&[says(1), says(1), says(1)]), @"prod.ns1 true");
    insta::assert_snapshot!(counted(&[says(1), says(2), says(3)]), @"prod.ns1 true, prod.ns1 true");
}

#[test]
fn a_rollout_is_believed_for_the_tier_of_its_subject() {
    let rollout = r#"{"rollout":{"id":"00000000-0000-0000-0000-000000000000","name":"sunday","operator":"ops@desk",
        "tiers":["test","prod"],"wave":1,"waves":2,"since":"2026-11-23T10:00:00Z"}}"#;
    let mut taken = Answers::new(CALL);
    for subject in [format!("deploy.operators.test.{CALL}"), on("prod", "ns1"), "deploy.operators.prod.x".to_owned()] {
        taken.take(&message(&subject, rollout), &mut nobody());
    }
    let (_, rollouts) = taken.into_parts();
    assert_eq!(rollouts.iter().map(|rollout| rollout.tiers.clone()).collect::<Vec<_>>(), [[Tier::Test]]);
}

fn sender(host: &str) -> Sender {
    Sender { tier: Tier::Test, host: host.parse().unwrap() }
}

fn discovery(window: Option<Duration>) -> Discovery {
    let known = KnownHosts::of("/nowhere".into(), []);
    Discovery { subject: "deploy.discover".parse().unwrap(), window, known }
}

/// A roll call that awaits nobody.
fn nobody() -> Expected {
    Expected::new(&Awaited::only([]), &discovery(None), &HostsByTier::new())
}

/// A roll call for all hosts of these tiers. The known hosts of the test tier are `one` and `two`.
fn everybody(tiers: &[Tier], window: Option<Duration>) -> Expected {
    let known: HostsByTier = serde_json::from_str(r#"{"test":{"one":{"seen":1},"two":{"seen":1}}}"#).unwrap();
    let awaited = Awaited::Everybody { tiers: tiers.iter().copied().collect(), named: BTreeSet::new() };
    Expected::new(&awaited, &discovery(window), &known)
}

/// Returns the remaining time of the roll call, in milliseconds.
fn left(expected: &Expected) -> u128 {
    expected.ends().saturating_duration_since(Instant::now()).as_millis()
}

async fn pass(millis: u64) {
    tokio::time::advance(Duration::from_millis(millis)).await;
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_all_have_answered_and_nothing_new_comes() {
    let mut expected = everybody(&[Tier::Test], None);
    expected.host_answered(&sender("one"));
    assert_eq!(left(&expected), 2_000);
    pass(100).await;
    expected.host_answered(&sender("two"));
    assert_eq!(left(&expected), 250);
    pass(200).await;
    assert_eq!(left(&expected), 50);
    // An endless flood of invented names extends the roll call to its window at most.
    for number in 0..100 {
        expected.host_answered(&sender(&format!("new{number}")));
        assert!(left(&expected) <= 250);
        pass(100).await;
    }
    assert_eq!((left(&expected), expected.was_whole()), (0, true));
}

#[tokio::test(start_paused = true)]
async fn where_it_is_not_known_who_is_there_it_is_the_whole_window() {
    let mut both = everybody(&[Tier::Test, Tier::Prod], None);
    let mut given = everybody(&[Tier::Test], Some(Duration::from_millis(700)));
    let mut old = everybody(&[Tier::Test], None);
    for expected in [&mut both, &mut given, &mut old] {
        expected.host_answered(&sender("one"));
        expected.host_answered(&sender("two"));
    }
    old.old_listener_answered(&sender("three"));
    assert_eq!([&both, &given, &old].map(left), [2_000, 700, 2_000]);
    both.ignore_tier(Tier::Prod);
    assert_eq!(left(&both), 250);
    // No host has answered before, so no distance is known.
    let nobody = BTreeMap::from([(Tier::Test, BTreeMap::new())]);
    assert_eq!(
        left(&Expected::new(
            &Awaited::Everybody { tiers: [Tier::Test].into(), named: BTreeSet::new() },
            &discovery(None),
            &nobody
        )),
        2_000
    );
}

#[tokio::test(start_paused = true)]
async fn an_operator_who_is_known_to_be_there_is_waited_for() {
    let mut expected = everybody(&[Tier::Test], None);
    expected.host_answered(&sender("one"));
    expected.host_answered(&sender("two"));
    expected.await_operator(Tier::Test);
    assert_eq!(left(&expected), 4_000);
    expected.no_operator(Tier::Prod);
    assert_eq!(left(&expected), 4_000);
    expected.no_operator(Tier::Test);
    assert_eq!(left(&expected), 250);
}

#[tokio::test(start_paused = true)]
async fn one_host_is_waited_for_briefly_and_its_twin_as_long_as_it_took() {
    let one = || Expected::new(&Awaited::One(sender("one")), &discovery(None), &HostsByTier::new());
    let mut expected = one();
    assert_eq!(left(&expected), 250);
    pass(20).await;
    expected.host_answered(&sender("another"));
    assert_eq!(left(&expected), 230);
    let mut forged = one();
    pass(20).await;
    expected.host_answered(&sender("one"));
    assert_eq!(left(&expected), 40);
    pass(20).await;
    forged.old_listener_answered(&sender("one"));
    assert_eq!(left(&forged), 210, "the host itself may yet answer");
    pass(10).await;
    expected.host_answered(&sender("another"));
    assert_eq!(left(&expected), 10);

    let named = [sender("one"), sender("two")];
    let mut named = Expected::new(&Awaited::only(named), &discovery(None), &HostsByTier::new());
    named.old_listener_answered(&sender("one"));
    named.host_answered(&sender("one"));
    named.host_answered(&sender("two"));
    assert_eq!(left(&named), 2_000, "nobody else shortens the wait for a named host");
    let mut named = Expected::new(&Awaited::only([sender("one")]), &discovery(None), &HostsByTier::new());
    named.host_answered(&sender("one"));
    named.old_listener_answered(&sender("one"));
    named.old_listener_answered(&sender("another"));
    assert_eq!(left(&named), 250, "nor does anybody else make it longer");
}
