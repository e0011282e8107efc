//! Parses plans and resolves them to waves of hosts.
//!
//! Pure: other modules read the file and call the roll. In reading order:
//!
//! - `settings`: the settings of a wave; `value`: the kinds of values;
//! - `schema`: the JSON Schema, made of these types; the keys of each table;
//! - `parse`: TOML to a [`Plan`], or all mistakes of the file with their places;
//! - `target`: the selectors of hosts;
//! - `roster`: the hosts that answered the roll call;
//! - `resolve`: a plan and a roster to a [`ResolvedPlan`];
//! - `systems`: the built system of each host; `changes`: what those systems change.

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

use miette::{Diagnostic, MietteDiagnostic};
use schemars::JsonSchema;

pub use self::changes::{Changes, Closures, PackageChange, StorePath};
use self::diagnostic::Place;
pub use self::diagnostic::PlanErrors;
pub use self::resolved::{Check, Groups, Limits, ResolvedHost, ResolvedPlan, ResolvedWave};
pub use self::roster::{Roster, groups_of, nearest_subject};
pub use self::schema::schema;
pub use self::settings::{Hook, Hooks, Rollback, Settings};
pub use self::systems::Systems;
pub use self::target::{Aliases, Selector};
pub use self::value::{CONFIRM_TIMEOUT, Parallel, parse_confirm_timeout};

use crate::protocol::{FlakeUrl, HostName, MAX_REVISION_BYTES, Revision, Sender, Target, Tier};

/// A rollout in waves: what to deploy, and to whom first.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(title = "Plan of homelab-deploy", deny_unknown_fields)]
#[expect(clippy::doc_markdown, reason = "the schema shows these comments to people as they are")]
pub struct Plan {
    /// The name of the rollout: lower-case letters, digits and hyphens. Default: the name of the file.
    #[schemars(default, skip_serializing_if = "String::is_empty", regex(pattern = value::NAME))]
    pub name: String,
    /// The branch, tag or commit to deploy. It is looked up once, before the first wave, so that every host gets the
    /// same commit. Required unless --revision is given.
    #[schemars(with = "Option<String>", regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._/+-]*$"), length(max = MAX_REVISION_BYTES))]
    pub revision: Option<Spanned<Revision>>,
    /// The flake in which `revision` is looked up, such as "git+https://git.example.com/nixos". Default: --flake, else
    /// the one that the hosts name, once accepted.
    // A URL with a scheme and without an output of the flake.
    #[schemars(with = "Option<String>", regex(pattern = r"^[a-z+]+:[^\s#]+$"))]
    pub flake: Option<FlakeUrl>,
    /// The file with the systems of the hosts, as `homelab-deploy build` writes it, relative to the plan. Each host
    /// fetches its own, and evaluates and builds nothing.
    #[schemars(length(min = 1))]
    pub systems: Option<String>,
    /// Whether the hosts of all waves fetch their systems before any of them is changed. A host that cannot halts the
    /// rollout.
    #[schemars(default)]
    pub stage: bool,
    #[schemars(flatten, with = "value::HookKeys")]
    pub hooks: Hooks,
    /// Hosts that are deployed together. A wave begins when every host of the previous wave has finished and that wave
    /// has succeeded; when a wave fails, no later one begins.
    #[schemars(rename = "wave", length(min = 1))]
    pub waves: Vec<Wave>,
}

/// Hosts that are deployed together, before those of the next wave.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Wave {
    /// The name of the wave: lower-case letters, digits and hyphens; unique in the plan. Default: its first target.
    #[schemars(with = "Option<String>", regex(pattern = value::NAME))]
    pub name: Spanned<String>,
    /// The hosts, one target or a list: <tier>.<host>, <tier>.role.<role>, <tier>.all, a whole subject, or an alias.
    /// Named hosts are expected to answer; of a group, the hosts that answer are taken. A host belongs to the first
    /// wave that matches it.
    #[schemars(schema_with = "value::some_targets_schema")]
    pub targets: Vec<Spanned<Selector>>,
    /// Hosts that this wave leaves to later ones, written like `targets`.
    #[schemars(schema_with = "value::targets_schema", default, extend("default" = []))]
    pub exclude: Vec<Spanned<Selector>>,
    #[schemars(flatten)]
    pub settings: Settings,
}

/// A value and its place in the file, as a range of bytes. Comparisons ignore the place.
#[derive(Debug, Clone)]
pub struct Spanned<T> {
    pub value: T,
    /// Empty for a value that is not in a file.
    pub span: Range<usize>,
}

