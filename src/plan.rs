//! Plans: what a person writes, and the waves of hosts that it resolves to.
//!
//! Pure: reading the file and the roll call happen elsewhere; here is what the text means. In reading order:
//!
//! - `schema`: every key of a plan; `settings`: what most of them say;
//! - `parse`: TOML to a [`Plan`], with every mistake of the file at its place; `value`: what each kind of key takes;
//! - `target`: the words that select hosts;
//! - `roster`: who answered the roll call;
//! - `resolve`: a plan and a roster to a [`ResolvedPlan`];
//! - `systems`: which host gets which of the systems that were built before, and `changes` what that changes.

mod changes;
mod diagnostic;
mod parse;
mod resolve;
mod resolved;
mod roster;
mod schema;
mod settings;
mod systems;
mod target;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use miette::Diagnostic;
use serde::Deserialize;

pub use self::changes::{Changes, Closures, PackageChange, StorePath};
pub use self::diagnostic::{PlanDiagnostic, PlanErrors};
pub use self::resolved::{Check, Groups, Limits, ResolvedHost, ResolvedPlan, ResolvedWave};
pub use self::roster::{Roster, groups_of, nearest_subject};
pub use self::schema::schema;
pub use self::settings::{
    BadConfirmTimeout, CONFIRM_TIMEOUT, Hook, Hooks, Parallel, Rollback, Settings, parse_confirm_timeout,
};
pub use self::systems::{Systems, runs};
pub use self::target::{Aliases, Selector};

use crate::protocol::{FlakeUrl, HostName, Revision, Sender, Target, Tier};

/// What a plan file says, with `[defaults]` worked into its waves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the rollout is called: lower-case letters, digits and hyphens.
    pub name: String,
    /// What to deploy, unless the command line says so.
    pub revision: Option<Revision>,
    /// Where to look the revision up, instead of the flake that the hosts name.
    pub flake: Option<FlakeUrl>,
    /// The file with the systems of its hosts, from where the plan is; without one each host builds its own.
    pub systems: Option<String>,
    /// Whether the hosts of all waves fetch their systems before any of them is changed.
    pub stage: bool,
    /// What is told how the rollout goes.
    pub hooks: Hooks,
    /// The waves in the order in which they run; at least one.
    pub waves: Vec<Wave>,
}

/// Hosts that are deployed together, before any host of the next wave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wave {
    /// What the wave is called: lower-case letters, digits and hyphens, and no other wave's name.
    pub name: Spanned<String>,
    /// The hosts, in the order in which they are sent requests; at least one selector.
    pub targets: Vec<Spanned<Selector>>,
    /// Hosts that this wave leaves to later ones.
    pub exclude: Vec<Spanned<Selector>>,
    pub settings: Settings,
}

/// A value and where in the file it stands, as a range of bytes. Plans that say the same are equal wherever they say it.
#[derive(Debug, Clone)]
pub struct Spanned<T> {
    pub value: T,
    /// Its place; empty for a default, which stands nowhere.
    pub span: Range<usize>,
}

impl Wave {
    /// A wave of a plan that was never written down.
    pub fn unwritten(name: String, targets: Vec<Spanned<Selector>>, settings: Settings) -> Self {
        Self { name: Spanned::nowhere(name), targets, exclude: Vec::new(), settings }
    }
}

impl Plan {
    /// A plan that was never written down.
    pub fn unwritten(name: String, waves: Vec<Wave>) -> Self {
        Self { name, revision: None, flake: None, hooks: Hooks::default(), systems: None, stage: false, waves }
    }

    /// One of a single wave, which is named like it after whom it reaches.
    pub fn of_one_wave(selector: Selector, settings: Settings) -> Self {
        let name = selector.target.subject().to_string();
        Self::unwritten(name.clone(), vec![Wave::unwritten(name, vec![Spanned::nowhere(selector)], settings)])
    }

    fn targets(&self) -> impl Iterator<Item = &Target> {
        self.waves.iter().flat_map(|wave| &wave.targets).map(|selector| &selector.value.target)
    }

