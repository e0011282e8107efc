//! Tests more roll calls than a host can answer.

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use super::{Attacker, lab};
use crate::apply::stage::ran;
use crate::operator;
use crate::support::lab::Lab;

/// Calls the roll with the key of a test deployer as fast as the server accepts it, until the result is dropped.
async fn flood(lab: &Lab) -> JoinSet<()> {
    let attacker = Attacker::connect(lab, &lab.test_deployer).await;
    let mut task = JoinSet::new();
    task.spawn(async move {
        for number in 0_u64.. {
            let question = json!({ "reply_to": format!("deploy.responses.{number}"), "per_host": number % 2 == 0 });
            attacker.say("deploy.discover", &question).await;
            if number % 256 == 0 {
                // The flood and the rest of the test share one thread.
                sleep(Duration::from_millis(1)).await;
            }
        }
    });
    task
}

#[tokio::test]
async fn questions_without_end_hide_no_prod_host_from_an_admin() {
    let lab = lab(&["prod.db", "test.test1"], &["db"]).await;
    let flood = flood(&lab).await;
    // The flood is in full swing.
    sleep(Duration::from_secs(1)).await;
    let listed = operator::run(&lab, &["hosts", "--tier", "prod"]).await.unwrap().expect(0).stdout;
    assert!(listed.contains("db"), "{listed}");
    operator::run(&lab, &["deploy", "deploy.prod.db"]).await.unwrap().expect(0);
    operator::run(&lab, &["deploy", "deploy.prod.all"]).await.unwrap().expect(0);
    drop(flood);
    assert_eq!(ran(&lab), ["db", "db"]);
}
