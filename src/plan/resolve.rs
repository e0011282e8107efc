//! Resolves a plan and a roster to waves with a fixed set of hosts.
//!
//! A named host is in the plan even if it did not answer; a group has only the hosts that answered. A host belongs to
//! the first wave that matches it, and is deployed once.

use std::collections::BTreeSet;

use miette::MietteDiagnostic;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::protocol::{Action, Feature, HostName, HostReport, Role, Target, Tier};
use crate::text::nearest;

use super::diagnostic::{Place, PlanErrors, list, warning};
use super::resolved::{Check, Groups, Limits, ResolvedHost, ResolvedPlan, ResolvedWave};
use super::roster::{Roster, has_own_subject, nearest_subject, short};
use super::{CONFIRM_TIMEOUT, Plan, Rollback, Selector, Settings, Spanned, Wave};

/// The state of resolving a plan: the hosts in waves so far, and the diagnostics.
struct Resolver<'a> {
    plan: &'a Plan,
    roster: &'a Roster,
    taken: FxHashMap<HostName, Taken<'a>>,
    mistakes: Vec<MietteDiagnostic>,
    warnings: Vec<MietteDiagnostic>,
}

#[derive(Clone, Copy)]
struct Taken<'a> {
    tier: Tier,
    wave: &'a Wave,
    selector: &'a Spanned<Selector>,
}

impl Plan {
    /// Settles the wave and the subject of each host. Returns warnings too.
    pub fn resolve(&self, roster: &Roster) -> Result<(ResolvedPlan, Vec<MietteDiagnostic>), PlanErrors> {
        let mut resolver =
            Resolver { plan: self, roster, taken: FxHashMap::default(), mistakes: Vec::new(), warnings: Vec::new() };
        let waves: Vec<ResolvedWave> = self.waves.iter().map(|wave| resolver.resolve_wave(wave)).collect();
        PlanErrors::unless_none(resolver.mistakes)?;
        Ok((ResolvedPlan { name: self.name.clone(), waves, ..ResolvedPlan::default() }, resolver.warnings))
    }

    /// Returns warnings about settings that the author may not have meant.
    pub fn advice(&self, resolved: &ResolvedPlan) -> Vec<MietteDiagnostic> {
        let waves = self.waves.iter().zip(&resolved.waves);
        let tolerant = waves.filter_map(|(wave, resolved)| tolerates_all_failures(wave, resolved));
        prod_first(&self.waves, &resolved.waves).into_iter().chain(tolerant).collect()
    }
}

impl<'a> Resolver<'a> {
    fn resolve_wave(&mut self, wave: &'a Wave) -> ResolvedWave {
        let excluded: BTreeSet<_> = wave.exclude.iter().flat_map(|selector| matched(self.roster, selector)).collect();
        let useless: Vec<_> =
            wave.exclude.iter().filter_map(|selector| self.excludes_nobody(selector, &excluded)).collect();
        self.warnings.extend(useless);
        let before = self.mistakes.len();
        let mut hosts = Vec::new();
        let mut unmatched = Vec::new();
        for selector in &wave.targets {
            let mut has_matched = false;
            for (tier, name) in matched(self.roster, selector) {
                has_matched = true;
                if !excluded.contains(&(tier, name)) && self.take(name, Taken { tier, wave, selector }) {
                    hosts.extend(self.resolve_host(name.clone(), tier, selector));
                }
            }
            if !has_matched {
                unmatched.push(selector);
            }
        }
        self.check_together(wave, &mut hosts);
        // A host that could not be taken already has an error, which explains a smaller wave.
        if self.mistakes.len() == before {
            self.check_size(wave, hosts.len(), &unmatched);
        }
        hosts.shrink_to_fit();
        let limits = wave.settings.limits(hosts.len());
        if limits.rollback != Rollback::None {
            self.mistakes.extend(cannot_roll_back(wave, &hosts));
        }
        ResolvedWave {
            name: wave.name.value.clone(),
            action: wave.settings.action,
            limits,
            hosts,
            groups: groups(wave),
        }
    }

