//! Tests that a key gives no power over hosts of another name or tier.
//!
//! The server grants what `nats-config` prints. The attackers speak raw NATS, and know more than they can receive: the
//! tests tell them the ids of requests to others.

mod attacker;
mod commits;
mod floods;
mod made_up_hosts;
mod operators;
mod prod_listener;
mod random_answers;
mod test_deployer;
mod twins;

use futures_util::StreamExt;
use miette::IntoDiagnostic;
use serde_json::{Value, json};
use tokio::time::{Duration, timeout};
use uuid::Uuid;

use self::attacker::Attacker;
use crate::host;
use crate::operator::Ended;
use crate::support::lab::Lab;
use crate::support::permissions::Permissions;
use crate::support::wait;

/// Returns a lab with strict permissions in which some hosts listen. The tests misuse the keys of the others.
async fn lab(hosts: &[&str], listening: &[&str]) -> Lab {
    lab_with(hosts, listening, Permissions::Strict).await
}

async fn lab_with(hosts: &[&str], listening: &[&str], permissions: Permissions) -> Lab {
    let mut lab = Lab::start_with(crate::program(), hosts, permissions).await.unwrap();
    for name in listening {
        lab.listen(&host(name), &[]).await.unwrap();
    }
    lab
}

/// Waits until `count` machines answer one roll call.
pub async fn until_answering(lab: &Lab, count: usize) {
    let client = lab.server.connect(&lab.admin).await.unwrap();
    wait::until("all machines answer", async || {
        // A listener answers each roll call once.
        let call = Uuid::new_v4();
        let mut answers = client.subscribe(format!("deploy.responses.*.*.{call}")).await.into_diagnostic()?;
        let question = json!({ "reply_to": format!("deploy.responses.{call}"), "per_host": true }).to_string();
        client.publish("deploy.discover", question.into()).await.into_diagnostic()?;
        let mut heard = 0;
        while let Ok(Some(_)) = timeout(Duration::from_millis(200), answers.next()).await {
            heard += 1;
        }
        Ok((heard >= count).then_some(()))
    })
    .await
    .unwrap();
}

/// Returns a plan of one wave, whose branch is looked up in the lab's repository.
fn plan(lab: &Lab, revision: &str, targets: &str) -> String {
    format!("revision = '{revision}'\nflake = '{}'\n[[wave]]\ntargets = '{targets}'\n", lab.flake.url())
}

/// Asserts that the operator's output has no control sequence.
#[track_caller]
fn assert_harmless(ended: &Ended) {
    for text in [&ended.stdout, &ended.stderr] {
        let harmful = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{200b}');
        assert!(!text.contains(harmful), "{text:?}");
    }
}

/// Returns the last token of a question's reply subject.
fn token(question: &Value) -> String {
    let reply_to = question["reply_to"].as_str().unwrap_or_default();
    reply_to.rsplit('.').next().unwrap_or_default().to_owned()
}
