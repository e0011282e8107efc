//! Which units of the host have failed, by the same measure as `switch-to-configuration`.

use std::collections::BTreeSet;

use super::host::Host;
use super::snapshot::answer;
use super::unit::is_activation;

/// Lists units that have failed, and those that wait to be started once more.
const LIST: [&str; 6] =
    ["list-units", "--state=failed,auto-restart,auto-restart-queued", "--plain", "--no-legend", "--no-pager", "--full"];

/// Asks how units ended that wait to be started once more.
const SHOW: [&str; 3] = ["show", "--property=Id,Result,ExecMainStatus", "--"];

/// The units that have failed; unknown where there is no systemd to ask.
pub(super) async fn failed_units(host: &Host) -> Option<BTreeSet<String>> {
    if !host.has_systemd() {
        return None;
    }
    let Listed { mut failed, waiting } = listed(&answer("systemctl", &LIST).await?);
    if !waiting.is_empty() {
        // With `Restart=always` a unit may wait although it did all that it had to do.
        let waiting: Vec<&str> = waiting.iter().map(String::as_str).collect();
        let shown = answer("systemctl", &[&SHOW[..], &waiting].concat()).await;
        // One that nothing is known of counts as failed, as it is not `active` either.
        failed.extend(
            shown.map_or_else(|| waiting.iter().map(|&unit| unit.to_owned()).collect(), |text| ended_badly(&text)),
        );
    }
    Some(failed)
}

struct Listed {
    failed: BTreeSet<String>,
    /// Units between two starts.
    waiting: Vec<String>,
}

/// Reads lines of a unit, whether it is loaded, its state, its state in detail, and what it is.
fn listed(listing: &str) -> Listed {
    let mut units = Listed { failed: BTreeSet::new(), waiting: Vec::new() };
    for line in listing.lines() {
        let mut words = line.split_whitespace();
        // That the unit of an activation failed says no more than its exit code.
        let Some(unit) = words.next().filter(|unit| !is_activation(unit)) else { continue };
        if words.nth(1) == Some("failed") {
            units.failed.insert(unit.to_owned());
        } else {
            units.waiting.push(unit.to_owned());
        }
    }
    units
}

/// The units that did not end well, of those that are shown: a block of properties for each, in any order.
fn ended_badly(shown: &str) -> BTreeSet<String> {
    let blocks = shown.split("\n\n").map(|block| {
        let value = |name| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        (value("Id"), value("Result"), value("ExecMainStatus"))
    });
    let bad = blocks.filter(|(_, result, status)| *result != Some("success") || *status != Some("0"));
    bad.filter_map(|(unit, _, _)| unit.map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_the_first_words_of_a_listing() {
        let listing = "unbound.service loaded failed failed Unbound DNS resolver\n\
                       tunnel.service  loaded activating auto-restart SSH tunnel\n\
                       nixos-rebuild-switch-to-configuration.service loaded failed failed x\n\
                       nixos-rebuild-switch-to-configuration-0123abcd.service loaded failed failed x\n\n";
        let Listed { failed, waiting } = listed(listing);
        assert_eq!(
            (failed.into_iter().collect::<Vec<_>>(), waiting),
            (vec!["unbound.service".to_owned()], vec!["tunnel.service".to_owned()])
        );
        assert!(listed("").failed.is_empty());
    }

    #[test]
    fn a_unit_between_two_starts_has_failed_only_if_it_ended_badly() {
        let block =
            |unit: &str, result: &str, status: i32| format!("ExecMainStatus={status}\nResult={result}\nId={unit}\n");
        let shown = [
            block("poll.service", "success", 0),
            block("tunnel.service", "exit-code", 255),
            block("late.service", "timeout", 0),
            block("java.service", "success", 143),
        ];
        assert_eq!(
            ended_badly(&shown.join("\n")).into_iter().collect::<Vec<_>>(),
            ["java.service", "late.service", "tunnel.service"]
        );
        assert!(ended_badly("").is_empty());
    }
}
