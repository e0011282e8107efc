//! Tests the permissions on a real server: everything needed is permitted, and everything else is refused.
//!
//! Each list is written out here and not taken from the program, so that changed permissions change this file too.

use async_nats::{Client, StatusCode, Subscriber};
use futures_util::{FutureExt, StreamExt};
use homelab_deploy::nats_config::Principal;
use miette::{IntoDiagnostic, Result, miette};
use tempfile::TempDir;
use tokio::task::unconstrained;
use tokio::time::{Duration, timeout};

use crate::support::keys::Key;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions::{self, Compatible, Predecessor, Strict};
use crate::support::server::Server;
use crate::support::wait;

/// One subject of each kind; `r` is a rollout and `q` a request.
const SUBJECTS: [&str; 27] = [
    "deploy.test.test1",
    "deploy.test.test2",
    "deploy.test.all",
    "deploy.test.role.dns",
    "deploy.prod.ns1",
    "deploy.prod.jelly",
    "deploy.prod.all",
    "deploy.prod.role.dns",
    "deploy.prod.role.media",
    "deploy.responses.old",
    "deploy.responses.prod",
    "deploy.responses.r.q",
    "deploy.responses.test.test1.d",
    "deploy.responses.test.test1.r.q",
    "deploy.responses.test.ns1.r.q",
    "deploy.responses.prod.ns1.d",
    "deploy.responses.prod.ns1.r.q",
    "deploy.responses.prod.jelly.r.q",
    "deploy.responses.prod.test1.r.q",
    "deploy.discover",
    "deploy.discover.test",
    "deploy.discover.prod",
    "deploy.operators.test.d",
    "deploy.operators.prod.d",
    "deploy.elsewhere",
    "elsewhere",
    "_INBOX.a.b",
];

/// Wildcard subscriptions, which receive more than one subject where they are permitted.
const WILDCARDS: [&str; 32] = [
    ">",
    "*",
    "*.>",
    "*.*",
    "*.*.*",
    "*.*.*.*.*.*",
    "deploy.>",
    "deploy.*",
    "deploy.*.>",
    "deploy.*.*",
    "deploy.*.*.>",
    "deploy.test.>",
    "deploy.test.*",
    "deploy.test.role.*",
    "deploy.prod.>",
    "deploy.prod.*",
    "deploy.*.ns1",
    "deploy.*.all",
    "deploy.responses.>",
    "deploy.responses.*",
    "deploy.responses.*.>",
    "deploy.responses.*.*.*.*",
    "deploy.responses.*.*.r.*",
    "deploy.responses.*.ns1.>",
    "deploy.responses.test.>",
    "deploy.responses.test.*.r.*",
    "deploy.responses.prod.>",
    "deploy.responses.prod.*.r.*",
    "deploy.discover.*",
    "deploy.operators.>",
    "deploy.operators.*.*",
    "_INBOX.>",
];

/// The subjects below `deploy.`, which an admin may publish to and subscribe to.
const ALL: &[&str] = SUBJECTS.first_chunk::<25>().unwrap();

/// The permissions of one key.
struct Expected {
    permissions: Permissions,
    who: Who,
    publishes: &'static [&'static str],
    hears: &'static [&'static str],
    /// Wildcard subscriptions that must be permitted. Others may be refused.
    needs: &'static [&'static str],
}

#[derive(Debug, Clone, Copy)]
enum Who {
    Ns1,
    Test1,
    TestDeployer,
    Admin,
}

