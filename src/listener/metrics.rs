//! The listener's metrics, in the text form that Prometheus reads. Pure.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use jiff::Timestamp;

use super::history::{Deployed, RequestHistory};
use super::publisher::Link;
use super::run::Spec;
use crate::protocol::{Commit, ErrorCode, Response, Status};

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How runs can fail. Each is there from the start with a zero, since what appears with a one has never increased.
#[rustfmt::skip]
const FAILURES: [ErrorCode; 11] = [
    ErrorCode::InvalidRevision, ErrorCode::BuildFailed, ErrorCode::Timeout, ErrorCode::ActivationFailed,
    ErrorCode::Interrupted, ErrorCode::VerifyFailed, ErrorCode::NotConfirmed, ErrorCode::AlreadyRunning,
    ErrorCode::WrongHost, ErrorCode::NotAvailable, ErrorCode::Untrusted,
];

/// What the loop that serves NATS knows. The counters begin with the process, the last run is known from disk.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    pub(super) link: Link,
    deployed: Option<Deployed>,
    runs: BTreeMap<(Status, Option<ErrorCode>), u64>,
    last: Option<LastRun>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct LastRun {
    ended_at: Timestamp,
    /// From its acceptance to its end, in seconds.
    duration: f64,
    status: Status,
}

/// What is looked up on the host when somebody asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// The commit that runs, if the listener has deployed it.
    pub(super) revision: Option<Commit>,
    pub(super) reboot_required: Option<bool>,
}

impl Metrics {
    /// Those of a listener that has done nothing, and is not connected yet.
    pub(super) fn new() -> Self {
        let failures = FAILURES.map(|error| ((Status::Failed, Some(error)), 0));
        let runs = failures.into_iter().chain([((Status::Completed, None), 0)]).collect();
        Self { link: Link::Down, deployed: None, runs, last: None }
    }

    /// A run has ended, as the ledger has it.
    pub(super) fn count_last(&mut self, ledger: &RequestHistory) {
        if let Some((_, Response { status, error, .. })) = ledger.last() {
            *self.runs.entry((*status, error.clone())).or_default() += 1;
        }
        self.recall(ledger);
    }

    /// What is known of earlier runs, be they from before this process.
    pub(super) fn recall(&mut self, ledger: &RequestHistory) {
        self.deployed = ledger.last_deployed().cloned();
        self.last = ledger.last().and_then(|(spec, response)| LastRun::new(spec, response));
    }

    /// The commit that runs, if this is the system that was made by deploying it.
    pub(super) fn revision_of(&self, system: Option<&str>) -> Option<&Commit> {
        self.deployed.as_ref()?.commit_of(system)
    }

