//! What became of a run that left no result. Pure.

use super::run::Spec;
use super::unit::UnitEnd;
use crate::protocol::Phase;

/// Why there is no result, in words: by the last phase that was noted, the boot as of now, and the end of the unit.
pub(super) fn explain(spec: &Spec, phase: Phase, boot_id: Option<&str>, unit: Option<&UnitEnd>) -> String {
    let doing = spec.doing(phase);
    match unit {
        Some(UnitEnd { result, .. }) if result == "oom-kill" => format!("memory ran out while {doing}"),
        Some(UnitEnd { result, .. }) if result == "timeout" => {
            format!("systemd ended the run while {doing}: it did not end in time by itself")
        }
        Some(UnitEnd { code, status, .. }) if code == "exited" => {
            format!(
                "the process over the run failed with code {status} while {doing}; the journal of its unit tells more"
            )
        }
        Some(UnitEnd { status, .. }) => format!("signal {status} ended the process over the run while {doing}"),
        // What the phase was is not durable.
        None if rebooted(spec, boot_id) => "the host rebooted in the middle of the run".to_owned(),
        None => format!("the run was ended from outside while {doing}, and left no result"),
    }
}

/// Whether the run is of an earlier boot, and so cannot go on. Unknown is no.
pub(super) fn rebooted(spec: &Spec, boot_id: Option<&str>) -> bool {
    spec.boot_id.as_deref().zip(boot_id).is_some_and(|(then, now)| then != now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::run::tests::spec;

    fn explained(boot_id: &str, unit: Option<(&str, &str, &str)>) -> String {
        let spec = Spec { boot_id: Some("first".to_owned()), ..spec("r-1") };
        let unit = unit.map(|(result, code, status)| UnitEnd {
            result: result.to_owned(),
            code: code.to_owned(),
            status: status.to_owned(),
        });
        explain(&spec, Phase::Build, Some(boot_id), unit.as_ref())
    }

    #[test]
    fn a_reboot_a_kill_and_a_failure_are_told_apart() {
        insta::assert_snapshot!(explained("second", None), @"the host rebooted in the middle of the run");
        insta::assert_snapshot!(explained("first", None), @"the run was ended from outside while building, and left no result");
        insta::assert_snapshot!(explained("first", Some(("signal", "killed", "KILL"))), @"signal KILL ended the process over the run while building");
        insta::assert_snapshot!(explained("second", Some(("signal", "killed", "KILL"))), @"signal KILL ended the process over the run while building");
        insta::assert_snapshot!(explained("first", Some(("oom-kill", "killed", "KILL"))), @"memory ran out while building");
        insta::assert_snapshot!(explained("first", Some(("timeout", "killed", "KILL"))), @"systemd ended the run while building: it did not end in time by itself");
        insta::assert_snapshot!(explained("first", Some(("exit-code", "exited", "203"))), @"the process over the run failed with code 203 while building; the journal of its unit tells more");
    }

    #[test]
    fn an_unknown_boot_is_no_other_boot() {
        assert!(!rebooted(&spec("r-1"), Some("second")));
        assert!(!rebooted(&Spec { boot_id: Some("first".to_owned()), ..spec("r-1") }, None));
    }
}
