//! The log of a service: one line for each event, on stderr.

use std::io::{self, IsTerminal};

use clap::Args;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How to log.
#[derive(Debug, Args)]
pub(super) struct Log {
    /// Set by systemd where stderr goes to the journal, which has times of its own
    #[arg(long, env = "JOURNAL_STREAM", hide = true)]
    journal_stream: Option<String>,
}

impl Log {
    /// Begins to log what this program does; its libraries tell too much and say it in their own words.
    pub(super) fn start(&self) {
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_target(false)
            .with_ansi(io::stderr().is_terminal());
        let lines = match self.journal_stream {
            Some(_) => lines.without_time().boxed(),
            None => lines.boxed(),
        };
        let ours = Targets::new().with_target("homelab_deploy", LevelFilter::INFO);
        // A second start could only be a test's: the first one holds.
        tracing_subscriber::registry().with(lines.with_filter(ours)).try_init().ok();
    }
}
