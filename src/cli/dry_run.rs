//! What hosts would do, after a rollout by which they did nothing.

use super::carrier::Carrier;
use super::out;
use crate::bus::Bus;
use crate::operator::LogReader;
use crate::plan::ResolvedWave;
use crate::protocol::{Action, RequestId, Sender};
use crate::rollout::summary::{HostState, HostView};
use crate::rollout::{HostOutcome, Summary};
use crate::text::safe;

/// How each thing begins that `switch-to-configuration` says it would do.
const WOULD: &str = "would ";

/// More of a log than this is not read, in bytes.
const MAX_LOG_BYTES: usize = 16 * 1024 * 1024;

impl Carrier<'_> {
    /// Prints what each host would do, by its log. What cannot be read is left out: the rollout has succeeded.
    pub(super) async fn tell_what_would_be_done(&self, summary: &Summary) {
        let waves = summary.rollout.iter().flat_map(|rollout| &rollout.plan.waves).enumerate();
        for (index, wave) in waves.filter(|(_, wave)| wave.action == Action::DryActivate) {
            let hosts = summary.hosts.iter().filter(|host| host.wave.0 == index);
            for (host, id) in hosts.filter_map(|view| run_to_read(view, wave)) {
                let Ok(bus) = Bus::connect(&self.operator.settings()).await else { return };
                let name = host.host.clone();
                if let Some(log) = read(bus, host, id).await {
                    let lines = log.lines().filter(|line| line.starts_with(WOULD)).map(safe);
                    let lines: Vec<String> = lines.map(|line| format!("  {name}  {line}")).collect();
                    let nothing = || format!("  {name}  would change no unit");
                    out::note(&if lines.is_empty() { nothing() } else { lines.join("\n") });
                }
            }
        }
    }
}

/// The run of a host that completed, where its listener gives out the log.
fn run_to_read(view: &HostView, wave: &ResolvedWave) -> Option<(Sender, RequestId)> {
    let host = wave.hosts.get(view.index).filter(|host| host.supports_log)?;
    let completed = view.state == HostState::Final(HostOutcome::Completed);
    let id = view.request.clone().filter(|_| completed)?;
    Some((Sender { tier: host.tier, host: host.hostname.clone() }, id))
}

async fn read(bus: Bus, host: Sender, id: RequestId) -> Option<String> {
    let mut reader = LogReader::open(bus, host, id).await.ok()?;
    let (mut log, mut offset) = (String::new(), 0);
    loop {
        let page = reader.page(offset).await.ok()?;
        offset = page.next;
        log.push_str(&page.data);
        if page.end || page.data.is_empty() || log.len() > MAX_LOG_BYTES {
            return Some(log);
        }
    }
}