    /// Takes a host for a wave and returns whether it was free. It is a mistake to name a host of an earlier wave, and
    /// to select hosts of the same name in both tiers: one of them would be left out unnoticed.
    fn take(&mut self, name: &HostName, new: Taken<'a>) -> bool {
        let Some(&old) = self.taken.get(name) else {
            self.taken.insert(name.clone(), new);
            return true;
        };
        if new.tier != old.tier || (is_named(new.selector) && new.wave.name != old.wave.name) {
            self.mistakes.push(taken_twice(name, &old, &new));
        }
        false
    }

    /// Resolves a host and its subject. Returns `None` if no subject reaches it, which is recorded as a mistake.
    fn resolve_host(&mut self, hostname: HostName, tier: Tier, selector: &Spanned<Selector>) -> Option<ResolvedHost> {
        let report = self.roster.host(tier, &hostname);
        let shared_subject = match (report, &selector.value.target) {
            (None, _) => {
                let is_named = |near: &HostName| self.plan.names_host(near);
                let warning = self.other_tier(&hostname, tier, selector);
                self.warnings.extend(warning.or_else(|| self.misspelt(&hostname, tier, selector, is_named)));
                None
            }
            (Some(report), _) if has_own_subject(report) => None,
            // Another subject is used only if the operator wrote exactly it.
            (Some(_), Target::Custom(subject)) => Some(subject.clone()),
            (Some(_), _) => {
                self.mistakes.push(not_by_name(&hostname, tier, selector));
                return None;
            }
        };
        if self.roster.is_ambiguous(tier, &hostname) {
            self.mistakes.push(two_machines(&hostname, selector));
        }
        let has = |feature| report.is_some_and(|report| report.has(feature));
        Some(ResolvedHost {
            hostname,
            tier,
            shared_subject,
            present: report.is_some(),
            supports_ids: has(&Feature::Id),
            supports_rollback: has(&Feature::Rollback),
            supports_system: has(&Feature::System),
            supports_log: has(&Feature::Log),
            is_current: false,
            revision: report.and_then(|report| report.revision.clone()),
            system: None,
        })
    }

    /// Warns of a silent host if one of the same name answers in the other tier. The other's report is not used.
    fn other_tier(&self, name: &HostName, tier: Tier, selector: &Spanned<Selector>) -> Option<MietteDiagnostic> {
        let other = Tier::ALL.into_iter().find(|other| *other != tier && self.roster.host(*other, name).is_some())?;
        let warning =
            warning(format!("the host `{name}` did not answer, and one of that name did as a host of {other}"));
        let help = format!("write {other}.{name} if that is the one, or correct the --tier of its listener");
        Some(warning.at(&selector.span, "named here").with_help(help))
    }

    /// Warns of a silent host if another answers that has a similar name and is not `is_spoken_of`. Names that differ
    /// only in digits are not similar. Hosts outside the file were remembered, or checked when they were typed.
    fn misspelt(
        &self,
        name: &HostName,
        tier: Tier,
        selector: &Spanned<Selector>,
        is_spoken_of: impl Fn(&HostName) -> bool,
    ) -> Option<MietteDiagnostic> {
        if selector.span.is_empty() {
            return None;
        }
        let letters = |name: &str| name.replace(|c: char| c.is_ascii_digit(), "");
        let others = self.roster.hosts().filter(|host| host.tier == tier);
        let others = others.map(|host| host.hostname.as_str()).filter(|other| letters(other) != letters(name.as_str()));
        let near = nearest(name.as_str(), others).filter(|near| near.parse().is_ok_and(|near| !is_spoken_of(&near)))?;
        let warning = warning(format!("the host `{name}` did not answer: did you mean {tier}.{near}?"));
        Some(warning.at(&selector.span, "named here"))
    }

