//! The limit: a bare program that implements only the protocol, without a journal, a display or error handling.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use async_nats::ConnectOptions;
use futures_util::StreamExt;
use miette::{IntoDiagnostic, Result, bail};
use serde::Deserialize;
use uuid::Uuid;

use super::hosts;

/// More than the answers of the largest fleet.
const SUBSCRIPTION_CAPACITY: usize = 1 << 20;

/// The part of a response that shows whether it is final.
#[derive(Deserialize)]
struct Answer<'a> {
    status: &'a str,
}

/// Sends the requests, waits for the final response of every host, and prints the microseconds in between.
pub async fn run(url: &str, seed: &Path, hosts: usize) -> Result<()> {
    let seed = fs::read_to_string(seed).into_diagnostic()?;
    let options = ConnectOptions::with_nkey(seed.trim().to_owned()).subscription_capacity(SUBSCRIPTION_CAPACITY);
    let client = options.connect(url).await.into_diagnostic()?;
    let rollout = Uuid::new_v4();
    let mut answers = client.subscribe(format!("deploy.responses.prod.*.{rollout}.*")).await.into_diagnostic()?;

    let began = Instant::now();
    for number in 0..hosts {
        let reply_to = format!("deploy.responses.prod.h{number}.{rollout}.{number}");
        let request = format!(
            r#"{{"action":"switch","revision":"{}","reply_to":"{reply_to}","id":"{rollout}-{number}"}}"#,
            hosts::REVISION
        );
        client.publish_with_reply(hosts::subject(number), reply_to, request.into()).await.into_diagnostic()?;
    }
    let mut completed = 0;
    while completed < hosts {
        let Some(answer) = answers.next().await else {
            bail!("the connection ended");
        };
        let Answer { status } = serde_json::from_slice(&answer.payload).into_diagnostic()?;
        completed += usize::from(status == "completed");
    }
    writeln!(io::stdout(), "{}", began.elapsed().as_micros()).into_diagnostic()
}
