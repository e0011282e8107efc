//! Tests that foreign text stays text in every format, and that each format is well-formed.

use super::*;
use crate::protocol::Status;
use crate::report::tests::scenario::{Scenario, answer, build_failure, demo, rollout, start, wave};
use crate::rollout::{FailureReason, Outcome, SkipReason};

/// Text that could break out of its context in HTML, XML or Markdown.
const HOSTILE: &str =
    "</title></text></script>\"' ]]> <script>x()</script> | [a](javascript:x) `b` **c** &amp; \u{1b}[31m";

/// A rollout whose second wave fails.
fn failed() -> Scenario {
    let mut story = Scenario::begin(demo());
    story.wave_starts(0).deploys("test1").deploys("test2").wave_ends(0, WaveVerdict::Succeeded);
    story.wave_starts(1).sent("ns1").wait(30).answered(build_failure("ns1"));
    story.skipped(&["ns2"], SkipReason::WaveHalted);
    story.wave_ends(1, WaveVerdict::Failed(FailureReason::TooManyFailures { failures: 1, max_failures: 0 }));
    story.skipped(&["jelly", "sonos"], SkipReason::EarlierWave).wave_ends(2, WaveVerdict::Skipped);
    story.ends(Outcome::Failed);
    story
}

fn hostile() -> Scenario {
    let rollout = Rollout {
        operator: HOSTILE.to_owned(),
        subject: Some(HOSTILE.to_owned()),
        ..rollout(HOSTILE, vec![wave(HOSTILE, &["ns1"])])
    };
    let mut response = answer("ns1", Status::Failed);
    response.message = HOSTILE.to_owned();
    response.failed_units = vec![HOSTILE.to_owned()];
    response.log_tail = vec![HOSTILE.to_owned(), "```".to_owned()];
    let mut story = Scenario::begin(rollout);
    let cause = FailureReason::CheckFailed { reason: HOSTILE.to_owned() };
    story.wave_starts(0).sent("ns1").answered(response).wave_ends(0, WaveVerdict::Failed(cause));
    story.ends(Outcome::Failed);
    story
}

fn document(story: &Scenario) -> Document<'_> {
    Document::of(&story.summary, Liveness::Over, start()).unwrap()
}

/// Returns the tags of a document in order, without attributes.
fn tags(text: &str) -> Vec<&str> {
    let after = text.split('<').skip(1);
    after.map(|tag| tag.split([' ', '>', '\n']).next().unwrap()).collect()
}

#[test]
fn the_page_needs_nothing_else_and_has_a_bar_for_each_wave_and_host() {
    let story = failed();
    let page = html(&document(&story), &TimeZone::UTC);
    for needed in ["<script", "src=", "href=", "url(", "http:", "https:", "@import"] {
        assert!(!page.contains(needed), "{needed}");
    }
    // Two waves began, and three hosts were asked.
    assert_eq!(page.matches("<rect ").count(), 5, "{page}");
    assert_eq!(page.matches("<tr><td>").count(), 6);
    for told in [
        "ns1 failed, 30s",
        "a91be77 -&gt; 8c1f0e2",
        "failed: 1 failed, 0 may fail",
        "attribute &#39;unboundd&#39; missing",
    ] {
        assert!(page.contains(told), "{told}: {page}");
    }
}