    /// Warns of an exclusion without effect, if it resembles a host that is deployed or a known group.
    fn excludes_nobody(
        &self,
        selector: &Spanned<Selector>,
        excluded: &BTreeSet<(Tier, &HostName)>,
    ) -> Option<MietteDiagnostic> {
        match &selector.value.target {
            Target::Host(tier, name) if self.roster.host(*tier, name).is_some() => None,
            // The command line excludes a host in every tier.
            Target::Host(tier, name) if !selector.span.is_empty() && self.roster.knows(name) => {
                self.other_tier(name, *tier, selector)
            }
            Target::Host(tier, name) => self.misspelt(name, *tier, selector, |near| excluded.contains(&(*tier, near))),
            group if self.roster.members(&group.subject()).next().is_some() => None,
            group => {
                let near = short(nearest_subject(group, self.roster.subjects())?);
                let what = format!("`{}` excludes no host: did you mean {near}?", selector.value.text);
                Some(warning(what).at(&selector.span, "nobody"))
            }
        }
    }

    /// Sorts hosts with a shared subject last. They receive one request, so they run at once and cannot roll back; and
    /// every host that listens there runs it, in whatever wave it is.
    fn check_together(&mut self, wave: &Wave, hosts: &mut [ResolvedHost]) {
        hosts.sort_by(|one, other| one.shared_subject.cmp(&other.shared_subject));
        for together in hosts.chunk_by(|one, other| one.shared_subject == other.shared_subject) {
            let [ResolvedHost { shared_subject: Some(subject), .. }, ..] = together else { continue };
            let names = list(together.iter().map(|host| host.hostname.as_str())).unwrap_or_default();
            let meant: FxHashSet<_> = together.iter().map(|host| (host.tier, &host.hostname)).collect();
            let others = self.roster.members(subject).filter(|host| !meant.contains(&(host.tier, &host.hostname)));
            let what = if let Some(others) = list(others.map(|host| host.hostname.as_str())) {
                format!("{names}: reached by {subject} only, where {others} would run the same request")
            } else if together.len() > wave.settings.max_parallel.of(hosts.len()) {
                format!("{names}: reached by {subject} only, so no fewer than {} at once", together.len())
            } else if wave.settings.rollback() != Rollback::None {
                format!("{names}: reached by {subject} only, so none can be confirmed by itself and roll back")
            } else {
                continue;
            };
            let help =
                "let each listener listen on a subject of its own as well: --deploy-subject deploy.<tier>.<hostname>";
            self.mistakes.push(with_targets(MietteDiagnostic::new(what), wave, "reached together").with_help(help));
        }
    }

    /// Checks the size of a wave, and reports the targets that are `unmatched`.
    fn check_size(&mut self, wave: &Wave, found: usize, unmatched: &[&Spanned<Selector>]) {
        let wanted = wave.settings.min_hosts;
        let name = &wave.name.value;
        if found >= wanted {
            // A wave that may be empty expects no host.
            for selector in unmatched.iter().filter(|_| wanted > 0) {
                let warning = warning(format!("`{}` matches no host", selector.value.text));
                let help = self.help_for_unmatched(&selector.value.target);
                self.warnings.push(warning.at(&selector.span, "nobody").with_help(help));
            }
            return;
        }
        let mistake = if found > 0 {
            MietteDiagnostic::new(format!("wave `{name}` matches {found} of the {wanted} hosts that it wants"))
                .with_help("see `homelab-deploy hosts` for the hosts that answer, or lower `min_hosts`")
        } else if unmatched.len() == wave.targets.len() {
            let there: BTreeSet<_> =
                unmatched.iter().map(|selector| self.help_for_unmatched(&selector.value.target)).collect();
            let there: Vec<_> = there.into_iter().collect();
            MietteDiagnostic::new(format!("wave `{name}` matches no host"))
                .with_help(format!("{}; min_hosts = 0 lets a wave be empty", there.join("; ")))
        } else {
            MietteDiagnostic::new(format!("wave `{name}` has no host left"))
                .with_help("all that it matches are in earlier waves or excluded: remove it, or exclude them earlier")
        };
        self.mistakes.push(with_targets(mistake, wave, "too few"));
    }