    pub(super) fn page(&self, seen: &Seen) -> String {
        let mut page = PrometheusText(String::new());
        page.gauge("build_info", "The listener that runs.", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.gauge("connected", "Whether the connection to NATS stands.", &[], u8::from(self.link == Link::Up));
        page.family("runs_total", "counter", "Runs that have ended since the listener was started.");
        for ((status, error), count) in &self.runs {
            let error = error.as_ref().map_or("", ErrorCode::as_str);
            page.sample("runs_total", &[("status", status.as_str()), ("error", error)], count);
        }
        if let Some(LastRun { ended_at, duration, status }) = self.last {
            let ended_at = ended_at.as_duration().as_secs_f64();
            page.gauge("last_run_timestamp_seconds", "When the last run ended.", &[], ended_at);
            let help = "How long the last run took, from its acceptance to its end.";
            page.gauge("last_run_duration_seconds", help, &[], duration);
            let help = "Whether the last run did what was asked.";
            page.gauge("last_run_success", help, &[], u8::from(status == Status::Completed));
        }
        if let Some(revision) = &seen.revision {
            let help = "The commit that runs, as far as the listener has deployed it.";
            page.gauge("running_revision_info", help, &[("revision", revision.as_str())], 1);
        }
        if let Some(reboot_required) = seen.reboot_required {
            let help = "Whether the next boot starts another kernel, initrd, kernel modules or system than run now.";
            page.gauge("reboot_required", help, &[], u8::from(reboot_required));
        }
        page.0
    }
}

impl LastRun {
    fn new(spec: &Spec, response: &Response) -> Option<Self> {
        let ended_at = response.at?;
        let duration = ended_at.duration_since(spec.accepted_at).as_secs_f64().max(0.0);
        Some(Self { ended_at, duration, status: response.status })
    }
}

/// Text in the format of Prometheus, with the name of this program before each metric.
struct PrometheusText(String);

impl PrometheusText {
    /// A metric that has but one value.
    fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, labels, value);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP homelab_deploy_{name} {help}"));
        self.line(format_args!("# TYPE homelab_deploy_{name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.line(format_args!("homelab_deploy_{name}{labels} {value}"));
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        self.0.extend([&line.to_string(), "\n"]);
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::run::tests::spec;

    #[test]
    fn a_listener_that_has_done_nothing_shows_zeros_and_only_what_it_knows() {
        let page = Metrics::new().page(&Seen { revision: None, reboot_required: None });
        insta::assert_snapshot!(page, @r#"
        # HELP homelab_deploy_build_info The listener that runs.
        # TYPE homelab_deploy_build_info gauge
        homelab_deploy_build_info{version="0.1.0"} 1
        # HELP homelab_deploy_connected Whether the connection to NATS stands.
        # TYPE homelab_deploy_connected gauge
        homelab_deploy_connected 0
        # HELP homelab_deploy_runs_total Runs that have ended since the listener was started.
        # TYPE homelab_deploy_runs_total counter
        homelab_deploy_runs_total{status="completed",error=""} 0
        homelab_deploy_runs_total{status="failed",error="invalid_revision"} 0
        homelab_deploy_runs_total{status="failed",error="already_running"} 0
        homelab_deploy_runs_total{status="failed",error="build_failed"} 0
        homelab_deploy_runs_total{status="failed",error="timeout"} 0
        homelab_deploy_runs_total{status="failed",error="activation_failed"} 0
        homelab_deploy_runs_total{status="failed",error="interrupted"} 0
        homelab_deploy_runs_total{status="failed",error="verify_failed"} 0
        homelab_deploy_runs_total{status="failed",error="not_confirmed"} 0
        homelab_deploy_runs_total{status="failed",error="wrong_host"} 0
        homelab_deploy_runs_total{status="failed",error="not_available"} 0
        homelab_deploy_runs_total{status="failed",error="untrusted"} 0
        "#);
    }

    #[test]
    fn runs_are_counted_by_how_they_ended_and_the_last_one_is_shown() {
        let mut metrics = Metrics { link: Link::Up, ..Metrics::new() };
        let mut ledger = RequestHistory::new("ns1".parse().unwrap());
        let odd = ErrorCode::Other("a\"b\\\nc".to_owned());
        let runs =
            [(Status::Completed, None), (Status::Failed, Some(ErrorCode::BuildFailed)), (Status::Failed, Some(odd))];
        for (status, error) in runs.into_iter().cycle().take(4) {
            let at = Some("2026-01-01T00:01:30.250Z".parse().unwrap());
            let response = Response { error, at, ..Response::new("ns1".parse().unwrap(), status, "") };
            let spec = Spec { accepted_at: "2026-01-01T00:00:00Z".parse().unwrap(), ..spec("r-1") };
            ledger.ended(spec, response);
            metrics.count_last(&ledger);
        }
        let revision = Some("8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b".parse().unwrap());
        let page = metrics.page(&Seen { revision, reboot_required: Some(true) });
        let samples: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        insta::assert_snapshot!(samples.join("\n"), @r#"
        homelab_deploy_build_info{version="0.1.0"} 1
        homelab_deploy_connected 1
        homelab_deploy_runs_total{status="completed",error=""} 2
        homelab_deploy_runs_total{status="failed",error="invalid_revision"} 0
        homelab_deploy_runs_total{status="failed",error="already_running"} 0
        homelab_deploy_runs_total{status="failed",error="build_failed"} 1
        homelab_deploy_runs_total{status="failed",error="timeout"} 0
        homelab_deploy_runs_total{status="failed",error="activation_failed"} 0
        homelab_deploy_runs_total{status="failed",error="interrupted"} 0
        homelab_deploy_runs_total{status="failed",error="verify_failed"} 0
        homelab_deploy_runs_total{status="failed",error="not_confirmed"} 0
        homelab_deploy_runs_total{status="failed",error="wrong_host"} 0
        homelab_deploy_runs_total{status="failed",error="not_available"} 0
        homelab_deploy_runs_total{status="failed",error="untrusted"} 0
        homelab_deploy_runs_total{status="failed",error="a\"b\\\nc"} 1
        homelab_deploy_last_run_timestamp_seconds 1767225690.25
        homelab_deploy_last_run_duration_seconds 90.25
        homelab_deploy_last_run_success 1
        homelab_deploy_running_revision_info{revision="8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b"} 1
        homelab_deploy_reboot_required 1
        "#);
    }
}
