//! The authorization block, as a real server understands it.

use async_nats::{Client, Subscriber};
use futures_util::{FutureExt, StreamExt};
use miette::{IntoDiagnostic, Result, miette};

use crate::support::keys::Key;
use crate::support::lab::Lab;
use crate::support::wait;

const SUBJECTS: [&str; 9] = [
    "deploy.test.test1",
    "deploy.test.all",
    "deploy.prod.ns1",
    "deploy.prod.jelly",
    "deploy.prod.all",
    "deploy.prod.role.dns",
    "deploy.prod.role.media",
    "deploy.responses.x",
    "deploy.discover",
];

/// Every user may say and hear this one; what is sent there last is known to come last.
const DISCOVER: usize = 8;

/// The next message, which must come.
async fn next(subscription: &mut Subscriber) -> Result<String> {
    let message = wait::event("a message arrives", subscription.next()).await?;
    message.map(|message| message.subject.to_string()).ok_or_else(|| miette!("the subscription has ended"))
}

/// Makes sure that the server knows every subscription of `user`: what the user says to itself was sent after them.
async fn settle(user: &Client, discover: &mut Subscriber) -> Result<()> {
    user.publish(SUBJECTS[DISCOVER], "".into()).await.into_diagnostic()?;
    next(discover).await.map(drop)
}

/// The subjects on which the server passes on what the holder of `key` publishes.
async fn publishes(lab: &Lab, key: &Key) -> Result<Vec<String>> {
    let (user, witness) = (lab.server.connect(key).await?, lab.server.connect(&lab.admin).await?);
    let mut heard = witness.subscribe("deploy.>").await.into_diagnostic()?;
    settle(&witness, &mut heard).await?;
    for subject in SUBJECTS {
        user.publish(subject, "".into()).await.into_diagnostic()?;
    }
    let mut passed = Vec::new();
    while passed.last().is_none_or(|subject| subject != SUBJECTS[DISCOVER]) {
        passed.push(next(&mut heard).await?);
    }
    Ok(passed)
}

/// The subjects on which the holder of `key` hears what an admin publishes.
async fn hears(lab: &Lab, key: &Key) -> Result<Vec<String>> {
    let (user, speaker) = (lab.server.connect(key).await?, lab.server.connect(&lab.admin).await?);
    let mut subscriptions = Vec::new();
    for subject in SUBJECTS {
        subscriptions.push(user.subscribe(subject).await.into_diagnostic()?);
    }
    settle(&user, &mut subscriptions[DISCOVER]).await?;
    for subject in SUBJECTS {
        speaker.publish(subject, "".into()).await.into_diagnostic()?;
    }
    // Once the last one is here, so is all that comes at all.
    let last = next(&mut subscriptions[DISCOVER]).await?;
    let others = subscriptions.iter_mut().take(DISCOVER);
    let heard = others.filter_map(|subscription| subscription.next().now_or_never().flatten());
    Ok(heard.map(|message| message.subject.to_string()).chain([last]).collect())
}

#[tokio::test]
async fn each_user_may_do_what_its_holder_needs_and_nothing_else() {
    let hosts = ["prod.ns1.dns", "test.test1"];
    let lab = Lab::start(super::program(), &hosts).await.unwrap();
    let (ns1, test1) = (lab.key(&"ns1".parse().unwrap()).unwrap(), lab.key(&"test1".parse().unwrap()).unwrap());

    for host in [ns1, test1] {
        assert_eq!(publishes(&lab, host).await.unwrap(), ["deploy.responses.x", "deploy.discover"]);
    }
    assert_eq!(
        hears(&lab, ns1).await.unwrap(),
        ["deploy.prod.ns1", "deploy.prod.all", "deploy.prod.role.dns", "deploy.discover"]
    );
    assert_eq!(hears(&lab, test1).await.unwrap(), ["deploy.test.test1", "deploy.test.all", "deploy.discover"]);

    assert_eq!(
        publishes(&lab, &lab.test_deployer).await.unwrap(),
        ["deploy.test.test1", "deploy.test.all", "deploy.discover"]
    );
    assert_eq!(hears(&lab, &lab.test_deployer).await.unwrap(), ["deploy.responses.x", "deploy.discover"]);

    assert_eq!(publishes(&lab, &lab.admin).await.unwrap(), SUBJECTS);
    assert_eq!(hears(&lab, &lab.admin).await.unwrap(), SUBJECTS);
}

#[tokio::test]
async fn a_stranger_is_not_let_in() {
    let lab = Lab::start(super::program(), &[]).await.unwrap();
    let stranger = Key::generate(lab.folder(), "stranger").unwrap();
    assert!(lab.server.connect(&stranger).await.is_err());
}
