//! `plan`: shows what a plan would do now, or prints the schema of plans. `apply` begins with the same preparation.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Arg, Args};

use crate::bus::Bus;
use crate::cli::args::{DeployerArgs, RollbackArgs, SystemsArgs, hooks, switch};
use crate::cli::context::{KnownAliases, config_dir};
use crate::cli::display::Audience;
use crate::cli::out::{self, CommandError, CommandResult, Exit, Stream, usage};
use crate::cli::session::{ask_about_flake, preview};
use crate::clock;
use crate::operator::nix::changes_of;
use crate::operator::plan_file::{PlanFile, check_hosts, read_saved_plan, saved_plan};
use crate::operator::prepare::prepare_again;
use crate::operator::{PrepareError, PrepareOptions, Prepared, SystemsFrom, WaveSelection};
use crate::plan::{self, Hooks};
use crate::protocol::{HostName, Revision};
use crate::report;
use crate::rollout::{Event, EventKind, Summary};
use crate::text::did_you_mean;

// `--schema` needs neither a plan nor a connection.
#[derive(Debug, Args)]
#[command(mut_arg("plan", |plan| plan.required_unless_present("schema")))]
#[command(mut_arg("nats_url", unless_schema))]
#[command(mut_arg("nkey_file", |arg| unless_schema(arg).default_value("/dev/null").hide_default_value(true)))]
#[command(override_usage = "homelab-deploy plan [OPTIONS] <FILE|NAME>\n       homelab-deploy plan --schema")]
pub(in crate::cli) struct Plan {
    #[command(flatten)]
    prepare: PrepareArgs,

    #[arg(long, hide = true, default_value = "{}", value_parser = hooks)]
    hooks: Hooks,

    #[command(flatten)]
    deployer: DeployerArgs,

    /// Save the rollout to this file, which ends in .json; `apply` then carries out exactly that
    #[arg(long, short, value_name = "FILE", value_parser = file_to_apply)]
    out: Option<PathBuf>,

    /// Print the JSON Schema of plans instead, with which editors complete and explain keys
    #[arg(long)]
    schema: bool,
}

fn unless_schema(arg: Arg) -> Arg {
    arg.required(false).required_unless_present("schema")
}

fn file_to_apply(name: &str) -> Result<PathBuf, &'static str> {
    has_extension(name, "json").then(|| name.into()).ok_or("`apply` takes it for a plan: let its name end in .json")
}

impl Plan {
    pub(in crate::cli) async fn run(self) -> CommandResult {
        if self.schema {
            out::data(&plan::schema());
            return Ok(Exit::Success);
        }
        self.prepare.refuse_removed_flag()?;
        let (_, prepared) = self.prepare.prepare(&self.deployer, &self.hooks, Audience::Person).await?;
        out::data(&format!("{}\n", preview(&prepared, Stream::Stdout)));
        if let Some(file) = &self.out {
            out::file(file, &saved_plan(&prepared.rollout))?;
        }
        Ok(Exit::Success)
    }
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The plan: a path if it contains a slash or ends in .toml, else the name of a file in the plans folder; one saved
    /// by `plan --out` ends in .json
    #[arg(value_name = "FILE|NAME")]
    plan: Option<String>,

    #[command(flatten)]
    folders: PlanFolders,
}

// The folders in which plans are looked up by name.
#[derive(Debug, Args)]
pub(super) struct PlanFolders {
    /// Folder in which plans are looked up by name [default: ./plans, then ~/.config/homelab-deploy/plans]
    #[arg(long, env = "HOMELAB_DEPLOY_PLANS_DIR", value_name = "DIR")]
    plans_dir: Option<PathBuf>,
}

impl PlanArgs {
    /// Returns the file, if the plan is one that `plan --out` saved.
    pub(super) fn saved(&self) -> Option<&Path> {
        self.plan.as_deref().filter(|plan| has_extension(plan, "json")).map(Path::new)
    }

