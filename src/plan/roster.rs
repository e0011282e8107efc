//! The hosts that answered the roll call, and their subjects.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::protocol::{HostAnswer, HostName, HostReport, Role, Sender, Subject, Target, Tier};
use crate::text::nearest;

/// The hosts that answered, indexed by tier and name, and by group.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    /// Sorted by name, without duplicates.
    hosts: Vec<HostAnswer>,
    indices: FxHashMap<Sender, usize>,
    /// Hosts whose name several machines have.
    ambiguous: BTreeSet<Sender>,
    /// The indices of each subject's hosts, sorted.
    groups: FxHashMap<Subject, Vec<usize>>,
}

/// Returns the subjects that select a host, alone or with others. It belongs to its tier and role even if it does not
/// listen on their subjects, since its own subject reaches it.
pub fn groups_of(host: &HostReport) -> impl Iterator<Item = Subject> {
    let tier = Target::All(host.tier);
    let role = host.role.clone().map(|role| Target::Role(host.tier, role));
    let listed = |group: &Target| host.deploy_subjects.iter().any(|subject| group.has_subject(subject));
    let groups = role.into_iter().chain([tier]).filter(move |group| !listed(group)).map(|group| group.subject());
    // Ignores subjects of other hosts, roles and tiers, which a host must not claim.
    let is_its_own = |subject: &&Subject| match subject.target() {
        Ok(Target::All(tier)) => tier == host.tier,
        Ok(Target::Role(tier, role)) => tier == host.tier && Some(&role) == host.role.as_ref(),
        Ok(Target::Host(tier, name)) => (tier, &name) == (host.tier, &host.hostname),
        Ok(Target::Custom(_)) => true,
        Err(_) => false,
    };
    groups.chain(host.deploy_subjects.iter().filter(is_its_own).cloned().collect::<Vec<_>>())
}

/// Returns the short form of a subject, as plans write it.
pub(super) fn short(subject: &Subject) -> &str {
    subject.as_str().strip_prefix("deploy.").unwrap_or(subject.as_str())
}

/// Returns the known subject most similar to a target that matches no host.
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

/// Returns the part of a subject that may be misspelt: the name of a host or role, or all of a custom subject.
fn word<'a>(subject: &'a Subject, target: &Target) -> &'a str {
    match target {
        Target::Custom(_) => short(subject),
        _ => short(subject).rsplit('.').next().unwrap_or_default(),
    }
}

impl Roster {
    /// Indexes the answers of a roll call. If a host answered several times, the first answer counts.
    pub fn new(mut answers: Vec<HostAnswer>) -> Self {
        answers.sort_by_cached_key(|answer| (answer.report.hostname.clone(), answer.report.tier));
        let mut roster = Self::default();
        let is_same = |one: &HostAnswer, other: &HostAnswer| one.report.sender() == other.report.sender();
        for (index, same_host) in answers.chunk_by(is_same).enumerate() {
            let [HostAnswer { report: first, .. }, others @ ..] = same_host else { continue };
            for subject in groups_of(first) {
                let members = roster.groups.entry(subject).or_default();
                if members.last() != Some(&index) {
                    members.push(index);
                }
            }
            roster.indices.insert(first.sender(), index);
            if others.iter().any(|other| other.report.is_of_another_machine(first)) {
                roster.ambiguous.insert(first.sender());
            }
        }
        answers.dedup_by(|next, one| is_same(next, one));
        roster.hosts = answers;
        roster
    }

    pub fn host(&self, tier: Tier, name: &HostName) -> Option<&HostReport> {
        self.answer(tier, name).map(|answer| &*answer.report)
    }

    /// Returns the answer of a host: its report, and whether its sender is proved.
    pub fn answer(&self, tier: Tier, name: &HostName) -> Option<&HostAnswer> {
        let index = *self.indices.get(&Sender { tier, host: name.clone() })?;
        self.hosts.get(index)
    }

    /// Whether a host of this name answered in any tier.
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

    /// Returns the hosts that a subject selects, sorted by name.
    pub fn members<'a>(&'a self, subject: &Subject) -> impl Iterator<Item = &'a HostReport> + use<'a> {
        let indices = self.groups.get(subject).into_iter().flatten();
        indices.filter_map(|index| self.hosts.get(*index)).map(|answer| &*answer.report)
    }

    pub fn subjects(&self) -> impl Iterator<Item = &Subject> + Clone {
        self.groups.keys()
    }

    pub fn is_ambiguous(&self, tier: Tier, name: &HostName) -> bool {
        self.ambiguous.contains(&Sender { tier, host: name.clone() })
    }
}

/// Whether a host listens on the subject of its name, as one that lists no subjects is expected to. The subjects that it
/// lists show no more than that: the others may be another host's.
pub(super) fn has_own_subject(host: &HostReport) -> bool {
    let own = Target::Host(host.tier, host.hostname.clone());
    host.deploy_subjects.is_empty() || host.deploy_subjects.iter().any(|subject| own.has_subject(subject))
}
