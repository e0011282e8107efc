//! Simulates hosts, which implement the protocol and complete every request at once.

use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use async_nats::{Client, ConnectOptions, Message, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::select_all;
use homelab_deploy::protocol::subject::DISCOVER;
use miette::{IntoDiagnostic, Result, miette};
use serde::Deserialize;
use tokio::task::JoinSet;

/// The output once every host can be reached.
pub const READY: &str = "ready";

/// The subject of all hosts.
pub const GROUP: &str = "deploy.prod.all";

/// The commit to deploy.
pub const REVISION: &str = "8c1f0e28c1f0e28c1f0e28c1f0e28c1f0e28c1f0";

/// The commit that all hosts run.
const PREVIOUS: &str = "a91be77a91be77a91be77a91be77a91be77a91be";

/// Hosts that share a connection.
struct Station {
    client: Client,
    hosts: Range<usize>,
    subscriptions: [Subscriber; 3],
}

/// The part of a request that is needed to respond.
#[derive(Deserialize)]
struct Request<'a> {
    reply_to: String,
    id: &'a str,
}

/// The part of a roll call that is needed to answer.
#[derive(Deserialize)]
struct Question {
    reply_to: String,
    #[serde(default)]
    per_host: bool,
}

pub fn subject(host: usize) -> String {
    format!("deploy.prod.h{host}")
}

/// Answers for `hosts` hosts over `connections` connections. Never returns.
pub async fn run(url: &str, seed: &Path, hosts: usize, connections: usize) -> Result<()> {
    let seed = fs::read_to_string(seed).into_diagnostic()?;
    let mut connecting = JoinSet::new();
    for number in 0..connections {
        let hosts = hosts * number / connections..hosts * (number + 1) / connections;
        connecting.spawn(Station::connect(url.to_owned(), seed.trim().to_owned(), hosts));
    }
    let mut serving = JoinSet::new();
    while let Some(station) = connecting.join_next().await {
        serving.spawn(station.into_diagnostic()??.serve());
    }
    writeln!(io::stdout(), "{READY}").into_diagnostic()?;
    while let Some(ended) = serving.join_next().await {
        ended.into_diagnostic()??;
    }
    Ok(())
}

impl Station {
    async fn connect(url: String, seed: String, hosts: Range<usize>) -> Result<Self> {
        let client = ConnectOptions::with_nkey(seed).connect(url).await.into_diagnostic()?;
        // Any of the stations that share the fleet may handle a host's request.
        let own = if hosts.len() == 1 { subject(hosts.start) } else { "deploy.prod.*".to_owned() };
        let own = client.queue_subscribe(own, "fleet".to_owned()).await.into_diagnostic()?;
        let group = client.subscribe(GROUP).await.into_diagnostic()?;
        let discover = client.subscribe(DISCOVER).await.into_diagnostic()?;
        client.flush().await.into_diagnostic()?;
        Ok(Self { client, hosts, subscriptions: [own, group, discover] })
    }

    async fn serve(self) -> Result<()> {
        let [own, group, discover] = self.subscriptions;
        let own = own.filter(|message| std::future::ready(message.subject.as_str() != GROUP));
        let mut messages = select_all([own.boxed(), group.boxed(), discover.boxed()]);
        while let Some(message) = messages.next().await {
            // An empty message is a probe of the permission.
            if message.payload.is_empty() {
                continue;
            }
            match message.subject.as_str() {
                DISCOVER => present(&self.client, self.hosts.clone(), &message).await?,
                GROUP => deploy(&self.client, self.hosts.clone(), &message).await?,
                own => {
                    let host = own.rsplit_once(".h").and_then(|(_, number)| number.parse().ok());
                    let host: usize = host.ok_or_else(|| miette!("nobody is at {own}"))?;
                    deploy(&self.client, host..host + 1, &message).await?;
                }
            }
        }
        Err(miette!("the connection ended"))
    }
}

/// Accepts a request and completes it at once.
async fn deploy(client: &Client, hosts: Range<usize>, message: &Message) -> Result<()> {
    let Request { reply_to, id } = serde_json::from_slice(&message.payload).into_diagnostic()?;
    for host in hosts {
        let answer = |status: &str, text: &str, more: &str| {
            format!(
                r#"{{"hostname":"h{host}","status":"{status}","error":null,"message":"{text}","id":"{id}","at":"2026-11-23T10:00:00Z"{more}}}"#
            )
        };
        let done = format!(
            r#","revision":"{REVISION}","previous_revision":"{PREVIOUS}","generation":42,"system":"/nix/store/00000000000000000000000000000000-nixos-system-h{host}-25.11","reboot_required":false"#
        );
        for answer in [
            answer("accepted", "Deployment accepted", ""),
            answer("started", "Deployment started", r#","phase":"resolve""#),
            answer("completed", "Switched to generation 42", &done),
        ] {
            client.publish(reply_to.clone(), answer.into()).await.into_diagnostic()?;
        }
    }
    Ok(())
}

/// Answers a roll call.
async fn present(client: &Client, hosts: Range<usize>, message: &Message) -> Result<()> {
    let Question { reply_to, per_host } = serde_json::from_slice(&message.payload).into_diagnostic()?;
    let call = reply_to.rsplit('.').next().unwrap_or_default();
    for host in hosts {
        let report = format!(
            r#"{{"hostname":"h{host}","tier":"prod","role":null,"deploy_subjects":["{}","{GROUP}"],"version":"0.1.0","features":["id","expires","heartbeat"],"revision":"{PREVIOUS}","generation":41,"system":"/nix/store/00000000000000000000000000000000-nixos-system-h{host}-25.11","booted_system_differs":false,"uptime_s":86400}}"#,
            subject(host)
        );
        let answer_to = if per_host { format!("deploy.responses.prod.h{host}.{call}") } else { reply_to.clone() };
        client.publish(answer_to, report.into()).await.into_diagnostic()?;
    }
    Ok(())
}