    /// Returns help for a group without hosts: what would have matched instead.
    fn help_for_unmatched(&self, group: &Target) -> String {
        let those = |host: &&HostReport| group.tier().is_none_or(|tier| host.tier == tier);
        let Some(hosts) = list(self.roster.hosts().filter(those).map(|host| host.hostname.as_str())) else {
            let kind = group.tier().map(|tier| format!("{tier} ")).unwrap_or_default();
            return format!("no {kind}host answered: see that a listener runs");
        };
        let roles = group.tier().and_then(|tier| list(self.roster.roles(tier).into_iter().map(Role::as_str)));
        let there = match (group, roles) {
            (Target::Role(tier, _), Some(roles)) => format!("the roles that {tier} hosts answered with are {roles}"),
            (Target::Role(tier, _), None) => format!("no {tier} host has a role; those that answered are {hosts}"),
            _ => format!(
                "no host listens on this subject, and short forms begin with test or prod; those that answered are {hosts}"
            ),
        };
        let near = nearest_subject(group, self.roster.subjects()).map(|near| format!("did you mean {}? ", short(near)));
        near.unwrap_or_default() + &there
    }
}

/// Returns the hosts that a selector matches, sorted by name.
fn matched<'a>(roster: &'a Roster, selector: &'a Spanned<Selector>) -> impl Iterator<Item = (Tier, &'a HostName)> {
    let (named, group) = match &selector.value.target {
        Target::Host(tier, name) => (Some((*tier, name)), None),
        group => (None, Some(roster.members(&group.subject()).map(|host| (host.tier, &host.hostname)))),
    };
    named.into_iter().chain(group.into_iter().flatten())
}

fn groups(wave: &Wave) -> Groups {
    let subject = |selector: &Spanned<Selector>| selector.value.target.subject();
    let targets = wave.targets.iter().filter(|selector| !is_named(selector)).map(subject).collect();
    Groups { targets, exclude: wave.exclude.iter().map(subject).collect() }
}

fn is_named(selector: &Spanned<Selector>) -> bool {
    matches!(selector.value.target, Target::Host(..))
}

fn taken_twice(name: &HostName, old: &Taken<'_>, new: &Taken<'_>) -> MietteDiagnostic {
    let (first, second) = (&old.wave.name.value, &new.wave.name.value);
    let mistake = if old.tier != new.tier {
        MietteDiagnostic::new(format!("the host `{name}` is in both tiers"))
            .with_help("a host name stands for one machine: rename one of the two, or remove the wrong one")
    } else if is_named(old.selector) {
        MietteDiagnostic::new(format!("the host `{name}` is named in two waves"))
            .with_help(format!("a host is deployed once: remove it from `{first}` or `{second}`"))
    } else {
        let group = &old.selector.value.text;
        MietteDiagnostic::new(format!("the host `{name}` is in wave `{first}` already, as one of `{group}`")).with_help(
            format!(
                "a host is deployed once: give `{first}` the line exclude = \"{}\", or remove it from `{second}`",
                new.selector.value.text
            ),
        )
    };
    mistake.at(&new.selector.span, "named here").at(&old.selector.span, "taken here")
}

fn two_machines(name: &HostName, selector: &Spanned<Selector>) -> MietteDiagnostic {
    MietteDiagnostic::new(format!("two machines answer to the name `{name}`"))
        .at(&selector.span, "matched here")
        .with_help("a cloned machine keeps the name of the first: stop one listener, or give it another --hostname")
}

