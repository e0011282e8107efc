//! Decides when a roll call ends.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::answers::Heard;
use super::known_hosts::Tiers;
use super::{Awaited, Discovery};
use crate::protocol::{Sender, Tier};

/// How long the roll call waits for further answers once all expected hosts have answered.
const QUIET: Duration = Duration::from_millis(250);

/// How long a single named host may take to answer. Its request is sent even if it does not.
const ONE_HOST_WITHIN: Duration = Duration::from_millis(250);

/// The least time for a second machine of the same name to answer too.
const TWIN_WITHIN: Duration = Duration::from_millis(1);

/// How long another operator who runs a rollout may take to answer: their network may be slow or down.
const OPERATORS_WITHIN: Duration = Duration::from_secs(4);

#[derive(Debug)]
pub(super) struct Expected {
    asked_at: Instant,
    window: Duration,
    how: How,
    missing: BTreeSet<Sender>,
    /// Tiers whose hosts are not known from an earlier roll call.
    unknown: BTreeSet<Tier>,
    /// When a host last answered for the first time.
    news_at: Option<Instant>,
    /// Tiers on which another operator runs a rollout and has not answered yet.
    operators: BTreeSet<Tier>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    One,
    Named,
    Everybody,
}

impl Expected {
    pub(super) fn new(awaited: &Awaited, discovery: &Discovery, known: &Tiers) -> Self {
        let window = discovery.longest();
        let (how, window, missing, unknown) = match awaited {
            Awaited::One(host) => {
                (How::One, window.min(ONE_HOST_WITHIN), BTreeSet::from([host.clone()]), BTreeSet::new())
            }
            Awaited::Only(hosts) => (How::Named, window, hosts.clone(), BTreeSet::new()),
            // A window that the operator set is waited for in full.
            Awaited::Everybody { tiers, .. } if discovery.window.is_some() => {
                (How::Everybody, window, BTreeSet::new(), tiers.clone())
            }
            Awaited::Everybody { tiers, named } => {
                let senders = tiers.iter().flat_map(|tier| {
                    let hosts = known.get(tier).into_iter().flat_map(|hosts| hosts.keys());
                    hosts.map(|host| Sender { tier: *tier, host: host.clone() })
                });
                let unknown = tiers.iter().copied().filter(|tier| !known.contains_key(tier));
                (How::Everybody, window, senders.chain(named.iter().cloned()).collect(), unknown.collect())
            }
        };
        let asked_at = Instant::now();
        Self { asked_at, window, how, missing, unknown, news_at: None, operators: BTreeSet::new() }
    }

    pub(super) fn heard(&mut self, heard: Heard) {
        match heard {
            // Old listeners are not recorded as known, and there may be more of them.
            Heard::OldForm(sender) if self.how == How::Everybody => _ = self.unknown.insert(sender.tier),
            // Once the one awaited host has answered, further answers do not matter.
            Heard::Host(_) | Heard::OldForm(_) if self.how == How::One && self.missing.is_empty() => {}
            Heard::Host(sender) | Heard::OldForm(sender) => {
                self.news_at = Some(Instant::now());
                self.missing.remove(&sender);
            }
            Heard::Operator(tier) => _ = self.operators.remove(&tier),
            Heard::Nothing => {}
        }
    }

    /// Stops waiting for this tier: the credential may not receive its answers.
    pub(super) fn unheard(&mut self, tier: Tier) {
        self.unknown.remove(&tier);
        self.missing.retain(|sender| sender.tier != tier);
    }

    /// Notes another operator, who has not answered yet, with a rollout on this tier.
    pub(super) fn operator(&mut self, tier: Tier) {
        self.operators.insert(tier);
    }

    pub(super) fn no_operator(&mut self, tier: Tier) {
        self.operators.remove(&tier);
    }

