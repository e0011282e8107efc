//! Who answered the roll call, and who listens where.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::protocol::{HostName, HostReport, Role, Subject, Target, Tier};

/// The hosts that answered, by name and by the subjects that reach them.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    hosts: BTreeMap<HostName, HostReport>,
    /// Names under which different machines answered.
    ambiguous: BTreeSet<HostName>,
    /// Who belongs to what a subject means, ordered by name.
    groups: BTreeMap<Subject, Vec<HostName>>,
}

/// The subjects that mean a host, though maybe not it alone. It belongs to its tier and its role whether or not it listens
/// on their subjects, since it can be reached by its own.
pub(super) fn groups_of(host: &HostReport) -> impl Iterator<Item = Subject> {
    let tier = Target::All(host.tier);
    let role = host.role.clone().map(|role| Target::Role(host.tier, role));
    let groups = role.into_iter().chain([tier]).map(|group| group.subject());
    groups.chain(host.deploy_subjects.iter().cloned())
}

impl Roster {
    /// Sorts the answers of a roll call. The same answer may come more than once.
    pub fn new(reports: Vec<HostReport>) -> Self {
        let mut roster = Self::default();
        for report in reports {
            let name = report.hostname.clone();
            for subject in groups_of(&report) {
                roster.groups.entry(subject).or_default().push(name.clone());
            }

            match roster.hosts.entry(name) {
                Entry::Vacant(free) => {
                    free.insert(report);
                }
                Entry::Occupied(known) => {
                    let first = known.get();
                    if (first.tier, &first.machine) != (report.tier, &report.machine) {
                        roster.ambiguous.insert(report.hostname);
                    }
                }
            }
        }
        for members in roster.groups.values_mut() {
            members.sort_unstable();
            members.dedup();
        }
        roster
    }

    /// What a host said of itself, when it answered.
    pub fn host(&self, name: &HostName) -> Option<&HostReport> {
        self.hosts.get(name)
    }

    /// Every host that answered, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &HostReport> {
        self.hosts.values()
    }

    /// The roles of a tier's hosts.
    pub fn roles(&self, tier: Tier) -> BTreeSet<&Role> {
        let hosts = self.hosts().filter(|host| host.tier == tier);
        hosts.filter_map(|host| host.role.as_ref()).collect()
    }

    /// The hosts that answered and that a subject reaches, by name.
    pub fn members(&self, subject: &Subject) -> &[HostName] {
        self.groups.get(subject).map_or(&[], Vec::as_slice)
    }

    /// Whether different machines answered under this name.
    pub fn is_ambiguous(&self, name: &HostName) -> bool {
        self.ambiguous.contains(name)
    }

    /// The subject that reaches this host and no other one that answered: the one of its name, if it listens there,
    /// or one of its others. `None` when there is none.
    ///
    /// The subjects of a tier or a role are never a host's own, even where only one host answered: others of the group
    /// may be back when the request is sent. A host that does not say where it listens is taken to follow the rule.
    pub fn own_subject(&self, host: &HostReport) -> Option<Subject> {
        let usual = Target::Host(host.tier, host.hostname.clone()).subject();
        if host.deploy_subjects.is_empty() {
            return Some(usual);
        }
        let by_name = host.deploy_subjects.iter().filter(|subject| **subject == usual);
        by_name.chain(&host.deploy_subjects).find(|subject| self.is_own(subject)).cloned()
    }

    fn is_own(&self, subject: &Subject) -> bool {
        let is_group = || matches!(subject.target(), Ok(Target::All(_) | Target::Role(..)));
        self.members(subject).len() == 1 && !is_group()
    }
}