#[test]
fn a_host_that_was_current_is_as_well_as_one_that_completed() {
    let mut story = Scenario::begin(rollout("sunday", vec![wave("dns", &["ns1", "ns2"])]));
    story.wave_starts(0).given_up("ns1", HostOutcome::Current).deploys("ns2");
    story.wave_ends(0, WaveVerdict::Succeeded).ends(Outcome::Succeeded);
    let document = document(&story);
    let xml = junit(&document);
    assert!(xml.contains(r#"tests="2" failures="0" errors="0" skipped="0""#), "{xml}");
    let page = html(&document, &TimeZone::UTC);
    assert!(page.contains(r#"<span class="good">current</span>"#), "{page}");
    let hosts = document.json()["hosts"].clone();
    assert_eq!((&hosts["current"], &hosts["completed"], &hosts["total"]), (&1.into(), &1.into(), &2.into()));
}

#[test]
fn a_wave_that_fails_with_all_hosts_completed_is_a_failure_for_a_ci_system() {
    let mut story = Scenario::begin(rollout("sunday", vec![wave("dns", &["ns1"])]));
    let cause = FailureReason::CheckFailed { reason: "exit code 1".to_owned() };
    story.wave_starts(0).deploys("ns1").wave_ends(0, WaveVerdict::Failed(cause)).ends(Outcome::Failed);
    let xml = junit(&document(&story));
    assert!(xml.contains(r#"<testsuites name="sunday" tests="2" failures="1" errors="0" skipped="0">"#), "{xml}");
    let failed = r#"name="the wave" time="0.000"><failure message="failed: its check says: exit code 1"></failure>"#;
    assert!(xml.contains(failed), "{xml}");
}

#[test]
fn a_rollout_that_ended_without_success_is_a_failure_for_a_ci_system() {
    let begin = || Scenario::begin(rollout("sunday", vec![wave("test", &["test1"]), wave("dns", &["ns1"])]));
    let mut interrupted = begin();
    interrupted.wave_starts(0).deploys("test1").wave_ends(0, WaveVerdict::Succeeded);
    interrupted.wave_ends(1, WaveVerdict::Skipped).ends(Outcome::Interrupted);
    let mut cut_off = begin();
    cut_off.wave_starts(0).deploys("test1");
    for (story, suite, says) in [(interrupted, "dns", "interrupted"), (cut_off, "test", "cut off")] {
        let xml = junit(&document(&story));
        let failed = format!(
            r#"classname="{suite}" name="the wave" time="0.000"><failure message="the rollout ended here: {says}">"#
        );
        assert!(xml.contains(&failed) && xml.contains(r#"failures="1""#), "{xml}");
    }
}

#[test]
fn text_of_others_leaves_its_place_in_no_form() {
    let story = hostile();
    let document = document(&story);
    let page = html(&document, &TimeZone::UTC);
    assert!(!tags(&page).contains(&"script") && !page.contains('\u{1b}'), "{page}");
    assert_eq!(page.matches("</title>").count(), 1);
    assert!(page.contains("&lt;script&gt;x()&lt;/script&gt;"));

    let xml = junit(&document);
    let expected = [
        "?xml",
        "testsuites",
        "testsuite",
        "testcase",
        "failure",
        "/failure",
        "/testcase",
        "/testsuite",
        "/testsuites",
    ];
    assert_eq!(tags(&xml), expected);
    assert!(!xml.contains('\u{1b}') && !xml.contains("]]>"), "{xml}");

    let text = markdown(&document, &TimeZone::UTC);
    let (said, log) = text.split_once("\n````\n").unwrap_or_else(|| panic!("no fence of four: {text}"));
    assert!(log.ends_with("\n````\n"), "{log}");
    for row in said.lines().filter(|line| line.starts_with("| ns1")) {
        assert_eq!(row.replace("\\|", "").matches('|').count(), 6, "{row}");
    }
    let mut before = ' ';
    for character in said.replace("| --- ", "").chars() {
        assert!(
            !matches!(character, '<' | '[' | '*' | '`' | '&') || before == '\\',
            "{character} after {before}: {said}"
        );
        before = character;
    }
}

#[test]
fn a_ci_system_and_a_program_are_told_the_same() {
    let story = failed();
    let document = document(&story);
    insta::assert_snapshot!(junit(&document), @r#"
    <?xml version="1.0" encoding="UTF-8"?>
    <testsuites name="demo" tests="6" failures="1" errors="0" skipped="3">
      <testsuite name="test" tests="2" failures="0" errors="0" skipped="0">
        <testcase classname="test" name="test1" time="12.000"></testcase>
        <testcase classname="test" name="test2" time="12.000"></testcase>
      </testsuite>
      <testsuite name="dns" tests="2" failures="1" errors="0" skipped="1">
        <testcase classname="dns" name="ns1" time="30.000"><failure message="failed: build_failed; attribute &#39;unboundd&#39; missing">building the system configuration...
    error: attribute &#39;unboundd&#39; missing</failure></testcase>
        <testcase classname="dns" name="ns2" time="0.000"><skipped message="skipped: wave halted"/></testcase>
      </testsuite>
      <testsuite name="media" tests="2" failures="0" errors="0" skipped="2">
        <testcase classname="media" name="jelly" time="0.000"><skipped message="skipped: an earlier wave did not succeed"/></testcase>
        <testcase classname="media" name="sonos" time="0.000"><skipped message="skipped: an earlier wave did not succeed"/></testcase>
      </testsuite>
    </testsuites>
    "#);
    let json = document.json();
    assert_eq!(json["outcome"], "failed");
    let host = &json["waves"][1]["hosts"][0];
    assert_eq!(
        (&host["host"], &host["status"], &host["error"]),
        (&json!("ns1"), &json!("failed"), &json!("build_failed"))
    );
    assert_eq!(json["waves"][2]["verdict"], "skipped");
    assert!(!json.to_string().contains("secret"));
}
