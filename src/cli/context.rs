//! Reads contexts: named settings of a fleet, in a file. Also finds the user's folders, and resolves aliases.
//!
//! The settings of a context are added to the command line, unless a flag or a variable gives them already. So each
//! flag works the same way wherever its value comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use rustix::fs::OFlags;
use serde::Deserialize;

use super::out::{CommandError, Exit, usage};
use crate::plan::{Aliases, Hook, Hooks, Selector};
use crate::private_dir;
use crate::protocol::{HostName, Target, Tier, alias_variable};
use crate::text::did_you_mean;

/// The context file in the folder of a fleet.
pub(super) const LOCAL_FILE: &str = "homelab-deploy.toml";

/// The subjects of the context's aliases, by the variable that overrides each of them. A process has one context.
static ALIASES: OnceLock<BTreeMap<String, String>> = OnceLock::new();

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

/// Adds the settings of the selected context to a command line.
pub(super) fn with_context(command: &Command, mut words: Vec<OsString>) -> Result<Vec<OsString>, CommandError> {
    let mut parser = command.clone().ignore_errors(true);
    let written = parser.try_get_matches_from_mut(&words);
    let Some((name, written)) = written.ok().and_then(|mut written| written.remove_subcommand()) else {
        return Ok(words);
    };
    let Some(command) = parser.find_subcommand(&name) else { return Ok(words) };
    let flags = flags_of_context(command, &written)?;
    let behind_the_name = words.iter().skip(1).position(|word| *word == *name).map_or(words.len(), |place| place + 2);
    words.splice(behind_the_name..behind_the_name, flags);
    Ok(words)
}

/// Returns the flags to add to a command.
fn flags_of_context(command: &Command, written: &ArgMatches) -> Result<Vec<OsString>, CommandError> {
    // Asked of the command: a release build of clap gives matches that do not know which flags there are.
    let has = |id: &str| command.get_arguments().any(|flag| flag.get_id() == id);
    if !has("config") {
        return Ok(Vec::new());
    }
    let command = command.get_name();
    let named = written.get_one::<PathBuf>("config").filter(|file| !file.as_os_str().is_empty());
    let wanted = written.get_one::<String>("context").filter(|name| !name.is_empty());
    let file = named.map_or_else(|| usual_file(command), |file| Ok(Some(file.clone())))?;
    let file = match (file, wanted) {
        (Some(file), _) => file,
        (None, None) => return Ok(Vec::new()),
        (None, Some(name)) => {
            let help = "there is no file of contexts: `homelab-deploy init` writes one, and --config names one";
            return Err(Exit::Usage.error(format!("there is no context {name:?}"), help));
        }
    };
    let Some((name, context)) = select(&file, wanted)? else { return Ok(Vec::new()) };
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut flags: Vec<_> = context.flags(command, folder).map(|(_, flag, value)| (flag, value)).into();
    flags.push(("context", Some(name.into())));
    let hooks = context.hooks(folder);
    if has("hooks") && !hooks.is_empty() {
        // The repository in the current folder must not decide which programs run on this machine.
        if named.is_none() && file == Path::new(LOCAL_FILE) {
            let what = format!("{} has hooks, which are programs that run on this machine", file.display());
            let help = format!("if you trust it, name it: --config {}, or HOMELAB_DEPLOY_CONFIG", file.display());
            return Err(Exit::Usage.error(what, help));
        }
        private_dir::file(&file.canonicalize().unwrap_or_else(|_| file.clone()), OFlags::RDONLY).map_err(usage)?;
        flags.push(("hooks", Some(serde_json::to_string(&hooks).expect("texts only, so this cannot fail").into())));
    }
    let by_variable = context.aliases.into_iter().map(|(alias, subject)| (alias_variable(&alias), subject));
    ALIASES.set(by_variable.collect()).ok();
    let is_open = |flag: &str| {
        let id = flag.replace('-', "_");
        has(&id) && written.value_source(&id).is_none_or(|source| source == ValueSource::DefaultValue)
    };
    let open = flags.into_iter().filter(|(flag, _)| is_open(flag));
    Ok(open.filter_map(|(flag, value)| Some([format!("--{flag}=").into(), value?].into_iter().collect())).collect())
}