    pub(super) fn read(&self) -> Result<PlanFile, CommandError> {
        // Clap refuses a command line without a plan, unless the command then does something else than read one.
        let path = self.folders.find(self.plan.as_deref().unwrap_or_default())?;
        PlanFile::read(&path, &KnownAliases).map_err(usage)
    }
}

/// Whether a plan is given as a path.
pub(super) fn is_path(plan: &str) -> bool {
    plan.contains('/') || has_extension(plan, "toml")
}

pub(super) fn has_extension(plan: &str, wanted: &str) -> bool {
    Path::new(plan).extension().is_some_and(|extension| extension == wanted)
}

impl PlanFolders {
    /// Returns the file of a plan, which is given as a path or by its name.
    pub(super) fn find(&self, plan: &str) -> Result<PathBuf, CommandError> {
        if is_path(plan) {
            return Ok(PathBuf::from(plan));
        }
        let file = format!("{plan}.toml");
        let candidates: Vec<PathBuf> = self.in_turn().into_iter().map(|folder| folder.join(&file)).collect();
        let found = candidates.iter().find(|path| path.exists()).cloned();
        found.ok_or_else(|| {
            let near = did_you_mean(plan, self.names().iter().map(String::as_str));
            let looked_for: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
            let help =
                format!("{near}looked for {}; a path must contain a slash or end in .toml", looked_for.join(", "));
            Exit::Usage.error(format!("there is no plan {plan:?}"), help)
        })
    }

    pub(super) fn names(&self) -> BTreeSet<String> {
        self.files().iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
    }

    /// Returns the files of all plans in the folders, in order.
    pub(super) fn files(&self) -> BTreeSet<PathBuf> {
        let entries = self.in_turn().into_iter().filter_map(|folder| folder.read_dir().ok()).flatten();
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
    }

