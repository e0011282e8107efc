//! Who answered the roll call, and who listens where.

use std::collections::BTreeSet;

use crate::places::{ByName, Places};
use crate::protocol::{HostName, HostReport, Role, Subject, Target, Tier};

/// The hosts that answered, by name and by the subjects that reach them.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    /// Every host once, by name.
    hosts: Vec<HostReport>,
    places: Places<HostName>,
    /// Names under which different machines answered.
    ambiguous: BTreeSet<HostName>,
    /// Who belongs to what a subject means.
    groups: ByName<Subject, Members>,
}

/// The places of hosts, and so by name. Most subjects mean one.
#[derive(Debug, Clone)]
struct Members {
    first: usize,
    others: Vec<usize>,
}

/// The subjects that mean a host, though maybe not it alone. It belongs to its tier and its role whether or not it listens
/// on their subjects, since it can be reached by its own.
pub(super) fn groups_of(host: &HostReport) -> impl Iterator<Item = Subject> {
    let tier = Target::All(host.tier);
    let role = host.role.clone().map(|role| Target::Role(host.tier, role));
    let listed = |group: &Target| host.deploy_subjects.iter().any(|subject| group.is_spelled(subject));
    let groups = role.into_iter().chain([tier]).filter(move |group| !listed(group)).map(|group| group.subject());
    groups.chain(host.deploy_subjects.iter().cloned())
}

impl Roster {
    /// Sorts the answers of a roll call. The same answer may come more than once; of several under one name the first counts.
    pub fn new(mut reports: Vec<HostReport>) -> Self {
        reports.sort_by_cached_key(|report| report.hostname.clone());
        let mut roster = Self::default();
        for (place, same_name) in reports.chunk_by(|one, next| one.hostname == next.hostname).enumerate() {
            for report in same_name {
                for subject in groups_of(report) {
                    roster.add_member(subject, place);
                }
            }
            if let [first, others @ ..] = same_name {
                roster.places.insert(first.hostname.clone(), place);
                let is_other = |other: &HostReport| (other.tier, &other.machine) != (first.tier, &first.machine);
                if others.iter().any(is_other) {
                    roster.ambiguous.insert(first.hostname.clone());
                }
            }
        }
        reports.dedup_by(|next, one| next.hostname == one.hostname);
        roster.hosts = reports;
        roster
    }

    fn add_member(&mut self, subject: Subject, place: usize) {
        match self.groups.get_mut(&subject) {
            Some(members) if members.last() != place => members.others.push(place),
            Some(_) => {}
            None => self.groups.insert(subject, Members { first: place, others: Vec::new() }),
        }
    }

    /// What a host said of itself, when it answered.
    pub fn host(&self, name: &HostName) -> Option<&HostReport> {
        self.places.place(name).and_then(|place| self.hosts.get(place))
    }

    /// Every host that answered, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &HostReport> {
        self.hosts.iter()
    }

    /// The roles of a tier's hosts.
    pub fn roles(&self, tier: Tier) -> BTreeSet<&Role> {
        let hosts = self.hosts().filter(|host| host.tier == tier);
        hosts.filter_map(|host| host.role.as_ref()).collect()
    }

    /// The hosts that answered and that a subject reaches, by name.
    pub fn members<'a>(&'a self, subject: &Subject) -> impl Iterator<Item = &'a HostReport> + use<'a> {
        let members = self.groups.get(subject).into_iter();
        let places = members.flat_map(|members| std::iter::once(&members.first).chain(&members.others));
        places.filter_map(|place| self.hosts.get(*place))
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
        let usual = Target::Host(host.tier, host.hostname.clone());
        if host.deploy_subjects.is_empty() {
            return Some(usual.subject());
        }
        let by_name = host.deploy_subjects.iter().filter(|subject| usual.is_spelled(subject));
        by_name.chain(&host.deploy_subjects).find(|subject| self.is_own(subject)).cloned()
    }

    fn is_own(&self, subject: &Subject) -> bool {
        let is_alone = self.groups.get(subject).is_some_and(|members| members.others.is_empty());
        is_alone && !matches!(subject.target(), Ok(Target::All(_) | Target::Role(..)))
    }
}

impl Members {
    fn last(&self) -> usize {
        self.others.last().copied().unwrap_or(self.first)
    }
}