    /// Returns when the roll call ends, unless further answers come.
    pub(super) fn ends(&self) -> Instant {
        let whole = self.asked_at + self.window;
        let hosts = match self.news_at {
            Some(at) if self.missing.is_empty() && self.unknown.is_empty() => whole.min(at + self.quiet(at)),
            _ => whole,
        };
        if self.operators.is_empty() { hosts } else { hosts.max(self.asked_at + OPERATORS_WITHIN) }
    }

    /// Whether the whole window has passed, so that every host had time to answer.
    pub(super) fn was_whole(&self) -> bool {
        self.asked_at.elapsed() >= self.window
    }

    fn quiet(&self, at: Instant) -> Duration {
        match self.how {
            // The answer of a second machine of the same name takes about as long as that of the first.
            How::One => (at - self.asked_at).clamp(TWIN_WITHIN, ONE_HOST_WITHIN),
            How::Named | How::Everybody => QUIET,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::operator::KnownHosts;

    fn sender(host: &str) -> Sender {
        Sender { tier: Tier::Test, host: host.parse().unwrap() }
    }

    fn heard(host: &str) -> Heard {
        Heard::Host(sender(host))
    }

    fn discovery(window: Option<Duration>) -> Discovery {
        let known = KnownHosts::of("/nowhere".into(), []);
        Discovery { subject: "deploy.discover".parse().unwrap(), window, known }
    }

    /// A roll call for all hosts of these tiers. The known hosts of the test tier are `one` and `two`.
    fn everybody(tiers: &[Tier], window: Option<Duration>) -> Expected {
        let known: Tiers = serde_json::from_str(r#"{"test":{"one":{"seen":1},"two":{"seen":1}}}"#).unwrap();
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
        expected.heard(heard("one"));
        assert_eq!(left(&expected), 2_000);
        pass(100).await;
        expected.heard(heard("two"));
        assert_eq!(left(&expected), 250);
        pass(200).await;
        expected.heard(Heard::Nothing);
        assert_eq!(left(&expected), 50);
        // An endless flood of invented names extends the roll call to its window at most.
        for number in 0..100 {
            expected.heard(heard(&format!("new{number}")));
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
            expected.heard(heard("one"));
            expected.heard(heard("two"));
        }
        old.heard(Heard::OldForm(sender("old")));
        assert_eq!([&both, &given, &old].map(left), [2_000, 700, 2_000]);
        both.unheard(Tier::Prod);
        assert_eq!(left(&both), 250);
        // No host has answered before, so no distance is known.
        let nobody = BTreeMap::from([(Tier::Test, BTreeMap::new())]);
        assert_eq!(left(&Expected::new(&Awaited::everybody(Some(Tier::Test)), &discovery(None), &nobody)), 2_000);
    }

    #[tokio::test(start_paused = true)]
    async fn an_operator_who_is_known_to_be_there_is_waited_for() {
        let mut expected = everybody(&[Tier::Test], None);
        expected.heard(heard("one"));
        expected.heard(heard("two"));
        expected.operator(Tier::Test);
        assert_eq!(left(&expected), 4_000);
        expected.heard(Heard::Operator(Tier::Prod));
        assert_eq!(left(&expected), 4_000);
        expected.heard(Heard::Operator(Tier::Test));
        assert_eq!(left(&expected), 250);
    }

    #[tokio::test(start_paused = true)]
    async fn one_host_is_waited_for_briefly_and_its_twin_as_long_as_it_took() {
        let one = || Expected::new(&Awaited::One(sender("one")), &discovery(None), &Tiers::new());
        let mut expected = one();
        assert_eq!(left(&expected), 250);
        pass(20).await;
        expected.heard(heard("another"));
        assert_eq!(left(&expected), 230);
        expected.heard(Heard::OldForm(sender("one")));
        assert_eq!(left(&expected), 20);
        pass(10).await;
        expected.heard(heard("another"));
        assert_eq!(left(&expected), 10);

        let mut named = Expected::new(&Awaited::Only([sender("one")].into()), &discovery(None), &Tiers::new());
        named.heard(Heard::OldForm(sender("another")));
        named.heard(heard("one"));
        assert_eq!(left(&named), 250);
    }
}