impl Context {
    /// Returns the keys of a context, with the flag that each sets for a command. Paths are relative to the folder of the
    /// context file.
    fn flags(&self, command: &str, folder: &Path) -> [(&'static str, &'static str, Option<OsString>); 8] {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| from_folder(path, folder).into_os_string());
        let text = |text: &Option<String>| text.as_ref().map(OsString::from);
        [
            ("server", "nats-url", text(&self.server)),
            ("key", "nkey-file", path(if command == "mcp" { &self.assistant_key } else { &self.key })),
            ("tls-ca", "tls-ca", path(&self.tls_ca)),
            ("tls-cert", "tls-cert", path(&self.tls_cert)),
            ("tls-key", "tls-key", path(&self.tls_key)),
            ("flake", "flake", text(&self.flake)),
            ("plans", "plans-dir", path(&self.plans)),
            ("fleet", "fleet", path(&self.fleet)),
        ]
    }

    /// Returns the programs to run. A program's path is relative to the folder of the context file.
    fn hooks(&self, folder: &Path) -> Hooks {
        let programs = [&self.on_start, &self.on_halt, &self.on_finish];
        let set = Hook::ALL.into_iter().zip(programs).filter_map(|(hook, argv)| Some((hook, argv.clone()?)));
        let mut hooks: Hooks = set.collect();
        for program in hooks.values_mut().filter_map(|argv| argv.first_mut()).filter(|program| program.contains('/')) {
            *program = from_folder(Path::new(program), folder).to_string_lossy().into_owned();
        }
        hooks
    }
}

/// Whether a text can be the name of a context.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

/// Returns the context with this name, or the default one, and its name. Returns `None` if the file has no context.
pub(super) fn select(file: &Path, name: Option<&String>) -> Result<Option<(String, Context)>, CommandError> {
    let path = file.display();
    let text = fs::read_to_string(file).map_err(|error| {
        Exit::Usage.error(format!("cannot read {path}: {error}"), "--config names the file with the contexts")
    })?;
    let malformed = |why: String| {
        let help = "a context is a table such as [context.home]; `homelab-deploy init` writes one";
        Exit::Usage.error(format!("{path} is not a valid context file: {why}"), help)
    };
    let config: ContextFile = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    if let Some(name) = config.context.keys().find(|name| !is_name(name)) {
        return Err(malformed(format!("{name:?} cannot be the name of a context: use letters, digits, - and _")));
    }
    let names = || config.context.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let name = match name.or(config.default_context.as_ref()) {
        Some(name) => name,
        None if config.context.len() > 1 => {
            let help = format!("add `default-context = \"NAME\"` at its top, or give --context: {}", names());
            let what = format!("{path} has several contexts, and none of them is the default");
            return Err(Exit::Usage.error(what, help));
        }
        None => match config.context.keys().next() {
            Some(name) => name,
            None => return Ok(None),
        },
    };
    let context = config.context.get(name).cloned().ok_or_else(|| {
        let near = did_you_mean(name, config.context.keys().map(String::as_str));
        Exit::Usage.error(format!("there is no context {name:?}"), format!("{near}{path} has these: {}", names()))
    })?;
    Ok(Some((name.clone(), context)))
}

/// Returns the file to read if none is named: the one in the current folder, else the user's.
fn usual_file(command: &str) -> Result<Option<PathBuf>, CommandError> {
    let local = PathBuf::from(LOCAL_FILE);
    // A client starts `mcp` in any repository it works on, which must not decide what is deployed where.
    if command != "mcp"
        && let Ok(metadata) = local.metadata()
    {
        let owner = metadata.uid();
        if owner == 0 || owner == rustix::process::geteuid().as_raw() {
            return Ok(Some(local));
        }
        let help = "its settings decide what is deployed where: if you trust it, name it with --config";
        return Err(Exit::Usage.error(format!("{LOCAL_FILE} belongs to another user"), help));
    }
    Ok(config_dir().map(|folder| folder.join("config.toml")).filter(|file| file.exists()))
}

