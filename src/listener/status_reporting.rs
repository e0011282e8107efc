//! What shows others how a listener is: systemd hears of it, Prometheus asks.

use std::mem;

use tokio::sync::watch;

use super::history::RequestHistory;
use super::metrics::Metrics;
use super::publisher::Link;
use super::watchdog::Watchdog;

/// The signs that a listener gives of itself.
#[derive(Debug)]
pub(super) struct StatusReporting {
    pub(super) pulse: Watchdog,
    pub(super) metrics: watch::Sender<Metrics>,
}

impl StatusReporting {
    pub(super) fn show(&mut self, ledger: &RequestHistory, link: Link) {
        self.metrics.send_if_modified(|metrics| mem::replace(&mut metrics.link, link) != link);
        let doing = match ledger.current() {
            Some(current) => format!("{} of {}", current.spec.action, current.spec.revision),
            None => "waiting for requests".to_owned(),
        };
        self.pulse.status(match link {
            Link::Up => doing,
            Link::Down => format!("{doing}; not connected to NATS, trying again"),
        });
    }

    /// A run has ended, as the ledger has it.
    pub(super) fn run_ended(&self, ledger: &RequestHistory) {
        self.metrics.send_modify(|metrics| metrics.count_last(ledger));
    }
}
