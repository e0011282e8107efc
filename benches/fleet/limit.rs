//! The limit: a bare program that does only the protocol. It keeps no record, shows nothing and expects no trouble.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;
use std::time::Instant;

use async_nats::ConnectOptions;
use futures_util::StreamExt;
use miette::{IntoDiagnostic, Report, Result, bail, miette};
use serde::Deserialize;
use uuid::Uuid;

use super::hosts;

/// More than the answers of the largest fleet.
const SUBSCRIPTION_CAPACITY: usize = 1 << 20;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requests {
    /// One request to the subject of all hosts, as `deploy` does it.
    Group,
    /// One request to each host, as `apply` does it.
    Each,
}

/// As much of an answer as it takes to know when it is over.
#[derive(Deserialize)]
struct Answer<'a> {
    status: &'a str,
}

impl Requests {
    /// The word for it on a command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Each => "each",
        }
    }

    fn subjects(self, hosts: usize) -> Vec<String> {
        match self {
            Self::Group => vec![hosts::GROUP.to_owned()],
            Self::Each => (0..hosts).map(hosts::subject).collect(),
        }
    }
}

impl FromStr for Requests {
    type Err = Report;

    fn from_str(text: &str) -> Result<Self> {
        let known = [Self::Group, Self::Each].into_iter().find(|requests| requests.as_str() == text);
        known.ok_or_else(|| miette!("there are no requests of the kind {text:?}"))
    }
}

/// Sends the requests, waits until every host is final, and prints how many microseconds passed between.
pub async fn run(url: &str, seed: &Path, requests: Requests, hosts: usize) -> Result<()> {
    let seed = fs::read_to_string(seed).into_diagnostic()?;
    let options = ConnectOptions::with_nkey(seed.trim().to_owned()).subscription_capacity(SUBSCRIPTION_CAPACITY);
    let client = options.connect(url).await.into_diagnostic()?;
    let rollout = Uuid::new_v4();
    let mut answers = client.subscribe(format!("deploy.responses.{rollout}.*")).await.into_diagnostic()?;

    let began = Instant::now();
    for (number, subject) in requests.subjects(hosts).into_iter().enumerate() {
        let reply_to = format!("deploy.responses.{rollout}.{number}");
        let request = format!(
            r#"{{"action":"switch","revision":"{}","reply_to":"{reply_to}","id":"{rollout}-{number}"}}"#,
            hosts::REVISION
        );
        client.publish_with_reply(subject, reply_to, request.into()).await.into_diagnostic()?;
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