#[rustfmt::skip]
const EXPECTED: [Expected; 12] = [
    Expected {
        permissions: Strict, who: Who::Ns1,
        publishes: &["deploy.responses.prod.ns1.d", "deploy.responses.prod.ns1.r.q"],
        hears: &["deploy.prod.ns1", "deploy.prod.all", "deploy.prod.role.dns", "deploy.discover", "deploy.discover.prod"],
        needs: &[],
    },
    Expected {
        permissions: Strict, who: Who::Test1,
        publishes: &["deploy.responses.test.test1.d", "deploy.responses.test.test1.r.q"],
        hears: &["deploy.test.test1", "deploy.test.all", "deploy.discover", "deploy.discover.test"],
        needs: &[],
    },
    Expected {
        permissions: Strict, who: Who::TestDeployer,
        publishes: &[
            "deploy.test.test1", "deploy.test.test2", "deploy.test.all", "deploy.test.role.dns",
            "deploy.discover", "deploy.discover.test", "deploy.operators.test.d",
        ],
        hears: &[
            "deploy.responses.test.test1.d", "deploy.responses.test.test1.r.q", "deploy.responses.test.ns1.r.q",
            "deploy.discover", "deploy.discover.test", "deploy.operators.test.d",
        ],
        needs: &["deploy.responses.test.*.r.*"],
    },
    Expected { permissions: Strict, who: Who::Admin, publishes: ALL, hears: ALL, needs: ADMIN_NEEDS },
    Expected {
        permissions: Compatible, who: Who::Ns1,
        publishes: &[
            "deploy.responses.old", "deploy.responses.prod", "deploy.responses.prod.ns1.d",
            "deploy.responses.prod.ns1.r.q", "deploy.discover",
        ],
        hears: &["deploy.prod.ns1", "deploy.prod.all", "deploy.prod.role.dns", "deploy.discover", "deploy.discover.prod"],
        needs: &[],
    },
    Expected {
        permissions: Compatible, who: Who::Test1,
        publishes: &[
            "deploy.responses.old", "deploy.responses.prod", "deploy.responses.test.test1.d",
            "deploy.responses.test.test1.r.q", "deploy.discover",
        ],
        hears: &["deploy.test.test1", "deploy.test.all", "deploy.discover", "deploy.discover.test"],
        needs: &[],
    },
    Expected {
        permissions: Compatible, who: Who::TestDeployer,
        publishes: &[
            "deploy.test.test1", "deploy.test.test2", "deploy.test.all", "deploy.test.role.dns",
            "deploy.discover", "deploy.discover.test", "deploy.operators.test.d",
        ],
        hears: &[
            "deploy.responses.old", "deploy.responses.prod", "deploy.responses.r.q", "deploy.responses.test.test1.d",
            "deploy.responses.test.test1.r.q", "deploy.responses.test.ns1.r.q",
            "deploy.discover", "deploy.discover.test", "deploy.operators.test.d",
        ],
        needs: &["deploy.responses.test.*.r.*"],
    },
    Expected { permissions: Compatible, who: Who::Admin, publishes: ALL, hears: ALL, needs: ADMIN_NEEDS },
    Expected {
        permissions: Predecessor, who: Who::Ns1,
        publishes: ANSWERS_AND_DISCOVER,
        hears: &["deploy.prod.ns1", "deploy.prod.all", "deploy.prod.role.dns", "deploy.discover"],
        needs: &[],
    },
    Expected {
        permissions: Predecessor, who: Who::Test1,
        publishes: ANSWERS_AND_DISCOVER,
        hears: &["deploy.test.test1", "deploy.test.all", "deploy.test.role.dns", "deploy.discover"],
        needs: &[],
    },
    Expected {
        permissions: Predecessor, who: Who::TestDeployer,
        publishes: &["deploy.test.test1", "deploy.test.test2", "deploy.test.all", "deploy.test.role.dns", "deploy.discover"],
        hears: ANSWERS_AND_DISCOVER,
        needs: &["deploy.responses.test.*.r.*"],
    },
    Expected { permissions: Predecessor, who: Who::Admin, publishes: ALL, hears: ALL, needs: ADMIN_NEEDS },
];

/// The subscriptions of an admin's rollout.
const ADMIN_NEEDS: &[&str] =
    &["deploy.responses.test.*.r.*", "deploy.responses.prod.*.r.*", "deploy.operators.*.*", "deploy.>"];

/// The responses of all hosts, since the predecessor's example cannot tell hosts apart.
const ANSWERS_AND_DISCOVER: &[&str] = &[
    "deploy.responses.old",
    "deploy.responses.prod",
    "deploy.responses.r.q",
    "deploy.responses.test.test1.d",
    "deploy.responses.test.test1.r.q",
    "deploy.responses.test.ns1.r.q",
    "deploy.responses.prod.ns1.d",
    "deploy.responses.prod.ns1.r.q",
    "deploy.responses.prod.jelly.r.q",
    "deploy.responses.prod.test1.r.q",
    "deploy.discover",
];

