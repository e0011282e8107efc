//! What a rollout changes: the packages of what hosts run and of what they shall run, compared as `nix store diff-closures` compares
//! them, and folded over the fleet.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::protocol::HostName;

/// What is known of a store path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorePath {
    /// The paths that it needs, which may name itself.
    pub references: Vec<String>,
    /// How much there is to fetch for it alone, in bytes.
    pub size: u64,
}

/// Store paths with all that they need, as a cache tells of them.
#[derive(Debug, Default)]
pub struct Closures {
    places: HashMap<String, usize>,
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

/// What goes and what comes of one package on one host.
type Versions<'a> = (BTreeSet<&'a str>, BTreeSet<&'a str>);

/// A store path with all that it needs.
struct Closure {
    root: usize,
    paths: Vec<usize>,
    /// By the places of all paths, whether it is one of them.
    has: Vec<bool>,
    /// The same for packages.
    has_package: Vec<bool>,
}

impl FromIterator<(String, StorePath)> for Closures {
    fn from_iter<T: IntoIterator<Item = (String, StorePath)>>(paths: T) -> Self {
        let paths: Vec<(String, StorePath)> = paths.into_iter().collect();
        let (mut closures, mut packages) = (Self::default(), HashMap::<(String, String), usize>::new());
        for (place, (path, _)) in paths.iter().enumerate() {
            closures.places.insert(path.clone(), place);
        }
        for (path, StorePath { references, size }) in paths {
            let references = references.iter().filter_map(|path| closures.places.get(path.as_str()).copied()).collect();
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
    /// What changes on hosts, each of which is given with what it runs, as far as it says so, and what it shall run.
    pub fn changes<'a>(&self, hosts: impl IntoIterator<Item = (&'a HostName, Option<&'a str>, &'a str)>) -> Changes {
        let mut changes = Changes::default();
        let mut packages: BTreeMap<(&str, Versions<'_>), BTreeSet<HostName>> = BTreeMap::new();
        for (host, runs, shall_run) in hosts {
            let before = runs.and_then(|runs| self.places.get(runs).copied());
            let (before, after) = match (before, self.places.get(shall_run).copied()) {
                _ if runs == Some(shall_run) => {
                    changes.unchanged.insert(host.clone());
                    continue;
                }
                (_, None) => {
                    changes.missing.insert(host.clone());
                    continue;
                }
                (None, Some(_)) => {
                    changes.unknown.insert(host.clone());
                    continue;
                }
                (Some(before), Some(after)) => (self.closure(before), self.closure(after)),
            };
            let to_fetch = after.without(&before).filter_map(|path| self.nodes.get(path)).map(|node| node.size).sum();
            changes.to_fetch += to_fetch;
            changes.to_fetch_most = changes.to_fetch_most.max(to_fetch);
            if self.booted(&before) != self.booted(&after) {
                changes.reboots.insert(host.clone());
            }
            for package in self.between(&before, &after) {
                packages.entry(package).or_default().insert(host.clone());
            }
        }
        let owned = |versions: BTreeSet<&str>| versions.into_iter().map(str::to_owned).collect();
        let package = |((name, (before, after)), hosts): ((&str, Versions<'_>), _)| PackageChange {
            name: name.to_owned(),
            before: owned(before),
            after: owned(after),
            hosts,
        };
        changes.packages = packages.into_iter().map(package).collect();
        changes
    }

    fn closure(&self, root: usize) -> Closure {
        let (mut has, mut has_package) = (vec![false; self.nodes.len()], vec![false; self.packages.len()]);
        let (mut paths, mut left) = (Vec::new(), vec![root]);
        while let Some(path) = left.pop() {
            let Some((node, seen)) = self.nodes.get(path).zip(has.get_mut(path)) else { continue };
            if std::mem::replace(seen, true) {
                continue;
            }
            paths.push(path);
            has_package.get_mut(node.package).map(|has| *has = true);
            left.extend_from_slice(&node.references);
        }
        Closure { root, paths, has, has_package }
    }

    /// What a system needs itself and takes a reboot.
    fn booted(&self, system: &Closure) -> BTreeSet<usize> {
        let parts = self.nodes.get(system.root).into_iter().flat_map(|root| root.references.iter().copied());
        parts.filter(|part| self.package_of(*part).is_some_and(|(name, _)| is_booted(name))).collect()
    }

    /// The packages of which one closure has versions that the other does not have.
    fn between(&self, before: &Closure, after: &Closure) -> BTreeMap<&str, Versions<'_>> {
        let mut packages: BTreeMap<&str, Versions<'_>> = BTreeMap::new();
        for (one, other, is_new) in [(before, after, false), (after, before, true)] {
            for path in one.without(other).filter(|path| !other.has_package_of(self, *path)) {
                let Some((name, version)) = self.package_of(path) else { continue };
                let (old, new) = packages.entry(name).or_default();
                if is_new {
                    new.insert(version)
                } else {
                    old.insert(version)
                };
            }
        }
        packages
    }

    fn package_of(&self, path: usize) -> Option<(&str, &str)> {
        let (name, version) = self.packages.get(self.nodes.get(path)?.package)?;
        Some((name, version))
    }
}

impl Closure {
    /// The paths of this one that the other does not have.
    fn without(&self, other: &Self) -> impl Iterator<Item = usize> {
        self.paths.iter().copied().filter(|path| other.has.get(*path) == Some(&false))
    }

    /// Whether there is the same version of the package that is at a path.
    fn has_package_of(&self, closures: &Closures, path: usize) -> bool {
        closures.nodes.get(path).and_then(|node| self.has_package.get(node.package)) == Some(&true)
    }
}
