//! `hosts`: lists the hosts that answer.

use std::time::Duration;

use clap::Args;

use crate::bus::Bus;
use crate::cli::args::{OperatorArgs, switch};
use crate::cli::context::cache_dir;
use crate::cli::out::{self, CommandResult, Exit};
use crate::clock;
use crate::operator::{FleetError, History, RollCall};
use crate::protocol::{FlakeUrl, HostAnswer, HostName, Tier};
use crate::report;

/// The pause of `--watch` between two roll calls.
const WATCH_EVERY: Duration = Duration::from_secs(3);

/// How many lists use the same answers of a git server: for a minute.
const LOOKS: u32 = 20;

#[derive(Debug, Args)]
pub(in crate::cli) struct Hosts {
    /// Only hosts of this tier: test or prod
    #[arg(long, env = "HOMELAB_DEPLOY_TIER")]
    tier: Option<Tier>,

    /// Print one JSON array with all that the hosts report
    #[arg(long, env = "HOMELAB_DEPLOY_JSON", value_parser = switch)]
    json: bool,

    /// Ask repeatedly, and update the list in place
    #[arg(long, env = "HOMELAB_DEPLOY_WATCH", conflicts_with = "json", value_parser = switch)]
    watch: bool,

    /// Flake whose server tells how far hosts are behind its default branch, if no clone here does
    #[arg(long, env = "HOMELAB_DEPLOY_FLAKE", value_name = "URL")]
    flake: Option<FlakeUrl>,

    #[command(flatten)]
    operator: OperatorArgs,
}

/// Returns the names under which several machines answered. `hosts` must be sorted.
pub(in crate::cli) fn twins(hosts: &[HostAnswer]) -> impl Iterator<Item = &HostName> {
    let pairs = hosts.iter().zip(hosts.iter().skip(1)).map(|(one, next)| (&one.report, &next.report));
    pairs.filter(|(one, next)| (one.tier, &one.hostname) == (next.tier, &next.hostname)).map(|(one, _)| &one.hostname)
}

impl Hosts {
    pub(in crate::cli) async fn run(self) -> CommandResult {
        let mut bus = self.operator.connect().await?;
        if self.watch {
            return self.watch(&mut bus).await;
        }
        let (remarks, hosts) = self.list(&mut bus).await?;
        for remark in remarks {
            out::note(&remark);
        }
        if self.json {
            out::json(&hosts);
        } else if !hosts.is_empty() {
            out::data(&table(&hosts, &mut self.history()).await);
        }
        Ok(Exit::Success)
    }

    /// Redraws the list until the operator or the reader has seen enough.
    async fn watch(&self, bus: &mut Bus) -> CommandResult {
        loop {
            let mut history = self.history();
            for _ in 0..LOOKS {
                let list = match self.list(bus).await {
                    Ok((remarks, hosts)) => {
                        let remarks: String = remarks.into_iter().map(|remark| remark + "\n").collect();
                        remarks + &table(&hosts, &mut history).await
                    }
                    // The client reconnects by itself.
                    Err(FleetError::Disconnected) => "the connection to NATS was lost\n".to_owned(),
                    Err(error) => return Err(error.into()),
                };
                if !out::in_place(&list) {
                    return Ok(Exit::Success);
                }
                tokio::time::sleep(WATCH_EVERY).await;
            }
        }
    }

    fn history(&self) -> History {
        History::of(self.flake.as_ref(), cache_dir().as_deref())
    }

    /// Calls the roll. Returns remarks that the list does not show, and the hosts.
    async fn list(&self, bus: &mut Bus) -> Result<(Vec<String>, Vec<HostAnswer>), FleetError> {
        let discovery = self.operator.discovery();
        let called = RollCall::of_all(&discovery, self.tier).call(bus).await?;
        let unheard = called.unheard.iter().map(|tier| format!("{tier}: this key may not hear its hosts"));
        let mut remarks: Vec<String> = unheard.collect();
        let hosts = called.hosts;
        remarks.extend(twins(&hosts).map(|twin| {
            format!("two machines answer to the name {twin}: stop one listener, or give it another --hostname")
        }));
        if hosts.is_empty() {
            let nobody = "No host answers. Check that the listeners run, and that they use the same NATS server.";
            remarks.push(nobody.to_owned());
        }
        Ok((remarks, hosts))
    }
}

async fn table(hosts: &[HostAnswer], history: &mut History) -> String {
    let commits = hosts.iter().filter_map(|answer| answer.report.revision.as_ref());
    report::hosts_table(hosts, &history.behind(commits).await, clock::now(), out::stdout_line_limit())
}
