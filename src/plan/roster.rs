//! The hosts that answered the roll call, and the subjects that each listens on.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::protocol::{HostAnswer, HostName, HostReport, Role, Sender, Subject, Target, Tier};
use crate::text::nearest;

/// The hosts that answered, by tier and name and by the groups that they belong to.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    /// Every host once, by name.
    hosts: Vec<HostAnswer>,
    places: FxHashMap<Sender, usize>,
    /// Hosts under whose name different machines answered.
    ambiguous: BTreeSet<Sender>,
    /// Who belongs to what a subject means.
    groups: FxHashMap<Subject, Members>,
}

/// The places of hosts, and so by name. Most subjects mean one.
#[derive(Debug, Clone)]
struct Members {
    first: usize,
    others: Vec<usize>,
}

/// The subjects that mean a host, though maybe not it alone. It belongs to its tier and its role whether or not it listens
/// on their subjects, since it can be reached by its own.
pub fn groups_of(host: &HostReport) -> impl Iterator<Item = Subject> {
    let tier = Target::All(host.tier);
    let role = host.role.clone().map(|role| Target::Role(host.tier, role));
    let listed = |group: &Target| host.deploy_subjects.iter().any(|subject| group.is_spelled(subject));
    let groups = role.into_iter().chain([tier]).filter(move |group| !listed(group)).map(|group| group.subject());
    // What a host says of other hosts, roles and tiers than its own means nothing.
    let is_its_own = |subject: &&Subject| match subject.target() {
        Ok(Target::All(tier)) => tier == host.tier,
        Ok(Target::Role(tier, role)) => tier == host.tier && Some(&role) == host.role.as_ref(),
        Ok(Target::Host(tier, name)) => (tier, &name) == (host.tier, &host.hostname),
        Ok(Target::Custom(_)) => true,
        Err(_) => false,
    };
    groups.chain(host.deploy_subjects.iter().filter(is_its_own).cloned().collect::<Vec<_>>())
}

/// A subject as plans write it.
pub(super) fn short(subject: &Subject) -> &str {
    subject.as_str().strip_prefix("deploy.").unwrap_or(subject.as_str())
}

/// The known subject that somebody may have meant by a target of that kind which reaches nobody.
pub fn nearest_subject<'a>(target: &Target, known: impl Iterator<Item = &'a Subject> + Clone) -> Option<&'a Subject> {
    let is_of_kind = |subject: &&Subject| match (target, subject.target()) {
        (Target::Custom(_), _) | (Target::Host(..), Ok(Target::Host(..))) => true,
        (Target::Role(tier, _), Ok(Target::Role(other, _))) => *tier == other,
        _ => false,
    };
    let asked = target.subject();
    let known = known.filter(is_of_kind);
    let near = nearest(word(&asked, target), known.clone().map(|known| word(known, target)))?;
    let likeness = |subject: &Subject| strsim::jaro(asked.as_str(), subject.as_str());
    known.filter(|known| word(known, target) == near).max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// The part of a subject that may be spelled wrong: of a host or role its name, of a subject of nobody's any.
fn word<'a>(subject: &'a Subject, target: &Target) -> &'a str {
    match target {
        Target::Custom(_) => short(subject),
        _ => short(subject).rsplit('.').next().unwrap_or_default(),
    }
}

impl Roster {
    /// Sorts the answers of a roll call. The same answer may come more than once; of several of one host the first counts.
    pub fn new(mut answers: Vec<HostAnswer>) -> Self {
        answers.sort_by_cached_key(|answer| (answer.report.hostname.clone(), answer.report.tier));
        let mut roster = Self::default();
        let is_same = |one: &HostAnswer, other: &HostAnswer| one.report.sender() == other.report.sender();
        for (place, same_host) in answers.chunk_by(is_same).enumerate() {
            let [HostAnswer { report: first, .. }, others @ ..] = same_host else { continue };
            for subject in groups_of(first) {
                roster.add_member(subject, place);
            }
            roster.places.insert(first.sender(), place);
            if others.iter().any(|other| other.report.is_of_another_machine(first)) {
                roster.ambiguous.insert(first.sender());
            }
        }
        answers.dedup_by(|next, one| is_same(next, one));
        roster.hosts = answers;
        roster
    }

    fn add_member(&mut self, subject: Subject, place: usize) {
        match self.groups.get_mut(&subject) {
            Some(members) if members.last() != place => members.others.push(place),
            Some(_) => {}
            None => _ = self.groups.insert(subject, Members { first: place, others: Vec::new() }),
        }
    }

    /// What a host of this tier said of itself, when it answered.
    pub fn host(&self, tier: Tier, name: &HostName) -> Option<&HostReport> {
        self.answer(tier, name).map(|answer| &*answer.report)
    }

    /// The same, with whether it is proved that this host said it.
    pub fn answer(&self, tier: Tier, name: &HostName) -> Option<&HostAnswer> {
        let place = *self.places.get(&Sender { tier, host: name.clone() })?;
        self.hosts.get(place)
    }

    /// Whether a host of this name answered, in whatever tier.
    pub fn knows(&self, name: &HostName) -> bool {
        Tier::ALL.iter().any(|tier| self.host(*tier, name).is_some())
    }

    pub fn hosts(&self) -> impl Iterator<Item = &HostReport> {
        self.hosts.iter().map(|answer| &*answer.report)
    }

    pub fn roles(&self, tier: Tier) -> BTreeSet<&Role> {
        let hosts = self.hosts().filter(|host| host.tier == tier);
        hosts.filter_map(|host| host.role.as_ref()).collect()
    }

    /// The hosts that answered and that a subject reaches, by name.
    pub fn members<'a>(&'a self, subject: &Subject) -> impl Iterator<Item = &'a HostReport> + use<'a> {
        let members = self.groups.get(subject).into_iter();
        let places = members.flat_map(|members| std::iter::once(&members.first).chain(&members.others));
        places.filter_map(|place| self.hosts.get(*place)).map(|answer| &*answer.report)
    }

    /// The subjects of all who answered: of each host alone, and of its groups.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> + Clone {
        self.groups.keys()
    }

    pub fn is_ambiguous(&self, tier: Tier, name: &HostName) -> bool {
        self.ambiguous.contains(&Sender { tier, host: name.clone() })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// By the subject of its name, on which no other host listens.
    Own,
    /// By this subject, which the plan or command line spells and on which others may listen too.
    Spelled(Subject),
    /// Not at all, as far as it says.
    Nowhere,
}

impl Address {
    /// How to reach a host that a target selects.
    ///
    /// The subjects that a host lists tell whether it listens on the one of its name, and no more: any other of them may be
    /// one of somebody else. So one is used only where the operator wrote that very subject. A host that does not say
    /// where it listens is taken to follow the rule.
    pub(super) fn of(host: &HostReport, target: &Target) -> Self {
        let usual = Target::Host(host.tier, host.hostname.clone());
        let subjects = &host.deploy_subjects;
        if subjects.is_empty() || subjects.iter().any(|subject| usual.is_spelled(subject)) {
            return Self::Own;
        }
        match target {
            Target::Custom(subject) if subjects.contains(subject) => Self::Spelled(subject.clone()),
            _ => Self::Nowhere,
        }
    }
}

impl Members {
    fn last(&self) -> usize {
        self.others.last().copied().unwrap_or(self.first)
    }
}