    fn in_turn(&self) -> Vec<PathBuf> {
        match &self.plans_dir {
            Some(folder) => vec![folder.clone()],
            None => std::iter::once("plans".into()).chain(config_dir().map(|config| config.join("plans"))).collect(),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct PrepareArgs {
    #[command(flatten)]
    plan: PlanArgs,

    /// Branch, tag or commit to deploy instead of the plan's
    #[arg(long, env = "HOMELAB_DEPLOY_REVISION")]
    revision: Option<Revision>,

    // A removed flag that is kept as an error, which says why it is gone.
    #[arg(long, env = "HOMELAB_DEPLOY_RESOLVE_ON_HOST", hide = true, value_parser = switch)]
    resolve_on_host: bool,

    /// Leave out this host; may be repeated
    #[arg(long, env = "HOMELAB_DEPLOY_EXCLUDE", value_name = "HOST", value_delimiter = ',')]
    exclude: Vec<HostName>,

    /// Run this wave only; may be repeated
    #[arg(long, env = "HOMELAB_DEPLOY_ONLY", value_name = "WAVE", value_delimiter = ',', conflicts_with = "from")]
    only: Vec<String>,

    /// Begin with this wave
    #[arg(long, env = "HOMELAB_DEPLOY_FROM", value_name = "WAVE")]
    from: Option<String>,

    /// Include hosts that are current: they run and boot what the last deployment of this commit made
    #[arg(long, env = "HOMELAB_DEPLOY_EVEN_IF_CURRENT", value_parser = switch)]
    even_if_current: bool,

    #[command(flatten)]
    systems: SystemsArgs,

    #[command(flatten)]
    pub(super) rollback: RollbackArgs,
}

impl PrepareArgs {
    /// Refuses a flag that earlier versions took and this one must not follow.
    pub(super) fn refuse_removed_flag(&self) -> Result<(), CommandError> {
        if !self.resolve_on_host {
            return Ok(());
        }
        let what = "--resolve-on-host is gone: a host never chooses the commit of others";
        let help = "one host could make all others run what it likes; set `flake` in the plan or --flake so that this \
                    machine looks the branch up, or give the full commit id of 40 digits";
        Err(Exit::Usage.error(what, help))
    }

    /// Reads the plan, calls the roll, and decides on hosts and commit. Nothing is deployed.
    pub(super) async fn prepare(
        &self,
        deployer: &DeployerArgs,
        hooks: &Hooks,
        audience: Audience,
    ) -> Result<(Bus, Prepared), CommandError> {
        if let Some(saved) = self.plan.saved() {
            return self.prepare_saved(saved, deployer).await;
        }
        let mut file = self.plan.read()?;
        self.rollback.apply_defaults_to(&mut file.plan);
        let systems = self.systems.source(&file)?;
        let revision = SystemsFrom::revision(systems.as_ref(), &file.plan, self.revision.clone());
        let revision = revision.map_err(|mistakes| usage(file.place(mistakes)))?;
        let by = deployer.context(ask_about_flake(audience));
        let known = by.discovery.known.clone();
        let options = PrepareOptions {
            source: Some(file.source()),
            exclude: self.exclude.clone(),
            waves: self.waves(),
            hooks: hooks.clone(),
            even_if_current: self.even_if_current,
            systems,
            binary_cache: self.systems.cache.clone(),
            ..PrepareOptions::new(file.plan.clone(), revision, by)
        };
        let mut bus = deployer.operator.connect().await?;
        let prepared = options.prepare(&mut bus).await;
        let mut prepared = prepared.map_err(|error| self.error_in_plan(error, &file))?;
        let missed = prepared.missed(&deployer.operator.state.journals(), &known);
        if !missed.is_empty() {
            // Not otherwise, as looking for the zone walks through the whole database of time zones.
            prepared.warnings.extend(report::missed(&missed, &clock::zone()));
        }
        Ok((bus, prepared))
    }

    /// Prepares a plan that was saved with its hosts, if the hosts are unchanged.
    async fn prepare_saved(&self, file: &Path, deployer: &DeployerArgs) -> Result<(Bus, Prepared), CommandError> {
        let is_settled = self.revision.is_none() && self.exclude.is_empty() && self.waves() == WaveSelection::default();
        if !is_settled || self.even_if_current || self.systems.build || self.systems.systems.is_some() {
            let help = "omit the flags that select them, or apply the plan that it was made from";
            return Err(Exit::Usage.error("a saved plan determines the hosts, the commit and the systems", help));
        }
        let rollout = read_saved_plan(file, deployer.operator.name()).map_err(usage)?;
        let mut bus = deployer.operator.connect().await?;
        let begun = Event { at: clock::now(), kind: EventKind::Begun(Arc::new(rollout.clone())) };
        let by = deployer.context(None);
        let prepared = prepare_again(&Summary::of([&begun]), &rollout, &mut bus, &by).await;
        let mut prepared = Prepared { rollout, ..prepared.map_err(prepare_error)? };
        check_hosts(&prepared.rollout.plan, &prepared.roster)?;
        prepared.warnings.extend(self.rollback.unheeded(&prepared.rollout.plan));
        if let Some(cache) = &self.systems.cache {
            prepared.changes = changes_of(&prepared.rollout.plan, &prepared.roster, Some(cache)).await.ok();
        }
        Ok((bus, prepared))
    }

    fn error_in_plan(&self, error: PrepareError, file: &PlanFile) -> CommandError {
        match error {
            PrepareError::Plan(mistakes) => usage(file.place(mistakes)),
            PrepareError::Lookup(error) if error.is_answer() && self.revision.is_none() => {
                file.place(file.plan.about_revision(&error)).into()
            }
            error => prepare_error(error),
        }
    }

    fn waves(&self) -> WaveSelection {
        WaveSelection { only: (!self.only.is_empty()).then(|| self.only.clone()), from: self.from.clone() }
    }
}

/// Returns the error of a preparation that failed for a reason outside of a plan file.
pub(super) fn prepare_error(error: PrepareError) -> CommandError {
    match error {
        PrepareError::Plan(_) | PrepareError::Selection(_) => usage(error),
        error => error.into(),
    }
}
