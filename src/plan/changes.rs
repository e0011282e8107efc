//! Compares the packages of each host's old and new system, as `nix store diff-closures` does, and sums them up.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::protocol::HostName;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorePath {
    /// The paths that this one needs, which may include itself.
    pub references: Vec<String>,
    /// The size of the download for this path alone, in bytes.
    pub size: u64,
}

/// Store paths and their references, as a cache describes them.
#[derive(Debug, Default)]
pub struct Closures {
    indices: FxHashMap<String, usize>,
    nodes: Vec<Node>,
    /// Names and versions.
    packages: Vec<(String, String)>,
}

#[derive(Debug)]
struct Node {
    references: Vec<usize>,
    size: u64,
    package: usize,
}

/// The changes on the hosts of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Sorted by name.
    pub packages: Vec<PackageChange>,
    /// The hosts whose kernel, initrd or kernel modules change.
    pub reboots: BTreeSet<HostName>,
    /// The hosts that already run their new system.
    pub unchanged: BTreeSet<HostName>,
    /// The hosts that did not report their system, or whose system the cache does not have.
    pub unknown: BTreeSet<HostName>,
    /// The hosts whose new system the cache does not have, so that they cannot fetch it.
    pub missing: BTreeSet<HostName>,
    /// The download of all hosts together, in bytes.
    pub to_fetch: u64,
    /// The largest download of one host, in bytes.
    pub to_fetch_most: u64,
}

/// A package that changes in the same way on some hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageChange {
    pub name: String,
    /// The old versions. A package without a version has an empty one.
    pub before: BTreeSet<String>,
    /// The new versions.
    pub after: BTreeSet<String>,
    pub hosts: BTreeSet<HostName>,
}

/// The packages that a host loses (`false`) and gets (`true`), sorted and without duplicates.
type Difference = Vec<(usize, bool)>;

/// The closure of a system, as indices of its paths and their packages.
struct Closure {
    root: usize,
    paths: FxHashSet<usize>,
    packages: FxHashSet<usize>,
}

impl FromIterator<(String, StorePath)> for Closures {
    fn from_iter<T: IntoIterator<Item = (String, StorePath)>>(paths: T) -> Self {
        let paths: Vec<(String, StorePath)> = paths.into_iter().collect();
        let indices = paths.iter().enumerate().map(|(index, (path, _))| (path.clone(), index)).collect();
        let mut closures = Self { indices, ..Self::default() };
        let mut packages: FxHashMap<(String, String), usize> = FxHashMap::default();
        for (path, StorePath { references, size }) in paths {
            let references = references.iter().filter_map(|path| closures.index(path)).collect();
            let package = *packages.entry(package(&path)).or_insert_with_key(|package| {
                closures.packages.push(package.clone());
                closures.packages.len() - 1
            });
            closures.nodes.push(Node { references, size, package });
        }
        closures
    }
}

/// Returns the name and version of the package at a store path. Drops the name of an output after the last hyphen. The
/// version begins after the first hyphen that no letter follows.
fn package(path: &str) -> (String, String) {
    let base = path.rsplit('/').next().unwrap_or_default();
    let name = base.split_once('-').map_or(base, |(_hash, name)| name);
    let is_output = |word: &str| {
        matches!(word, "lib32" | "lib64") || (!word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase()))
    };
    let name = name.rsplit_once('-').filter(|(_, word)| is_output(word)).map_or(name, |(name, _)| name);
    let is_version = |rest: &str| rest.starts_with(|first: char| !first.is_ascii_alphabetic());
    let mut hyphens = name.match_indices('-').map(|(at, _)| name.split_at(at));
    let version =
        hyphens.find_map(|(name, rest)| Some((name, rest.strip_prefix('-').filter(|rest| is_version(rest))?)));
    let (name, version) = version.unwrap_or((name, ""));
    (name.to_owned(), version.to_owned())
}

/// Whether a package of this name is the kernel, the initrd or the kernel modules, which a reboot activates.
fn is_boot_part(package: &str) -> bool {
    ["linux", "initrd", "kernel"].iter().any(|part| package.starts_with(part))
}