/// Returns the three places for each setting that a command line lacks, or that is wrong without being on it. `None` if no
/// context could give them.
pub(super) fn places_of_settings(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let settings = match (error.kind(), error.get(ContextKind::InvalidArg)?) {
        (ErrorKind::MissingRequiredArgument, ContextValue::Strings(missing)) => missing.as_slice(),
        (ErrorKind::ValueValidation, ContextValue::String(wrong)) => std::slice::from_ref(wrong),
        _ => return None,
    };
    let is_written = |flag: &str| env::args_os().any(|word| word.to_string_lossy().starts_with(flag));
    let lines = Context::default().flags("", Path::new("")).into_iter().filter_map(|(key, flag, _)| {
        let flag = format!("--{flag}");
        settings.iter().find(|setting| setting.split(' ').next() == Some(&flag) && !is_written(&flag))?;
        let variable = flag.trim_start_matches('-').to_uppercase().replace('-', "_");
        let for_mcp = if key == "key" { " (for mcp `assistant-key`)" } else { "" };
        Some(format!("  {flag}, or HOMELAB_DEPLOY_{variable}, or `{key}`{for_mcp} in a context of {LOCAL_FILE}"))
    });
    let lines: Vec<String> = lines.collect();
    (!lines.is_empty()).then(|| format!("\nSettings can be given in three places:\n{}", lines.join("\n")))
}

/// Resolves a path of a file in this folder. A leading `~` is the home folder, as no shell has expanded it.
fn from_folder(path: &Path, folder: &Path) -> PathBuf {
    let home = path.strip_prefix("~").ok().and_then(|below| Some(env::home_dir()?.join(below)));
    home.unwrap_or_else(|| folder.join(path))
}

/// Returns the folder for the user's settings, or `None` for a user without a home folder.
pub(super) fn config_dir() -> Option<PathBuf> {
    user_folder("XDG_CONFIG_HOME", ".config")
}

/// Returns the folder for the records of a context, or of no context.
pub(super) fn state_dir(context: Option<&str>) -> PathBuf {
    let all = user_folder("XDG_STATE_HOME", ".local/state").unwrap_or_else(|| "homelab-deploy".into());
    context.map_or(all.clone(), |name| all.join("contexts").join(name))
}

/// Returns the folder for data that may be lost at any time, or `None` for a user without a home folder.
pub(super) fn cache_dir() -> Option<PathBuf> {
    user_folder("XDG_CACHE_HOME", ".cache")
}

/// Returns our folder in an `XDG_…_HOME` variable, else in `usual` below the home folder. An empty or relative variable
/// counts as unset: <https://specifications.freedesktop.org/basedir-spec/latest/>.
fn user_folder(variable: &str, usual: &str) -> Option<PathBuf> {
    folder_by(env::var_os(variable).map(PathBuf::from), env::home_dir(), usual)
}

fn folder_by(set: Option<PathBuf>, home: Option<PathBuf>, usual: &str) -> Option<PathBuf> {
    let absolute = |folder: Option<PathBuf>| folder.filter(|folder| folder.is_absolute());
    Some(absolute(set).or_else(|| Some(absolute(home)?.join(usual)))?.join("homelab-deploy"))
}

/// The aliases of the environment and the context.
pub(super) struct KnownAliases;

impl Aliases for KnownAliases {
    /// Returns the subject of an alias by its variable: from the environment, else from the context.
    #[expect(clippy::disallowed_methods, reason = "which variables are asked for depends on the words of the user")]
    fn subject(&self, variable: &str) -> Option<String> {
        let of_environment = env::var(variable).ok().filter(|subject| !subject.is_empty());
        of_environment.or_else(|| ALIASES.get()?.get(variable).cloned())
    }

    fn names(&self) -> Vec<String> {
        let of_context = ALIASES.get().into_iter().flat_map(BTreeMap::keys).cloned();
        let set = env::vars_os().filter_map(|(variable, _)| variable.into_string().ok());
        let name = |variable: String| {
            let alias = variable.strip_prefix(&alias_variable(""))?.to_lowercase().replace('_', "-");
            (!alias.is_empty()).then_some(alias)
        };
        of_context.chain(set).filter_map(name).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// Parses the name of one host. A name without a tier may be a host of any tier.
pub(super) fn one_host(word: &str) -> Result<(Option<Tier>, HostName), CommandError> {
    if let Ok(name) = word.parse()
        && KnownAliases.subject(&alias_variable(word)).is_none()
    {
        return Ok((None, name));
    }
    only_host(Selector::parse(word, &KnownAliases).map_err(usage)?)
}

pub(super) fn only_host(selector: Selector) -> Result<(Option<Tier>, HostName), CommandError> {
    match selector.target {
        Target::Host(tier, host) => Ok((Some(tier), host)),
        Target::Role(..) | Target::All(_) | Target::Custom(_) => {
            let help = "name one host, such as prod.ns1: `homelab-deploy hosts` lists them";
            Err(Exit::Usage.error(format!("{} is not one host", selector.text), help))
        }
    }
}

#[cfg(test)]
mod tests;
