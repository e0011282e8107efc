//! Tests deployments that succeed.

use crate::deployer::each;
use serde_json::Value;

use crate::stage::{CURRENT, NS1, PROFILE, Stage};

impl Stage {
    /// Deploys a commit, which must succeed, and returns the only final response.
    async fn deploy(&mut self, commit: &str, action: &str) -> Value {
        let mut wire = self.overhear().await.unwrap();
        let deploy = self.operator(&["deploy", NS1, "--branch", commit, "--action", action]);
        deploy.ended().await.unwrap().expect(0).told("1 host completed");
        let mut finals = self.finals(&mut wire).await;
        assert_eq!(each(&finals, "status"), ["completed"]);
        finals.remove(0)
    }
}

#[tokio::test]
async fn each_action_does_what_it_says_and_no_more() {
    let Some(mut stage) = Stage::set("").await else { return };
    let first = stage.commit_of(CURRENT);

    let second = stage.push(r#"box.activation = "touch /run/activated";"#);
    stage.deploy(&second, "dry-activate").await;
    assert_eq!((stage.commit_of(CURRENT), stage.commit_of(PROFILE)), (first.clone(), first.clone()));
    stage.machine.run("test ! -e /run/activated").unwrap();

    stage.deploy(&second, "test").await;
    assert_eq!((stage.commit_of(CURRENT), stage.commit_of(PROFILE)), (second.clone(), first.clone()));
    stage.machine.run("rm /run/activated").unwrap();

    let third = stage.push("");
    let end = stage.deploy(&third, "switch").await;
    assert_eq!((&end["revision"], &end["previous_revision"]), (&third.clone().into(), &second.into()), "{end}");
    assert_eq!((stage.commit_of(CURRENT), stage.commit_of(PROFILE)), (third.clone(), third.clone()));

    let fourth = stage.push(r#"box.activation = "touch /run/activated";"#);
    stage.deploy(&fourth, "boot").await;
    assert_eq!((stage.commit_of(CURRENT), stage.commit_of(PROFILE)), (third, fourth.clone()));
    stage.machine.run("test ! -e /run/activated").unwrap();
    assert_eq!(stage.until_present().await.unwrap().booted_system_differs, Some(true));

    stage.reboot().await;
    assert_eq!(stage.commit_of(CURRENT), fourth);
    stage.machine.run("test -e /run/activated").unwrap();
}