impl Closures {
    /// Returns the changes on `hosts`, each with its reported system and its new system. The paths of the systems
    /// themselves do not count as packages.
    pub fn changes<'a>(&self, hosts: impl IntoIterator<Item = (&'a HostName, Option<&'a str>, &'a str)>) -> Changes {
        let mut changes = Changes::default();
        // Many hosts have the same changes.
        let mut alike: FxHashMap<Difference, BTreeSet<HostName>> = FxHashMap::default();
        for (host, runs, shall_run) in hosts {
            let indices = runs.and_then(|runs| self.index(runs)).zip(self.index(shall_run));
            let Some((runs_at, shall_run_at)) = indices.filter(|_| runs != Some(shall_run)) else {
                let is_missing = self.index(shall_run).is_none();
                let group = match runs {
                    Some(runs) if runs == shall_run => &mut changes.unchanged,
                    _ if is_missing => &mut changes.missing,
                    _ => &mut changes.unknown,
                };
                group.insert(host.clone());
                continue;
            };
            let (before, after) = (self.closure(runs_at), self.closure(shall_run_at));
            let new = after.paths.difference(&before.paths);
            let to_fetch = new.filter_map(|path| self.nodes.get(*path)).map(|node| node.size).sum();
            changes.to_fetch += to_fetch;
            changes.to_fetch_most = changes.to_fetch_most.max(to_fetch);
            if self.boot_parts(&before) != self.boot_parts(&after) {
                changes.reboots.insert(host.clone());
            }
            alike.entry(self.difference(&before, &after)).or_default().insert(host.clone());
        }
        changes.packages = self.by_package(&alike);
        changes
    }

    fn by_package(&self, alike: &FxHashMap<Difference, BTreeSet<HostName>>) -> Vec<PackageChange> {
        let mut packages: BTreeMap<(&str, [BTreeSet<String>; 2]), BTreeSet<HostName>> = BTreeMap::new();
        for (difference, hosts) in alike {
            let mut versions: BTreeMap<&str, [BTreeSet<String>; 2]> = BTreeMap::new();
            for (package, is_new) in difference {
                let Some((name, version)) = self.packages.get(*package) else { continue };
                let [old, new] = versions.entry(name).or_default();
                let side = if *is_new { new } else { old };
                side.insert(version.clone());
            }
            for package in versions {
                packages.entry(package).or_default().extend(hosts.iter().cloned());
            }
        }
        let package = |((name, [before, after]), hosts): ((&str, [BTreeSet<String>; 2]), _)| PackageChange {
            name: name.to_owned(),
            before,
            after,
            hosts,
        };
        packages.into_iter().map(package).collect()
    }

    fn index(&self, path: &str) -> Option<usize> {
        self.indices.get(path).copied()
    }

    fn closure(&self, root: usize) -> Closure {
        let mut closure = Closure { root, paths: FxHashSet::default(), packages: FxHashSet::default() };
        let mut open = vec![root];
        while let Some(path) = open.pop() {
            if let Some(node) = self.nodes.get(path).filter(|_| closure.paths.insert(path)) {
                closure.packages.insert(node.package);
                open.extend(&node.references);
            }
        }
        closure
    }

    /// Returns the direct references of a system that a reboot activates.
    fn boot_parts(&self, system: &Closure) -> BTreeSet<usize> {
        let parts = self.nodes.get(system.root).into_iter().flat_map(|root| root.references.iter().copied());
        let name = |part: &usize| self.packages.get(self.nodes.get(*part)?.package).map(|(name, _)| name);
        parts.filter(|part| name(part).is_some_and(|name| is_boot_part(name))).collect()
    }

    /// Returns the packages that only one of the closures has.
    fn difference(&self, before: &Closure, after: &Closure) -> Difference {
        let mut difference = Difference::new();
        for (one, other, is_new) in [(before, after, false), (after, before, true)] {
            let packages = one.paths.difference(&other.paths).filter(|path| **path != one.root);
            let packages = packages.filter_map(|path| self.nodes.get(*path)).map(|node| node.package);
            let packages = packages.filter(|package| !other.packages.contains(package));
            difference.extend(packages.map(|package| (package, is_new)));
        }
        difference.sort_unstable();
        difference.dedup();
        difference
    }
}
