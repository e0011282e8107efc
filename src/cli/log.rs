//! Logs the events of a service to stderr, one line each.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use clap::Args;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// Set by systemd where stdout or stderr go to the journal, which has times and levels of its own
    #[arg(long, env = "JOURNAL_STREAM", hide = true)]
    journal_stream: Option<String>,
}

impl LogArgs {
    /// Starts logging the events of this program. Libraries are left out: they log too much, in terms of their own.
    pub(super) fn start(&self) {
        let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
        let lines = match &self.journal_stream {
            Some(stream) if is_stderr(stream) => lines.with_ansi(false).event_format(ForJournal).boxed(),
            _ => lines.with_target(false).boxed(),
        };
        let ours = Targets::new().with_target("homelab_deploy", LevelFilter::INFO);
        // Only tests start it again, and the first one stays.
        tracing_subscriber::registry().with(lines.with_filter(ours)).try_init().ok();
    }
}

/// Whether stderr is this stream, by device and inode. Processes whose stderr goes elsewhere inherit the variable, too.
fn is_stderr(stream: &str) -> bool {
    let stderr = || File::from(io::stderr().as_fd().try_clone_to_owned()?).metadata();
    stderr().is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Formats events for the journal as sd-daemon(3) says: the journal takes the number at the start as the level, so that
/// `journalctl --priority warning` finds it. A line has no time, and each event is one line.
struct ForJournal;

impl<S, N> FormatEvent<S, N> for ForJournal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        // The numbers are those of syslog(3).
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let mut fields = String::new();
        context.field_format().format_fields(Writer::new(&mut fields), event)?;
        writeln!(writer, "<{priority}>{}", fields.replace(char::is_control, " "))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Returns what these events log for the journal.
    fn journal(events: impl FnOnce()) -> String {
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = {
            let written = Arc::clone(&written);
            move || Sink(Arc::clone(&written))
        };
        let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false).event_format(ForJournal);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), events);
        String::from_utf8(written.lock().unwrap().clone()).unwrap()
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_event_is_a_line_with_its_level_in_front() {
        let lines = journal(|| {
            tracing::info!(key = "r-1", revision = %"main", "accepted");
            tracing::warn!("{} is\n<0>broken\u{1b}[31m", "it");
            tracing::error!(help = "see to it", "the end");
            tracing::debug!("nobody needs this");
        });
        insta::assert_snapshot!(lines, @r#"
        <6>accepted key="r-1" revision=main
        <4>it is <0>broken\x1b[31m
        <3>the end help="see to it"
        <7>nobody needs this
        "#);
    }

    #[test]
    fn stderr_is_known_by_its_device_and_inode() {
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned().unwrap()).metadata().unwrap();
        assert!(is_stderr(&format!("{}:{}", stderr.dev(), stderr.ino())));
        assert!(!is_stderr("1:1") && !is_stderr(""));
    }
}