    /// The tiers whose hosts have to be asked for before the plan can be resolved.
    pub fn tiers(&self) -> BTreeSet<Tier> {
        self.tiers_of(|_| true)
    }

    /// The tiers of the groups that the plan selects. Where there are none, who else is there does not matter.
    pub fn group_tiers(&self) -> BTreeSet<Tier> {
        self.tiers_of(|target| !matches!(target, Target::Host(..)))
    }

    /// A subject of the user's own says nothing about tiers, so a plan that uses one has to ask all of them.
    fn tiers_of(&self, wanted: impl Fn(&Target) -> bool) -> BTreeSet<Tier> {
        let tiers = self.targets().filter(|target| wanted(target)).flat_map(|target| match target.tier() {
            Some(tier) => vec![tier],
            None => Tier::ALL.to_vec(),
        });
        tiers.collect()
    }

    /// The tiers that the plan's targets name: their hosts have to be reached.
    pub fn needed_tiers(&self) -> BTreeSet<Tier> {
        self.targets().filter_map(Target::tier).collect()
    }

    pub fn named(&self) -> BTreeSet<Sender> {
        let hosts = self.targets().filter_map(|target| match target {
            Target::Host(tier, host) => Some(Sender { tier: *tier, host: host.clone() }),
            Target::Role(..) | Target::All(_) | Target::Custom(_) => None,
        });
        hosts.collect()
    }

    /// Whether the plan names this host itself, and not only a group that it may be in.
    pub fn names(&self, host: &HostName) -> bool {
        self.targets().any(|target| matches!(target, Target::Host(_, named) if named == host))
    }

    /// The same plan without one host, in whatever tier it is. A wave that is for this host alone is left out.
    pub fn exclude(&mut self, host: &HostName) {
        let selectors =
            Tier::ALL.map(|tier| Selector { text: format!("{tier}.{host}"), target: Target::Host(tier, host.clone()) });
        for wave in &mut self.waves {
            wave.targets.retain(|selector| !selectors.iter().any(|other| other.target == selector.value.target));
            wave.exclude.extend(selectors.iter().cloned().map(Spanned::nowhere));
        }
        self.waves.retain(|wave| !wave.targets.is_empty());
    }

    /// Has hosts return unless they are confirmed, in the waves that do not say what they do.
    pub fn roll_back(&mut self, rollback: Rollback) {
        for wave in &mut self.waves {
            wave.settings.rollback.get_or_insert(Spanned::nowhere(rollback));
        }
    }

    /// Has hosts wait so long to be confirmed, in the waves that do not say how long.
    pub fn confirm_within(&mut self, timeout: Duration) {
        for wave in &mut self.waves {
            wave.settings.confirm_timeout.get_or_insert(timeout);
        }
    }

    /// A mistake about the revision, at its place in the text of the plan.
    pub fn about_revision(text: &str, error: &dyn Diagnostic) -> PlanErrors {
        #[derive(Deserialize)]
        struct Top {
            revision: toml::Spanned<String>,
        }
        let mistake = PlanDiagnostic::mistake(error.to_string());
        let mistake = error.help().into_iter().fold(mistake, |mistake, help| mistake.help(help.to_string()));
        match toml::from_str::<Top>(text) {
            Ok(Top { revision }) => mistake.at(&revision.span(), "named here"),
            Err(_) => mistake,
        }
        .into()
    }

    /// The revision to deploy: the one that was given with the command, else the one that the plan names.
    pub fn revision(&self, given: Option<Revision>) -> Result<Revision, PlanErrors> {
        given.or_else(|| self.revision.clone()).ok_or_else(|| {
            PlanErrors::from(
                PlanDiagnostic::mistake("there is no revision to deploy")
                    .help("add a line such as revision = \"main\" to the top of the plan, or give --revision"),
            )
        })
    }
}

impl<T> Spanned<T> {
    pub fn nowhere(value: T) -> Self {
        Self { value, span: 0..0 }
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}
