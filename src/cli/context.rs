//! Reads contexts: named settings of a fleet, in a file.
//!
//! The settings of a context are added to the command line, unless a flag or a variable gives them already. So each
//! flag works the same way wherever its value comes from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command};
use miette::Diagnostic;
use rustix::fs::OFlags;
use serde::Deserialize;
use thiserror::Error;

use super::alias;
use super::exit::{CommandError, OrUsage};
use super::folders::user_folder;
use crate::operator::journal::Journals;
use crate::private_dir::{self, PrivateDirError};
use crate::text::did_you_mean;

/// The context file in the folder of a fleet.
pub(super) const LOCAL_FILE: &str = "homelab-deploy.toml";

/// The keys of a context, and the flags that they set.
const KEYS: [(&str, &str); 11] = [
    ("server", "nats-url"),
    ("key", "nkey-file"),
    ("tls-ca", "tls-ca"),
    ("tls-cert", "tls-cert"),
    ("tls-key", "tls-key"),
    ("flake", "flake"),
    ("plans", "plans-dir"),
    ("fleet", "fleet"),
    ("on-start", "on-start"),
    ("on-halt", "on-halt"),
    ("on-finish", "on-finish"),
];

#[derive(Debug, Args)]
pub(super) struct ContextArgs {
    /// File with contexts [default: ./homelab-deploy.toml, else ~/.config/homelab-deploy/config.toml]
    #[arg(long, env = "HOMELAB_DEPLOY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Context of that file that has the settings which no flag and no variable gives [default: its `default-context`]
    #[arg(long, env = "HOMELAB_DEPLOY_CONTEXT", value_name = "NAME")]
    context: Option<String>,
}