/// A server with a user of each kind, and one user without restrictions.
struct Stage {
    server: Server,
    ns1: Key,
    test1: Key,
    test_deployer: Key,
    admin: Key,
    unbound: Key,
    // Dropped last: the server uses it.
    _folder: TempDir,
}

impl Stage {
    async fn set(permissions: Permissions) -> Result<Self> {
        let folder = tempfile::tempdir().into_diagnostic()?;
        let key = |name: &str| Key::generate(folder.path(), name);
        let listener = |name: &str| name.parse().map(Principal::Listener).into_diagnostic();
        let [ns1, test1, test_deployer, admin, unbound] =
            [key("ns1")?, key("test1")?, key("test-deployer")?, key("admin")?, key("unbound")?];
        let users = [
            ns1.user(listener("prod.ns1.dns")?),
            test1.user(listener("test.test1")?),
            test_deployer.user(Principal::TestDeployer),
            admin.user(Principal::Admin),
        ];
        let block = permissions.authorization(&users);
        let public = unbound.user(Principal::Admin).key;
        let with_unbound = block.replacen("users = [", &format!("users = [ {{ nkey: \"{public}\" }},"), 1);
        let server = Server::start_with(&folder.path().join("server"), &with_unbound).await?;
        Ok(Self { server, ns1, test1, test_deployer, admin, unbound, _folder: folder })
    }

    async fn connect(&self, who: Who) -> Result<Client> {
        let key = match who {
            Who::Ns1 => &self.ns1,
            Who::Test1 => &self.test1,
            Who::TestDeployer => &self.test_deployer,
            Who::Admin => &self.admin,
        };
        self.server.connect(key).await
    }

    /// Returns the subjects on which the server passes on what `who` publishes. The last of `expected` must be among
    /// them: it shows that the server has processed all others.
    async fn publishes(&self, who: Who, expected: &[&str]) -> Result<Vec<String>> {
        let (user, witness) = (self.connect(who).await?, self.server.connect(&self.unbound).await?);
        let mut heard = witness.subscribe(">").await.into_diagnostic()?;
        wait_for_subscription(&witness, &mut heard).await?;
        for subject in SUBJECTS {
            user.publish(subject, "".into()).await.into_diagnostic()?;
        }
        let last = expected.last().ok_or_else(|| miette!("{who:?} may publish nothing"))?;
        user.publish((*last).to_owned(), "end".into()).await.into_diagnostic()?;
        let mut passed = Vec::new();
        loop {
            let message = next(&mut heard).await?;
            match &message.payload[..] {
                b"" => passed.push(message.subject.to_string()),
                b"end" => return Ok(passed),
                _ => {}
            }
        }
    }

    /// Returns what `who` receives of one message on each subject, by subscription: to each subject and to each
    /// wildcard, once alone and once as a member of a queue group.
    async fn hears(&self, who: Who) -> Result<Vec<(String, Vec<String>)>> {
        let (user, speaker) = (self.connect(who).await?, self.server.connect(&self.unbound).await?);
        let mut subscriptions = Vec::new();
        for (index, pattern) in SUBJECTS.into_iter().chain(WILDCARDS).enumerate() {
            let alone = user.subscribe(pattern).await.into_diagnostic()?;
            let queue = user.queue_subscribe(pattern, format!("q{index}")).await.into_diagnostic()?;
            subscriptions.extend([(pattern.to_owned(), alone), (format!("{pattern} in a queue group"), queue)]);
        }
        // Everyone may subscribe to this. It is the last subscription, and receives the last message.
        let mut last = user.subscribe("deploy.discover").await.into_diagnostic()?;
        wait_for_subscription(&speaker, &mut last).await?;
        for subject in SUBJECTS {
            speaker.publish(subject, "".into()).await.into_diagnostic()?;
        }
        speaker.publish("deploy.discover", "end".into()).await.into_diagnostic()?;
        while next(&mut last).await?.payload != "end" {}
        let heard = subscriptions.iter_mut().map(|(pattern, subscription)| {
            // Unconstrained, since tokio makes a task yield after many messages, which would look like silence.
            let messages = std::iter::from_fn(|| unconstrained(subscription.next()).now_or_never().flatten());
            let subjects =
                messages.filter(|message| message.payload.is_empty()).map(|message| message.subject.to_string());
            (pattern.clone(), subjects.collect())
        });
        Ok(heard.collect())
    }
}