impl Wave {
    /// Creates a wave that is not from a file.
    pub fn unwritten(name: String, targets: Vec<Spanned<Selector>>, settings: Settings) -> Self {
        Self { name: Spanned::nowhere(name), targets, exclude: Vec::new(), settings }
    }
}

impl Plan {
    /// Creates a plan that is not from a file.
    pub fn unwritten(name: String, waves: Vec<Wave>) -> Self {
        Self { name, revision: None, flake: None, hooks: Hooks::default(), systems: None, stage: false, waves }
    }

    /// Creates a plan with one wave. Both are named after the subject.
    pub fn of_one_wave(selector: Selector, settings: Settings) -> Self {
        let name = selector.target.subject().to_string();
        Self::unwritten(name.clone(), vec![Wave::unwritten(name, vec![Spanned::nowhere(selector)], settings)])
    }

    fn targets(&self) -> impl Iterator<Item = &Target> {
        self.waves.iter().flat_map(|wave| &wave.targets).map(|selector| &selector.value.target)
    }

    /// Returns the tiers whose roll has to be called before the plan can be resolved.
    pub fn tiers(&self) -> BTreeSet<Tier> {
        self.tiers_of(|_| true)
    }

    /// Returns the tiers of the groups that the plan selects. Without groups, only the named hosts matter.
    pub fn group_tiers(&self) -> BTreeSet<Tier> {
        self.tiers_of(|target| !matches!(target, Target::Host(..)))
    }

    /// A custom subject may reach hosts of any tier, so it counts as all tiers.
    fn tiers_of(&self, wanted: impl Fn(&Target) -> bool) -> BTreeSet<Tier> {
        let targets = self.targets().filter(|target| wanted(target));
        targets.flat_map(|target| target.tier().map_or(Tier::ALL.to_vec(), |tier| vec![tier])).collect()
    }

    /// Returns the tiers that the targets name, whose hosts must be reachable.
    pub fn needed_tiers(&self) -> BTreeSet<Tier> {
        self.targets().filter_map(Target::tier).collect()
    }

    pub fn named_hosts(&self) -> BTreeSet<Sender> {
        let hosts = self.targets().filter_map(|target| match target {
            Target::Host(tier, host) => Some(Sender { tier: *tier, host: host.clone() }),
            Target::Role(..) | Target::All(_) | Target::Custom(_) => None,
        });
        hosts.collect()
    }

    /// Whether the plan names this host, and not only a group that it may be in.
    pub fn names_host(&self, host: &HostName) -> bool {
        self.targets().any(|target| matches!(target, Target::Host(_, named) if named == host))
    }

    /// Removes a host, in every tier. Also removes a wave that has no other target.
    pub fn exclude(&mut self, host: &HostName) {
        let selectors =
            Tier::ALL.map(|tier| Selector { text: format!("{tier}.{host}"), target: Target::Host(tier, host.clone()) });
        for wave in &mut self.waves {
            wave.targets.retain(|selector| !selectors.iter().any(|other| other.target == selector.value.target));
            wave.exclude.extend(selectors.iter().cloned().map(Spanned::nowhere));
        }
        self.waves.retain(|wave| !wave.targets.is_empty());
    }

    /// Sets the rollback of the waves that set none.
    pub fn set_default_rollback(&mut self, rollback: Rollback) {
        for wave in &mut self.waves {
            wave.settings.rollback.get_or_insert(Spanned::nowhere(rollback));
        }
    }

    /// Sets the confirm timeout of the waves that set none.
    pub fn set_default_confirm_timeout(&mut self, timeout: Duration) {
        for wave in &mut self.waves {
            wave.settings.confirm_timeout.get_or_insert(timeout);
        }
    }

    /// Wraps an error about the revision, with its place in the file.
    pub fn about_revision(&self, error: &dyn Diagnostic) -> PlanErrors {
        let mistake = MietteDiagnostic::new(error.to_string());
        let mistake = error.help().into_iter().fold(mistake, |mistake, help| mistake.with_help(help.to_string()));
        let place = self.revision.as_ref().map(|revision| revision.span.clone()).unwrap_or_default();
        mistake.at(&place, "named here").into()
    }

    /// Returns the revision to deploy: the given one, else the plan's.
    pub fn revision(&self, given: Option<Revision>) -> Result<Revision, PlanErrors> {
        let own = || self.revision.as_ref().map(|revision| revision.value.clone());
        given.or_else(own).ok_or_else(|| {
            PlanErrors::from(
                MietteDiagnostic::new("there is no revision to deploy")
                    .with_help("add a line such as revision = \"main\" to the top of the plan, or give --revision"),
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
