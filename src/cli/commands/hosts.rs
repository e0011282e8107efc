//! `hosts`: who is there.

use clap::Args;

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::operator::OperatorArgs;
use crate::cli::out;
use crate::cli::runtime::block_on;
use crate::cli::state::StateArgs;
use crate::operator::{Awaited, Purpose, RollCall};
use crate::protocol::{HostAnswer, HostName, Tier};
use crate::report;

#[derive(Debug, Args)]
pub(in crate::cli) struct Hosts {
    /// Only hosts of this tier: test or prod
    #[arg(long, env = "HOMELAB_DEPLOY_TIER")]
    tier: Option<Tier>,

    /// Print one JSON array with everything that the hosts say of themselves
    #[arg(long, env = "HOMELAB_DEPLOY_JSON")]
    json: bool,

    #[command(flatten)]
    operator: OperatorArgs,

    #[command(flatten)]
    state: StateArgs,
}

/// The names under which different machines answered.
pub(in crate::cli) fn twins(hosts: &[HostAnswer]) -> impl Iterator<Item = &HostName> {
    let pairs = hosts.iter().zip(hosts.iter().skip(1)).map(|(one, next)| (&one.report, &next.report));
    pairs.filter(|(one, next)| (one.tier, &one.hostname) == (next.tier, &next.hostname)).map(|(one, _)| &one.hostname)
}

impl Hosts {
    pub(in crate::cli) fn run(self) -> CommandResult {
        block_on(self.list())?
    }

    async fn list(self) -> CommandResult {
        let mut bus = self.operator.connect().await?;
        let discovery = self.operator.discovery(&self.state);
        let (purpose, awaited) = (Purpose::List(self.tier), Awaited::everybody(self.tier));
        let called = RollCall { discovery: &discovery, purpose, awaited }
            .call(&mut bus)
            .await
            .map_err(|error| Exit::Precondition.because(error))?;
        for tier in &called.unheard {
            out::note(&format!("{tier}: this key may not hear it"));
        }
        let hosts = called.sorted();
        for twin in twins(&hosts) {
            out::note(&format!(
                "two machines answer to the name {twin}: stop one listener, or give it another --hostname"
            ));
        }
        if self.json {
            out::json(&hosts);
        } else if hosts.is_empty() {
            out::note("No host answers. Check that the listeners run, and that they use the same NATS server.");
        } else {
            out::data(&report::hosts_table(&hosts));
        }
        Ok(Exit::Success)
    }
}
