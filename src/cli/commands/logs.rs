//! `logs`: prints the log of a run on a host.

use std::time::Duration;

use clap::Args;

use crate::bus::Bus;
use crate::cli::args::OperatorArgs;
use crate::cli::context::one_host;
use crate::cli::out::{self, CommandError, CommandResult, Exit};
use crate::operator::{Awaited, LogLines, LogReader, RollCall};
use crate::protocol::{Feature, HostName, HostReport, RequestId, Sender, Tier};
use crate::text::nearest;

/// The pause before asking again for a log that had nothing new.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A line with more bytes than this is broken.
const MAX_LINE_BYTES: usize = 64 * 1024;

#[derive(Debug, Args)]
pub(in crate::cli) struct Logs {
    /// The host: ns1, or prod.ns1 if two tiers have a host of that name
    #[arg(value_name = "HOST")]
    target: String,

    /// Id of the run [default: the one in progress, else the latest]
    #[arg(long = "id", value_name = "ID")]
    run: Option<RequestId>,

    /// Follow the log until the run has ended
    #[arg(long, short)]
    follow: bool,

    #[command(flatten)]
    operator: OperatorArgs,
}

impl Logs {
    pub(in crate::cli) async fn run(self) -> CommandResult {
        let (tier, host) = one_host(&self.target)?;
        let mut bus = self.operator.connect().await?;
        let report = self.find(&mut bus, tier, host).await?;
        let name = format!("{}.{}", report.tier, report.hostname);
        if !report.has(&Feature::Log) {
            let help = "update it; until then, the logs are on the host, in the state directory of the listener, as \
                        runs/*/output.log";
            return Err(Exit::Precondition.error(format!("the listener of {name} is too old to send logs"), help));
        }
        let run = self.run.clone().or_else(|| latest(&report)).ok_or_else(|| {
            let help = "`homelab-deploy deploy` begins a run; --id names one";
            Exit::Precondition.error(format!("{name} has not run anything yet"), help)
        })?;
        out::note(&format!("{name}: run {run}"));
        let host = Sender { tier: report.tier, host: report.hostname };
        let reader = LogReader::open(&mut bus, host, run).await?;
        self.copy(reader).await
    }

    /// Calls the roll, and returns the one host that is meant.
    async fn find(&self, bus: &mut Bus, tier: Option<Tier>, host: HostName) -> Result<HostReport, CommandError> {
        let discovery = self.operator.discovery();
        let mut call = RollCall::of_all(&discovery, tier);
        if let Some(tier) = tier {
            call.needed.insert(tier);
            call.awaited = Awaited::only([Sender { tier, host: host.clone() }]);
        }
        let called = call.call(bus).await?;
        for tier in &called.unheard {
            out::note(&format!("{tier}: this key may not hear its hosts"));
        }
        let is_meant = |report: &HostReport| report.hostname == host && tier.is_none_or(|tier| tier == report.tier);
        let near = nearest(host.as_str(), called.hosts.iter().map(|answer| answer.report.hostname.as_str()));
        let near =
            called.hosts.iter().map(|answer| &answer.report).find(|report| Some(report.hostname.as_str()) == near);
        let near = near.map(|near| format!("did you mean {}.{}? ", near.tier, near.hostname)).unwrap_or_default();
        let mut found = called.hosts.into_iter().map(|answer| *answer.report).filter(is_meant);
        match (found.next(), found.next()) {
            (Some(report), None) => Ok(report),
            (None, _) => {
                let help = format!(
                    "{near}check the name with `homelab-deploy hosts`, and that the listener runs there; on the host \
                     itself, the listener keeps the logs in its state directory, as runs/*/output.log"
                );
                Err(Exit::Precondition.error(format!("{} does not answer", self.target), help))
            }
            (Some(_), Some(_)) => {
                let help = "write the tier as well, such as prod.ns1; within a tier, stop one of the listeners";
                let what = format!("several machines go by the name {}", self.target);
                Err(Exit::Precondition.error(what, help))
            }
        }
    }

    async fn copy(&self, mut reader: LogReader<'_>) -> CommandResult {
        let (mut lines, mut offset) = (LogLines::broken_at(MAX_LINE_BYTES), 0);
        loop {
            let page = reader.page(offset).await?;
            if page.offset > offset {
                out::note(&format!("{} bytes are no longer kept", page.offset - offset));
            }
            offset = page.next;
            let is_over = page.end || page.data.is_empty() && !self.follow;
            let mut complete = lines.push(&page.data);
            if is_over {
                complete.extend(lines.finish());
            }
            if !out::data(&complete.into_iter().map(|line| line + "\n").collect::<String>()) {
                return Ok(Exit::Success);
            }
            if is_over {
                if !page.end {
                    out::note("The run is in progress; --follow shows the rest.");
                }
                return Ok(Exit::Success);
            }
            if page.data.is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// Returns the current run, else the last one. A host can be busy without a run, with somebody at its keyboard.
fn latest(report: &HostReport) -> Option<RequestId> {
    let current = report.busy.as_ref().and_then(|busy| busy.id.parse().ok());
    current.or_else(|| report.last.as_ref()?.id.parse().ok())
}