/// Waits until the server knows a subscription to `deploy.discover`.
async fn wait_for_subscription(speaker: &Client, subscription: &mut Subscriber) -> Result<()> {
    wait::until("the server knows the subscription", async || {
        speaker.publish("deploy.discover", "is it there?".into()).await.into_diagnostic()?;
        let heard = timeout(Duration::from_millis(50), subscription.next()).await;
        Ok(heard.is_ok_and(|message| message.is_some()).then_some(()))
    })
    .await
}

/// Returns the next message, which must come.
async fn next(subscription: &mut Subscriber) -> Result<async_nats::Message> {
    wait::event("a message arrives", subscription.next()).await?.ok_or_else(|| miette!("the subscription has ended"))
}

/// Whether a subscription to `pattern` includes `subject`.
fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for part in pattern.split('.') {
        match (part, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (part, Some(token)) if part == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[tokio::test]
async fn each_key_publishes_what_it_needs_and_nothing_else() {
    for permissions in [Strict, Compatible, Predecessor] {
        let stage = Stage::set(permissions).await.unwrap();
        for Expected { who, publishes, .. } in EXPECTED.iter().filter(|expected| expected.permissions == permissions) {
            let passed = stage.publishes(*who, publishes).await.unwrap();
            assert_eq!(passed, *publishes, "{permissions:?}, {who:?}");
        }
    }
}

#[tokio::test]
async fn each_key_hears_what_it_needs_and_nothing_else_by_whatever_subscription() {
    for permissions in [Strict, Compatible, Predecessor] {
        let stage = Stage::set(permissions).await.unwrap();
        for expected in EXPECTED.iter().filter(|expected| expected.permissions == permissions) {
            let Expected { who, hears, needs, .. } = expected;
            for (subscription, heard) in stage.hears(*who).await.unwrap() {
                let context = format!("{permissions:?}, {who:?}, subscription to {subscription}");
                let foreign = heard.iter().find(|subject| !hears.contains(&subject.as_str()));
                assert_eq!(foreign, None, "{context}");
                let pattern = subscription.split(' ').next().unwrap();
                if hears.contains(&pattern) || needs.contains(&pattern) {
                    let all: Vec<&str> = SUBJECTS.into_iter().filter(|subject| matches(pattern, subject)).collect();
                    assert_eq!(heard, all, "{context}");
                }
            }
        }
    }
}

#[tokio::test]
async fn that_nobody_is_there_arrives_where_answers_are_heard() {
    for permissions in [Strict, Compatible, Predecessor] {
        let stage = Stage::set(permissions).await.unwrap();
        for (who, tier) in [(Who::TestDeployer, "test"), (Who::Admin, "test"), (Who::Admin, "prod")] {
            let user = stage.connect(who).await.unwrap();
            let mut answers = user.subscribe(format!("deploy.responses.{tier}.*.r.*")).await.unwrap();
            let probe = format!("deploy.responses.{tier}.nobody.r.probe");
            user.publish_with_reply(format!("deploy.{tier}.nobody"), probe.clone(), "".into()).await.unwrap();
            let answer = next(&mut answers).await.unwrap();
            assert_eq!((answer.subject.as_str(), answer.status), (probe.as_str(), Some(StatusCode::NO_RESPONDERS)));
        }
    }
}

#[tokio::test]
async fn a_stranger_is_not_let_in() {
    let lab = Lab::start(super::program(), &[]).await.unwrap();
    let stranger = Key::generate(lab.folder(), "stranger").unwrap();
    assert!(lab.server.connect(&stranger).await.is_err());
}
