//! `completions`: completes command lines for shells. The printed script makes the shell call this program to ask.
//!
//! Flags and arguments are defined in their own structs. This module provides the values that they can have.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use clap::error::Result;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::{Bash, CompleteEnv, Fish, Shells, Zsh};

use super::plan::{PlanArgs, PlanFolders};
use crate::cli::args::StateArgs;
use crate::cli::block_on;
use crate::cli::context::{self, KnownAliases};
use crate::cli::out::{self, Exit};
use crate::operator::journal::{Journals, Recorded};
use crate::operator::{History, KnownHosts};
use crate::plan::Aliases;
use crate::protocol::{Action, HostName, Role, Tier};
use crate::rollout::Outcome;

#[derive(Debug, Args)]
pub(in crate::cli) struct Completions {
    /// For which shell
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

impl Completions {
    pub(in crate::cli) fn run(self) -> Exit {
        let mut script = Vec::new();
        if let Some(shell) = SHELLS.completer(&self.shell) {
            // The script calls the program by its name, so that it survives an update of the program.
            let written = shell.write_registration(ASKING, PROGRAM, PROGRAM, PROGRAM, &mut script);
            written.expect("writing to memory cannot fail");
        }
        out::data(&String::from_utf8_lossy(&script));
        Exit::Success
    }
}

/// The variable by which a shell asks for completions. Its value names the shell.
const ASKING: &str = "COMPLETE";

const SHELLS: Shells<'static> = Shells(&[&Bash, &Fish, &Zsh]);

const PROGRAM: &str = "homelab-deploy";

/// Returns the values that an argument can have, given the words of the line so far.
type Values = fn(&ArgMatches) -> Vec<String>;

/// The arguments whose values are completed, by id. An entry with a command applies to that command only: the id means
/// something else in other commands.
const VALUES: [(Option<&str>, &str, Values); 17] = [
    (None, "plan", plans),
    (None, "only", wave_names),
    (None, "from", wave_names),
    (None, "exclude", host_names),
    (Some("logs"), "target", hosts_with_tiers),
    (None, "target", targets),
    (Some("rollback"), "hosts", |line| [hosts_with_tiers(line), rollouts(line)].concat()),
    (Some("build"), "what", |line| [plans(line), host_names(line)].concat()),
    (Some("abort"), "id", |line| rollouts_that(line, |recorded| recorded.running)),
    (None, "id", rollouts),
    (None, "resume", |line| rollouts_that(line, is_unfinished)),
    (None, "run", runs),
    (None, "branch", branches),
    (None, "revision", branches),
    (None, "to", |_| vec!["previous".to_owned()]),
    (None, "tier", |_| Tier::ALL.map(|tier| tier.to_string()).to_vec()),
    (None, "action", |_| Action::ALL.map(|action| action.to_string()).to_vec()),
];

/// Answers a shell that asks for completions. Returns `false` if no shell asked.
pub(in crate::cli) fn answer(command: fn() -> Command) -> Result<bool> {
    let words = || std::env::args_os().skip_while(|word| word != "--").skip(1);
    CompleteEnv::with_factory(|| completing(command(), words()))
        .var(ASKING)
        .shells(SHELLS)
        .try_complete(std::env::args_os(), std::env::current_dir().ok().as_deref())
}

/// Returns the command with the values that its arguments can have after these words.
fn completing(mut command: Command, words: impl Iterator<Item = OsString>) -> Command {
    command.build();
    // The line is unfinished, so its mistakes are ignored.
    let Ok(words) = context::with_context(&command, words.collect()) else { return command };
    let written = command.clone().ignore_errors(true).try_get_matches_from(words).ok();
    let Some((name, written)) = written.and_then(|mut written| written.remove_subcommand()) else {
        return command;
    };
    let written = Arc::new(written);
    let is_of = |of: Option<&str>| of.is_none_or(|of| of == name);
    let with_values = |arg: Arg| match VALUES.iter().find(|(of, id, _)| is_of(*of) && arg.get_id() == id) {
        Some((_, _, values)) => {
            let written = Arc::clone(&written);
            arg.add(ArgValueCompleter::new(move |begun: &OsStr| candidates(*values, &written, begun)))
        }
        None => arg,
    };
    command.mut_subcommands(|subcommand| subcommand.mut_args(with_values))
}

fn candidates(values: Values, written: &ArgMatches, begun: &OsStr) -> Vec<CompletionCandidate> {
    let text = begun.to_string_lossy();
    // A plan can be a path. Nothing else that is completed here contains a slash.
    if text.contains('/') {
        return PathCompleter::any().complete(begun);
    }
    values(written).into_iter().filter(|value| value.starts_with(&*text)).map(CompletionCandidate::new).collect()
}

/// Returns the names of the plans in the plan folders, and the plan files in the current folder.
fn plans(written: &ArgMatches) -> Vec<String> {
    let names = PlanFolders::from_arg_matches(written).map(|folders| folders.names()).unwrap_or_default();
    let files =
        std::fs::read_dir(".").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_plan = |file: &String| {
        Path::new(file).extension().is_some_and(|end| end == "toml")
            && std::fs::read_to_string(file).is_ok_and(|text| text.contains("[[wave]]"))
    };
    names.into_iter().chain(files.filter(is_plan)).collect()
}

fn wave_names(written: &ArgMatches) -> Vec<String> {
    let plan = PlanArgs::from_arg_matches(written).ok().and_then(|plan| plan.read().ok());
    let waves = plan.into_iter().flat_map(|file| file.plan.waves);
    waves.map(|wave| wave.name.value).collect()
}

fn host_names(written: &ArgMatches) -> Vec<String> {
    let names = known_hosts(written).into_keys().map(|(_, host)| host.to_string());
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

fn hosts_with_tiers(written: &ArgMatches) -> Vec<String> {
    known_hosts(written).keys().map(|(tier, host)| format!("{tier}.{host}")).collect()
}

/// Returns hosts, their roles and tiers, and aliases.
fn targets(written: &ArgMatches) -> Vec<String> {
    let hosts = known_hosts(written);
    let roles = hosts.iter().filter_map(|((tier, _), role)| Some(format!("{tier}.role.{}", role.as_ref()?)));
    let roles: BTreeSet<String> = roles.collect();
    let tiers: BTreeSet<Tier> = hosts.keys().map(|(tier, _)| *tier).collect();
    let groups = roles.into_iter().chain(tiers.into_iter().map(|tier| format!("{tier}.all")));
    hosts_with_tiers(written).into_iter().chain(groups).chain(KnownAliases.names()).collect()
}

/// Returns the hosts of the last rollout, and those that answered a recent roll call. A new roll call would keep the
/// person at the shell waiting.
fn known_hosts(written: &ArgMatches) -> BTreeMap<(Tier, HostName), Option<Role>> {
    let rollout = recorded(written).next().and_then(|(_, recorded)| recorded.summary.rollout);
    let hosts = rollout.iter().flat_map(|rollout| rollout.plan.hosts());
    let hosts = hosts.map(|host| ((host.tier, host.hostname.clone()), None));
    let state_dir = journals(written).map(|journals| journals.state_dir);
    hosts.chain(state_dir.into_iter().flat_map(KnownHosts::of_any_fleet)).collect()
}

/// Returns the ids of the recorded rollouts, the newest first.
fn rollouts(written: &ArgMatches) -> Vec<String> {
    journals(written).and_then(|journals| journals.newest_first().ok()).unwrap_or_default()
}

/// Returns the recorded rollouts with their ids, the newest first.
fn recorded(written: &ArgMatches) -> impl Iterator<Item = (String, Recorded)> {
    let journals = journals(written);
    let ids = rollouts(written).into_iter();
    ids.filter_map(move |id| journals.as_ref()?.read(&id).ok().map(|recorded| (id, recorded)))
}

fn rollouts_that(written: &ArgMatches, are_meant: fn(&Recorded) -> bool) -> Vec<String> {
    recorded(written).filter(|(_, recorded)| are_meant(recorded)).map(|(id, _)| id).collect()
}

fn is_unfinished(recorded: &Recorded) -> bool {
    !recorded.running && recorded.summary.outcome != Some(Outcome::Succeeded)
}

/// Returns the runs of the host on the line, the newest first.
fn runs(written: &ArgMatches) -> Vec<String> {
    let target = written.try_get_one::<String>("target").ok().flatten();
    let host = target.and_then(|target| target.rsplit('.').next()?.parse::<HostName>().ok());
    let Some(host) = host else { return Vec::new() };
    let run = |recorded: &Recorded| Some(recorded.summary.host(&host)?.request.as_ref()?.as_str().to_owned());
    recorded(written).filter_map(|(_, recorded)| run(&recorded)).collect()
}

/// Returns the branches of the clone in the current folder.
fn branches(_: &ArgMatches) -> Vec<String> {
    block_on(async { History::of(None, None).branches().await }).unwrap_or_default()
}

fn journals(written: &ArgMatches) -> Option<Journals> {
    StateArgs::from_arg_matches(written).ok().map(|state| state.journals())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::CommandFactory;
    use clap_complete::engine::complete;

    use super::*;
    use crate::cli::commands::Cli;

    fn completed(line: &[&str]) -> Vec<String> {
        let words: Vec<OsString> = [PROGRAM].iter().chain(line).map(Into::into).collect();
        let mut command = completing(Cli::command(), words.iter().cloned());
        let candidates = complete(&mut command, words, line.len(), None).unwrap();
        candidates.iter().map(|candidate| candidate.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn waves_are_those_of_the_plan_on_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let plan = "[[wave]]\nname = 'dns'\ntargets = 'test.a'\n[[wave]]\nname = 'rest'\ntargets = 'test.b'\n";
        fs::write(folder.path().join("sunday.toml"), plan).unwrap();
        let plans = folder.path().to_str().unwrap();
        assert_eq!(completed(&["apply", "--plans-dir", plans, "sunday", "--from", ""]), ["dns", "rest"]);
        assert_eq!(completed(&["apply", "--plans-dir", plans, "sunday", "--only", "d"]), ["dns"]);
        let path = folder.path().join("sunday.toml");
        assert_eq!(completed(&["apply", path.to_str().unwrap(), "--unknown", "--from", "r"]), ["rest"]);
        assert_eq!(completed(&["apply", "--plans-dir", plans, "monday", "--from", ""]), [""; 0]);
        assert_eq!(completed(&["apply", "--from", ""]), [""; 0]);
        assert_eq!(completed(&["init", "--host", ""]), [""; 0]);
    }

    #[test]
    fn the_arguments_are_called_what_they_are_called_here() {
        let mut command = Cli::command();
        command.build();
        let ids: Vec<_> = command.get_subcommands().flat_map(Command::get_arguments).map(Arg::get_id).collect();
        for (_, id, _) in VALUES {
            assert!(ids.iter().any(|known| *known == id), "{id}");
        }
    }
}