impl ContextArgs {
    pub(super) fn name(&self) -> Option<&str> {
        self.context.as_deref().filter(|name| !name.is_empty())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ContextFile {
    default_context: Option<String>,
    #[serde(default)]
    context: BTreeMap<String, Context>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Context {
    pub(super) server: Option<String>,
    key: Option<PathBuf>,
    /// The key of `mcp`, which never uses `key`: an assistant must not get the key of its user by accident.
    assistant_key: Option<PathBuf>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    pub(super) flake: Option<String>,
    plans: Option<PathBuf>,
    fleet: Option<PathBuf>,
    #[serde(alias = "on_start")]
    on_start: Option<Vec<String>>,
    #[serde(alias = "on_halt")]
    on_halt: Option<Vec<String>>,
    #[serde(alias = "on_finish")]
    on_finish: Option<Vec<String>>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
}

#[derive(Debug, Error, Diagnostic)]
pub(super) enum ContextError {
    #[error("cannot read {path}: {error}", path = .0.display(), error = .1)]
    #[diagnostic(help("--config names the file with the contexts"))]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("{} belongs to another user", .0.display())]
    #[diagnostic(help("its settings decide what is deployed where: if you trust it, name it with --config"))]
    NotOurs(PathBuf),
    #[error("{path} is not a list of contexts: {why}", path = .0.display(), why = .1)]
    #[diagnostic(help("a context is a table [context.NAME] with the keys {}, assistant-key, aliases", keys()))]
    Malformed(PathBuf, String),
    #[error("{} has hooks, which are programs that run on this machine", .0.display())]
    #[diagnostic(help("if you trust it, name it: --config {path}, or HOMELAB_DEPLOY_CONFIG", path = .0.display()))]
    HooksOfFolder(PathBuf),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Untrusted(#[from] PrivateDirError),
    #[error("there is no context {name:?}")]
    #[diagnostic(help("{known}"))]
    Unknown { name: String, known: String },
    #[error("{} has several contexts, and none of them is the default", .0.display())]
    #[diagnostic(help("add `default-context = \"NAME\"` at its top, or give --context: {names}", names = .1))]
    NoDefault(PathBuf, String),
}

fn keys() -> String {
    KEYS.map(|(key, _)| key).join(", ")
}

/// Adds the settings of the selected context to the words of a command line.
pub(super) fn settle(command: &Command, mut words: Vec<OsString>) -> Result<Vec<OsString>, CommandError> {
    let written = command.clone().ignore_errors(true).try_get_matches_from(&words);
    let Some((name, written)) = written.ok().and_then(|mut written| written.remove_subcommand()) else {
        return Ok(words);
    };
    let added = added(&name, &written).or_usage()?;
    let behind_the_name = words.iter().skip(1).position(|word| *word == *name).map_or(words.len(), |place| place + 2);
    words.splice(behind_the_name..behind_the_name, added);
    Ok(words)
}

/// Returns the words to add to a command.
fn added(command: &str, written: &ArgMatches) -> Result<Vec<OsString>, ContextError> {
    let Ok(file) = written.try_get_one::<PathBuf>("config") else {
        // This command takes no context.
        return Ok(Vec::new());
    };
    let wanted = written.get_one::<String>("context").filter(|name| !name.is_empty());
    let named = file.filter(|file| !file.as_os_str().is_empty());
    let file = match named {
        Some(file) => Some(file.clone()),
        None => usual_file(command)?,
    };
    let Some(file) = file else {
        return match wanted {
            Some(name) => Err(ContextError::Unknown { name: name.clone(), known: no_file() }),
            None => Ok(Vec::new()),
        };
    };
    let Some((name, context)) = choose(&file, wanted)? else { return Ok(Vec::new()) };
    if written.try_contains_id("on_start").is_ok() && context.runs_programs() {
        // The repository in the current folder must not decide which programs run on this machine.
        if named.is_none() && file == Path::new(LOCAL_FILE) {
            return Err(ContextError::HooksOfFolder(file));
        }
        private_dir::file(&file.canonicalize().unwrap_or_else(|_| file.clone()), OFlags::RDONLY)?;
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut values = context.values(command, folder);
    values.push(("context", name.into()));
    alias::remember(context.aliases);
    let is_open = |flag: &str| {
        let id = flag.replace('-', "_");
        written.try_contains_id(&id).is_ok()
            && written.value_source(&id).is_none_or(|source| source == ValueSource::DefaultValue)
    };
    let open = values.into_iter().filter(|(flag, _)| is_open(flag));
    Ok(open.map(|(flag, value)| [format!("--{flag}=").into(), value].into_iter().collect()).collect())
}

impl Context {
    fn runs_programs(&self) -> bool {
        self.on_start.is_some() || self.on_halt.is_some() || self.on_finish.is_some()
    }

    /// Returns the flags that this context sets for a command. Paths are relative to the folder of the context file.
    fn values(&self, command: &str, folder: &Path) -> Vec<(&'static str, OsString)> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| from_folder(path, folder).into_os_string());
        let text = |text: &Option<String>| text.as_ref().map(OsString::from);
        let program = |argv: &Option<Vec<String>>| argv.as_ref().map(|argv| program_in_folder(argv, folder).into());
        let values = [
            text(&self.server),
            path(if command == "mcp" { &self.assistant_key } else { &self.key }),
            path(&self.tls_ca),
            path(&self.tls_cert),
            path(&self.tls_key),
            text(&self.flake),
            path(&self.plans),
            path(&self.fleet),
            program(&self.on_start),
            program(&self.on_halt),
            program(&self.on_finish),
        ];
        KEYS.iter().zip(values).filter_map(|(&(_, flag), value)| Some((flag, value?))).collect()
    }
}

/// Returns the context with this name, or the default one, and its name. Returns `None` if the file has no context.
pub(super) fn choose(file: &Path, name: Option<&String>) -> Result<Option<(String, Context)>, ContextError> {
    let text = fs::read_to_string(file).map_err(|error| ContextError::Unreadable(file.to_owned(), error))?;
    let malformed = |why: String| ContextError::Malformed(file.to_owned(), why);
    let config: ContextFile = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if let Some(name) = config.context.keys().find(|name| name.is_empty() || !is_name(name)) {
        return Err(malformed(format!("{name:?} is no name of a context: use letters, digits, - and _")));
    }
    let names = || config.context.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let name = match name.or(config.default_context.as_ref()) {
        Some(name) => name,
        None if config.context.len() > 1 => return Err(ContextError::NoDefault(file.to_owned(), names())),
        None => match config.context.keys().next() {
            Some(name) => name,
            None => return Ok(None),
        },
    };
    let known = || {
        let near = did_you_mean(name, config.context.keys().map(String::as_str));
        format!("{near}{} has these: {}", file.display(), names())
    };
    let context = config.context.get(name).cloned();
    let context = context.ok_or_else(|| ContextError::Unknown { name: name.clone(), known: known() })?;
    Ok(Some((name.clone(), context)))
}

/// Returns the file to read if none is named: the one in the current folder, else the user's.
fn usual_file(command: &str) -> Result<Option<PathBuf>, ContextError> {
    let local = PathBuf::from(LOCAL_FILE);
    // A client starts `mcp` in any repository it works on, which must not decide what is deployed where.
    if command != "mcp"
        && let Ok(metadata) = local.metadata()
    {
        let owner = metadata.uid();
        let is_ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
        return if is_ours { Ok(Some(local)) } else { Err(ContextError::NotOurs(local)) };
    }
    Ok(users_file().filter(|file| file.exists()))
}

fn users_file() -> Option<PathBuf> {
    Some(user_folder("XDG_CONFIG_HOME", ".config")?.join("homelab-deploy/config.toml"))
}

fn no_file() -> String {
    let users = users_file().map(|file| format!(" and {}", file.display())).unwrap_or_default();
    format!("there is no file of contexts: looked for ./{LOCAL_FILE}{users}; `homelab-deploy init` writes one")
}

/// Where else the settings can be given that a command line lacks, or that are wrong and not on it; `None` when a context has
/// none of them.
pub(super) fn elsewhere(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let settings = match (error.kind(), error.get(ContextKind::InvalidArg)?) {
        (ErrorKind::MissingRequiredArgument, ContextValue::Strings(missing)) => missing.as_slice(),
        (ErrorKind::ValueValidation, ContextValue::String(wrong)) => std::slice::from_ref(wrong),
        _ => return None,
    };
    let is_written = |flag: &str| std::env::args_os().any(|word| word.to_string_lossy().starts_with(flag));
    let lines = KEYS.iter().filter_map(|(key, flag)| {
        let flag = format!("--{flag}");
        settings.iter().find(|setting| setting.split(' ').next() == Some(&flag) && !is_written(&flag))?;
        let variable = flag.trim_start_matches('-').to_uppercase().replace('-', "_");
        let for_mcp = if *key == "key" { " (for mcp `assistant-key`)" } else { "" };
        Some(format!("  {flag}, or HOMELAB_DEPLOY_{variable}, or `{key}`{for_mcp} in a context of {LOCAL_FILE}"))
    });
    let lines: Vec<String> = lines.collect();
    (!lines.is_empty()).then(|| format!("\nSettings can be given in three places:\n{}", lines.join("\n")))
}

/// A path as it is meant in a file of this folder: no shell has put the home folder in the place of `~`.
fn from_folder(path: &Path, folder: &Path) -> PathBuf {
    let home = path.strip_prefix("~").ok().and_then(|below| Some(std::env::home_dir()?.join(below)));
    home.unwrap_or_else(|| folder.join(path))
}

/// Formats a program with its arguments for the flag of a hook. The program's path is relative to this folder.
fn program_in_folder(argv: &[String], folder: &Path) -> String {
    let mut argv = argv.to_owned();
    if let Some(program) = argv.first_mut().filter(|program| program.contains('/')) {
        *program = from_folder(Path::new(program), folder).to_string_lossy().into_owned();
    }
    serde_json::to_string(&argv).expect("texts only, so this cannot fail")
}

#[derive(Debug, Args)]
pub(super) struct StateArgs {
    #[command(flatten)]
    context: ContextArgs,

    /// Folder for the records of rollouts [default: ~/.local/state/homelab-deploy, for a context its folder there]
    #[arg(long, env = "HOMELAB_DEPLOY_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl StateArgs {
    pub(super) fn journals(&self) -> Journals {
        Journals::below(&self.folder())
    }

    /// Returns the folder of everything that this operator's commands record.
    pub(super) fn folder(&self) -> PathBuf {
        let usual = || {
            let all = user_folder("XDG_STATE_HOME", ".local/state").unwrap_or_default().join("homelab-deploy");
            self.context.name().map_or(all.clone(), |name| all.join("contexts").join(name))
        };
        self.state_dir.clone().unwrap_or_else(usual)
    }
}

#[cfg(test)]
mod tests;
