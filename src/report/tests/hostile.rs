//! Tests that text from hosts and other operators reaches no display in a form that a terminal obeys, that is
//! invisible, or that changes how other text looks.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde_json::json;

use super::scenario::{NEW, OLD, Scenario, SharedBuffer, demo, name, start};
use crate::protocol::{DiscoveryAnswer, HostAnswer, HostReport, Phase, Response};
use crate::report::{Document, Json, Liveness, Reporter, hosts_table, html, junit, markdown, preview, rollouts_table};
use crate::rollout::{
    EventKind, FailureReason, HostOutcome, Outcome, Rollout, Summary, UnexpectedResponse, WaveIndex, WaveVerdict,
};
use crate::text::is_invisible;

/// Returns a response of a host with this text in every free-form field.
fn response(host: &str, status: &str, said: &str) -> Response {
    let json = json!({
        "hostname": host, "status": status, "error": said, "message": said, "system": said, "failed_units": [said],
        "log_tail": [said, said], "previous_revision": OLD, "revision": NEW, "rolled_back": false,
        "holder": { "id": said, "operator": said, "since": "2026-11-23T10:00:00Z" },
    });
    Response::parse(json.to_string().as_bytes()).unwrap()
}

fn report(host: &str, said: &str) -> HostReport {
    let at = "2026-11-23T10:00:00Z";
    let json = json!({
        "hostname": host, "tier": "test", "deploy_subjects": [], "version": said, "features": [said], "flake": said,
        "machine": said, "system": said, "busy": { "id": said, "operator": said, "since": at },
        "last": { "id": said, "status": "failed", "error": said, "at": at },
        "problems": [{ "code": said, "message": said }],
    });
    match DiscoveryAnswer::parse(json.to_string().as_bytes()).unwrap() {
        DiscoveryAnswer::Host(report) => *report,
        DiscoveryAnswer::Operator { .. } => panic!("not a host"),
    }
}

/// Returns everything that the displays show of a rollout whose foreign text is all `said`.
fn shown(said: &str) -> String {
    let rollout = Rollout { subject: Some(said.to_owned()), operator: said.to_owned(), ..demo() };
    let mut page = preview(&rollout, &[said.to_owned()], None, 80);
    let mut story = Scenario::begin(rollout);
    story.wave_starts(0).sent("test1").sent("test2").at("test1", Phase::Build).wait(60);
    story.answered(response("test1", "failed", said)).answered(response("test2", "completed", said));
    story.event(EventKind::UnexpectedResponse {
        host: name("test1"),
        anomaly: UnexpectedResponse::Late { status: crate::protocol::Status::Completed },
    });
    story.event(EventKind::Draining {
        wave: WaveIndex(0),
        cause: FailureReason::CheckFailed { reason: said.to_owned() },
    });
    story.wave_ends(0, WaveVerdict::Failed(FailureReason::CheckFailed { reason: said.to_owned() }));
    story.sent_back("test2").back(response("test2", "failed", said));
    story.given_up("ns1", HostOutcome::Rejected).ends(Outcome::Failed);
    page += &story.told();
    page += &rollouts_table(&[(&story.summary, Liveness::Over)], start(), usize::MAX);
    let hosts = [
        HostAnswer { report: Box::new(report("test1", said)), proved: true },
        HostAnswer { report: Box::new(HostReport { busy: None, ..report("test2", said) }), proved: false },
    ];
    page += &hosts_table(&hosts, &BTreeMap::new(), start(), 60);
    let document = Document::of(&story.summary, Liveness::Over, start()).unwrap();
    page += &[html(&document, &TimeZone::UTC), markdown(&document, &TimeZone::UTC), junit(&document)].concat();

    let (paper, host) = (SharedBuffer::default(), name("test1"));
    let mut json = Json::new(paper.clone());
    for status in ["failed", "rejected", "completed"] {
        let response = Arc::new(response("test1", status, said));
        let outcome = HostOutcome::of(response.status).unwrap();
        let kind = EventKind::Final { host: host.clone(), outcome, response: Some(response) };
        json.event(&crate::rollout::Event { at: start(), kind }, &[], &Summary::default()).unwrap();
    }
    json.flush().unwrap();
    page + &paper.text()
}

proptest! {
    #[test]
    fn nothing_that_others_write_is_shown_as_it_is(
        said in "(\\x1b\\[31m|\\x1b\\]0;x\\x07|\\u{9b}2J|\\u{85}|\\x00|\\x08|\\r|\\u{202e}|\\u{2066}|\\u{200b}|\\u{feff}|\\u{ad}|\\u{e0041}|a|ö| |\\n){1,8}"
    ) {
        let page = shown(&said);
        for line in page.lines() {
            prop_assert!(!line.chars().any(|c| c.is_control() || is_invisible(c)), "{line:?}");
            // JSON escapes a control character, and a reader of the JSON decodes it again.
            prop_assert!(!line.contains("\\u00"), "{line:?}");
        }
    }
}
