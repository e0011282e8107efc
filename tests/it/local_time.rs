//! Tests that people get times in their own time zone, and programs in UTC.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::apply::halting::keep_busy;
use crate::apply::stage;
use crate::support::lab::Lab;

/// Returns the document of the latest rollout for a user in this time zone.
async fn report(lab: &Lab, zone: &str, format: &str) -> String {
    let mut command = lab.operator(&lab.admin).unwrap();
    command.args(["report", "--format", format]).env("TZ", zone);
    stage::start(command).ended().await.unwrap().expect(0).stdout
}

#[tokio::test]
async fn a_person_reads_the_time_of_the_zone_and_a_program_that_of_utc() {
    let lab = stage::lab(&["test.test1"]).await;
    stage::apply(&lab, "revision = 'main'\n[[wave]]\ntargets = 'test.test1'\n").ended().await.unwrap().expect(0);
    let json = report(&lab, "UTC", "json").await;
    let began: Timestamp = serde_json::from_str::<Value>(&json).unwrap()["began_at"].as_str().unwrap().parse().unwrap();
    let has_zones =
        ["/usr/share/zoneinfo", "/etc/zoneinfo"].iter().any(|zones| Path::new(zones).join("Asia/Kolkata").exists());
    let kolkata = if has_zones { (330, "IST") } else { (0, "UTC") };
    for (zone, (minutes, name)) in [
        ("UTC", (0, "UTC")),
        ("", (0, "UTC")),
        ("Asia/Kolkata", kolkata),
        // This zone states its own offset.
        ("XYZ-5:30", (330, "XYZ")),
        ("No/Where", (0, "UTC")),
    ] {
        let local = began + SignedDuration::from_mins(minutes);
        let told = format!("{} {name}", local.strftime("%Y-%m-%d %H:%M:%S"));
        for format in ["markdown", "html"] {
            // Markdown escapes punctuation with backslashes.
            let document = report(&lab, zone, format).await.replace('\\', "");
            assert!(document.contains(&told), "{zone}: {told} is not in {document}");
        }
    }
    for format in ["json", "junit"] {
        assert_eq!(report(&lab, "XYZ-5:30", format).await, report(&lab, "UTC", format).await);
    }
    let mut rollouts = lab.operator(&lab.admin).unwrap();
    rollouts.args(["rollouts", "--json"]).env("TZ", "XYZ-5:30");
    let rollouts = stage::start(rollouts).ended().await.unwrap().expect(0).stdout;
    assert!(rollouts.contains(&began.to_string()), "{rollouts}");
}

#[tokio::test]
async fn since_when_a_host_is_busy_is_told_in_the_time_of_the_zone() {
    let lab = stage::lab(&["test.test1"]).await;
    keep_busy(&lab, "test1").await;
    let mut command = stage::command(&lab, "apply", "revision = 'main'\n[[wave]]\ntargets = 'test.test1'\n");
    command.arg("--yes").env("TZ", "XYZ-5:30");
    let told = stage::start(command).ended().await.unwrap().expect(1).stderr;
    stage::open(&lab, "test1");
    let json: Value = serde_json::from_str(&report(&lab, "UTC", "json").await).unwrap();
    // The host has its own zone, and says it in UTC.
    let said = json["waves"][0]["hosts"][0]["message"].as_str().unwrap();
    let since: Timestamp = said.strip_prefix("busy with other of eve@desk since ").unwrap().parse().unwrap();
    let local = since + SignedDuration::from_mins(330);
    let local = format!("busy with other of eve@desk since {} XYZ", local.strftime("%Y-%m-%d %H:%M:%S"));
    assert_eq!(told.matches(&local).count(), 2, "{local} is not in {told}");
    for format in ["markdown", "html"] {
        let document = report(&lab, "XYZ-5:30", format).await.replace('\\', "");
        assert!(document.contains(&local), "{local} is not in {document}");
    }
}