fn not_by_name(name: &HostName, tier: Tier, selector: &Spanned<Selector>) -> MietteDiagnostic {
    let own = Target::Host(tier, name.clone()).subject();
    MietteDiagnostic::new(format!("the host `{name}` does not listen on the subject of its name"))
        .at(&selector.span, "matched here")
        .with_help(format!("let its listener listen on a subject of its own as well: --deploy-subject {own}"))
}

/// Refuses a rollback if listeners are too old: they would deploy and never roll back. Ignores hosts that did not
/// answer: they receive no request.
fn cannot_roll_back(wave: &Wave, hosts: &[ResolvedHost]) -> Option<MietteDiagnostic> {
    let old = hosts.iter().filter(|host| host.present && !host.supports_rollback);
    let old = list(old.map(|host| host.hostname.as_str()))?;
    let name = &wave.name.value;
    let mistake = MietteDiagnostic::new(format!("wave `{name}` rolls back, which the listeners of {old} cannot"));
    let mistake = match &wave.settings.rollback {
        Some(rollback) => mistake.at(&rollback.span, "asked for here"),
        None => mistake,
    };
    Some(with_targets(mistake, wave, "too old").with_help(
        "update them first, in a wave or deployment without a rollback; or write rollback = \"none\" in this wave",
    ))
}

fn prod_first(waves: &[Wave], resolved: &[ResolvedWave]) -> Option<MietteDiagnostic> {
    let has = |tier: Tier| move |wave: &ResolvedWave| wave.hosts.iter().any(|host| host.tier == tier);
    let first = resolved.iter().position(has(Tier::Prod))?;
    if resolved.iter().take(first).any(has(Tier::Test)) {
        return None;
    }
    let wave = waves.get(first)?;
    let warning = warning(format!("wave `{}` deploys prod hosts before any test host", wave.name.value));
    Some(
        with_targets(warning, wave, "prod")
            .with_help("let a wave of test hosts go first, such as targets = \"test.all\""),
    )
}

fn tolerates_all_failures(wave: &Wave, resolved: &ResolvedWave) -> Option<MietteDiagnostic> {
    let (hosts, failures) = (resolved.hosts.len(), resolved.limits.max_failures);
    if hosts == 0 || failures < hosts {
        return None;
    }
    let name = &wave.name.value;
    let warning = warning(format!("wave `{name}` may fail on every one of its hosts: {failures} may, of {hosts}"));
    Some(with_targets(warning, wave, "its hosts").with_help("a smaller `max_failures` stops at a bad revision"))
}

fn with_targets(finding: MietteDiagnostic, wave: &Wave, label: &str) -> MietteDiagnostic {
    wave.targets.iter().fold(finding, |finding, selector| finding.at(&selector.span, label))
}

impl Settings {
    /// Returns the limits for a wave with this number of hosts.
    pub(super) fn limits(&self, hosts: usize) -> Limits {
        let check = |command: &Vec<String>| Check { command: command.clone(), timeout: self.check_timeout };
        Limits {
            max_parallel: self.max_parallel.of(hosts),
            max_failures: self.max_failures,
            min_hosts: self.min_hosts,
            ignore_unreachable: self.ignore_unreachable,
            accept_timeout: self.accept_timeout.value,
            timeout: self.timeout.value,
            bake_time: self.bake_time,
            check: self.check.as_ref().map(check),
            confirm: self.confirm,
            retries: self.retries,
            retry_delay: self.retry_delay,
            rollback: self.rollback(),
            confirm_timeout: self.confirm_timeout.unwrap_or(CONFIRM_TIMEOUT),
        }
    }

    /// Returns the rollback policy: `Rollback::None` for actions that change nothing on a host.
    fn rollback(&self) -> Rollback {
        match (self.action, &self.rollback) {
            (Action::DryActivate | Action::Fetch, _) | (_, None) => Rollback::None,
            (Action::Switch | Action::Boot | Action::Test, Some(rollback)) => rollback.value,
        }
    }
}
