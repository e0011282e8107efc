//! Formats the packages that a rollout changes on its hosts as a table.

use std::collections::BTreeSet;

use super::describe;
use super::format::{count, pad, safe, widest};
use crate::plan::{Changes, PackageChange};
use crate::protocol::HostName;
use crate::rollout::Rollout;

/// The greatest width of the column of versions. A longer cell widens its own row only.
const MAX_VERSIONS: usize = 30;

/// Formats the changes on the hosts of a rollout, in lines without a margin: at most `most` packages, the most
/// important ones first, and the number of the others.
pub fn packages(rollout: &Rollout, changes: &Changes, most: usize) -> Vec<String> {
    let mut packages: Vec<&PackageChange> = changes.packages.iter().filter(|package| has_versions(package)).collect();
    packages.sort_by_key(|package| {
        (!needs_reboot(package, changes), std::cmp::Reverse(package.hosts.len()), &package.name)
    });
    let listed: BTreeSet<&HostName> = packages.iter().flat_map(|package| &package.hosts).collect();
    let hidden = packages.len().saturating_sub(most);
    packages.truncate(most);

    let rows: Vec<[String; 3]> = packages.into_iter().map(|package| row(package, changes, rollout)).collect();
    let name_width = widest(rows.iter().map(|[name, ..]| name));
    let versions_width = widest(rows.iter().map(|[_, versions, _]| versions)).min(MAX_VERSIONS);
    let line = |[name, versions, hosts]: &[String; 3]| {
        format!("{}   {}   {hosts}", pad(name, name_width), pad(versions, versions_width))
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    lines.extend((hidden > 0).then(|| format!("… and {}", count(hidden, "more package"))));
    lines.extend(notes(rollout, changes, &listed));
    lines
}

/// Whether a package is worth a row. Most store paths are the configuration of one service, without a version; and each
/// host has a system of its own.
fn has_versions(package: &PackageChange) -> bool {
    let versions = || package.before.iter().chain(&package.after);
    !package.name.starts_with("nixos-system-") && versions().any(|version| !version.is_empty())
}

/// Whether the package is a kernel or initrd that makes its hosts reboot.
fn needs_reboot(package: &PackageChange, changes: &Changes) -> bool {
    let is_kernel = package.name == "linux" || package.name.starts_with("linux-") || package.name.starts_with("initrd");
    is_kernel && package.hosts.is_subset(&changes.reboots)
}

fn row(package: &PackageChange, changes: &Changes, rollout: &Rollout) -> [String; 3] {
    let PackageChange { name, before, after, hosts } = package;
    let versions = |versions: &BTreeSet<String>| {
        let named = versions.iter().map(|version| if version.is_empty() { "?".to_owned() } else { safe(version) });
        named.collect::<Vec<_>>().join(", ")
    };
    let (sign, versions) = match (before.is_empty(), after.is_empty()) {
        (true, _) => ("+ ", versions(after)),
        (_, true) => ("- ", versions(before)),
        (false, false) => ("", format!("{} -> {}", versions(before), versions(after))),
    };
    let hosts = match hosts.first() {
        _ if needs_reboot(package, changes) => format!("{}: reboot   {}", count(hosts.len(), "host"), names(hosts)),
        Some(only) if hosts.len() == 1 && rollout.plan.hosts().nth(1).is_some() => {
            format!("only {}", only.as_str())
        }
        Some(_) | None => count(hosts.len(), "host"),
    };
    [format!("{sign}{}", safe(name)), versions, hosts]
}

/// Formats the notes about hosts that the rows of packages do not cover.
fn notes(rollout: &Rollout, changes: &Changes, listed: &BTreeSet<&HostName>) -> Vec<String> {
    let Changes { packages, reboots, unchanged, unknown, missing, to_fetch, to_fetch_most } = changes;
    let is_unlisted = |host: &&HostName| {
        !listed.contains(host) && ![unchanged, unknown, missing].iter().any(|hosts| hosts.contains(*host))
    };
    let unlisted = rollout.plan.hosts().map(|host| &host.hostname).filter(is_unlisted).cloned().collect();
    let unseen: BTreeSet<HostName> = packages
        .iter()
        .filter(|package| needs_reboot(package, changes))
        .fold(reboots.clone(), |left, package| left.difference(&package.hosts).cloned().collect());
    let is_skipped = rollout.plan.hosts().filter(|host| unchanged.contains(&host.hostname)).all(|host| host.is_current);
    let skipped = if is_skipped { ": skipped" } else { "" };
    let note = |what: &str, hosts: &BTreeSet<HostName>| {
        (!hosts.is_empty()).then(|| format!("{what}: {}   {}", count(hosts.len(), "host"), names(hosts)))
    };
    let fetch =
        (*to_fetch > 0).then(|| format!("{} to fetch, at most {} a host", size(*to_fetch), size(*to_fetch_most)));
    let verb = if unchanged.len() == 1 { "does" } else { "do" };
    let unchanged =
        (!unchanged.is_empty()).then(|| format!("{} {verb} not change{skipped}", count(unchanged.len(), "host")));
    let last: Vec<String> = unchanged.into_iter().chain(fetch).collect();
    [
        note("only the configuration changes", &unlisted),
        note("reboot for another initrd", &unseen),
        (!unknown.is_empty()).then(|| {
            format!("the cache does not know what {} runs now, so what changes there is not known", names(unknown))
        }),
        (!missing.is_empty())
            .then(|| format!("the cache has no new system for {}: copy it there first", names(missing))),
        (!last.is_empty()).then(|| last.join("   ")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn names(hosts: &BTreeSet<HostName>) -> String {
    describe::names(&hosts.iter().map(HostName::as_str).collect::<Vec<_>>())
}

/// Formats bytes in KiB or MiB, rounded up.
fn size(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    if bytes < MIB { format!("{} KiB", bytes.div_ceil(1024)) } else { format!("{} MiB", bytes.div_ceil(MIB)) }
}
