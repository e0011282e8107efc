//! What a rollout changes: the packages of what hosts run and of what they shall run, compared as `nix store diff-closures` compares
//! them, and folded over the fleet.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::protocol::HostName;

/// What is known of a store path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorePath {
    /// The paths that it needs, which may name itself.
    pub references: Vec<String>,
    /// How much there is to fetch for it alone, in bytes.
    pub size: u64,
}

/// Store paths with all that they need, as a cache describes them.
#[derive(Debug, Default)]
pub struct Closures {
    places: FxHashMap<String, usize>,
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

/// What changes on the hosts of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The packages that change, by name.
    pub packages: Vec<PackageChange>,
    /// The hosts that would boot another kernel or initrd, or load other kernel modules.
    pub reboots: BTreeSet<HostName>,
    /// The hosts that run already what they shall run.
    pub unchanged: BTreeSet<HostName>,
    /// The hosts of which it is not known what they run, or not to the cache.
    pub unknown: BTreeSet<HostName>,
    /// The hosts whose new system the cache does not have: they could not fetch it.
    pub missing: BTreeSet<HostName>,
    /// How much all hosts fetch together, in bytes.
    pub to_fetch: u64,
    /// The most that one host fetches, in bytes.
    pub to_fetch_most: u64,
}

/// A package that changes in the same way on some hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageChange {
    /// Its name.
    pub name: String,
    /// The versions that go. One may be empty: not all that is in a store has a version.
    pub before: BTreeSet<String>,
    /// The versions that come.
    pub after: BTreeSet<String>,
    /// The hosts on which that happens.
    pub hosts: BTreeSet<HostName>,
}

/// The packages that one host loses (`false`) and gets (`true`), in order and each once.
type Difference = Vec<(usize, bool)>;

/// The closure of a system, by the places of its paths and of their packages.
struct Closure {
    root: usize,
    paths: FxHashSet<usize>,
    packages: FxHashSet<usize>,
}

impl FromIterator<(String, StorePath)> for Closures {
    fn from_iter<T: IntoIterator<Item = (String, StorePath)>>(paths: T) -> Self {
        let paths: Vec<(String, StorePath)> = paths.into_iter().collect();
        let (mut closures, mut packages) = (Self::default(), FxHashMap::<(String, String), usize>::default());
        for (place, (path, _)) in paths.iter().enumerate() {
            closures.places.insert(path.clone(), place);
        }
        for (path, StorePath { references, size }) in paths {
            let references = references.iter().filter_map(|path| closures.places.get(path).copied()).collect();
            let package = package(&path);
            let known = packages.get(&package).copied();
            let package = known.unwrap_or_else(|| {
                packages.insert(package.clone(), closures.packages.len());
                closures.packages.push(package);
                closures.packages.len() - 1
            });
            closures.nodes.push(Node { references, size, package });
        }
        closures
    }
}

/// The name and the version of what is at a store path. What stands behind its last hyphen may be the name of an output, which
/// is left away; a version begins at the first hyphen that no letter comes after.
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

/// Whether a part of a system with this name takes a reboot: its kernel, initrd or kernel modules.
fn is_booted(package: &str) -> bool {
    ["linux", "initrd", "kernel"].iter().any(|part| package.starts_with(part))
}

impl Closures {
    /// What changes on hosts, each of which is given with what it runs, as far as it says so, and what it shall run. That the
    /// systems themselves are others is no change of a package.
    pub fn changes<'a>(&self, hosts: impl IntoIterator<Item = (&'a HostName, Option<&'a str>, &'a str)>) -> Changes {
        let mut changes = Changes::default();
        // Many hosts change in the same way.
        let mut alike: FxHashMap<Difference, BTreeSet<HostName>> = FxHashMap::default();
        for (host, runs, shall_run) in hosts {
            let places = runs.and_then(|runs| self.place(runs)).zip(self.place(shall_run));
            let Some((runs_at, shall_run_at)) = places.filter(|_| runs != Some(shall_run)) else {
                let is_missing = self.place(shall_run).is_none();
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
            if self.booted(&before) != self.booted(&after) {
                changes.reboots.insert(host.clone());
            }
            alike.entry(self.difference(&before, &after)).or_default().insert(host.clone());
        }
        changes.packages = self.fold(&alike);
        changes
    }

    /// The packages of all differences, with the hosts on which they change in the same way.
    fn fold(&self, alike: &FxHashMap<Difference, BTreeSet<HostName>>) -> Vec<PackageChange> {
        let mut packages: BTreeMap<(&str, [BTreeSet<String>; 2]), BTreeSet<HostName>> = BTreeMap::new();
        for (difference, hosts) in alike {
            let mut versions: BTreeMap<&str, [BTreeSet<String>; 2]> = BTreeMap::new();
            for (package, is_new) in difference {
                let Some((name, version)) = self.packages.get(*package) else { continue };
                let [old, new] = versions.entry(name).or_default();
                if *is_new {
                    new.insert(version.clone())
                } else {
                    old.insert(version.clone())
                };
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

    fn place(&self, path: &str) -> Option<usize> {
        self.places.get(path).copied()
    }

    /// All that a system needs.
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

    /// What a system needs itself and takes a reboot.
    fn booted(&self, system: &Closure) -> BTreeSet<usize> {
        let parts = self.nodes.get(system.root).into_iter().flat_map(|root| root.references.iter().copied());
        let name = |part: &usize| self.packages.get(self.nodes.get(*part)?.package).map(|(name, _)| name);
        parts.filter(|part| name(part).is_some_and(|name| is_booted(name))).collect()
    }

    /// The packages of which one closure has a version that the other does not have.
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
