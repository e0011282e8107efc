//! `doctor`: finds what is wrong, and says what to do about it. Here, the findings, and what is wrong with a configuration
//! of nats-server.

mod checkup;

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, Args};
use miette::Diagnostic;
use serde::Serialize;

use self::checkup::Checkup;
use super::nats_config::read_fleet;
use super::plan::PlanFolders;
use crate::cli::args::{OperatorArgs, switch};
use crate::cli::out::{self, CommandResult, Exit, wrapped};
use crate::nats_config::{
    Deviation, FleetList, ListenerName, Operation, Principal, ServerUser, Strictness, server_users,
};
use crate::protocol::{FlakeUrl, HostName, Role, Tier};
use crate::text::safe;

// Three commands in one, of which `doctor FILE` needs no connection.
#[derive(Debug, Args)]
#[command(mut_arg("nats_url", unless_file))]
#[command(mut_arg("nkey_file", |arg| unless_file(arg).default_value("/dev/null").hide_default_value(true)))]
#[command(
    override_usage = "homelab-deploy doctor [OPTIONS]\n       homelab-deploy doctor --listener [OPTIONS]\n       \
                            homelab-deploy doctor FILE"
)]
pub(in crate::cli) struct Doctor {
    /// Check only this configuration of nats-server: what each key may do, and what it needs
    #[arg(value_name = "FILE", conflicts_with = "listener")]
    file: Option<PathBuf>,

    /// Check this host with the key and the settings of its listener; accepts --hostname, --tier, --role and
    /// --flake-url as the listener does
    #[arg(long)]
    listener: bool,

    /// File with the hosts and operators of the fleet [default: fleet.toml beside FILE]
    #[arg(long, env = "HOMELAB_DEPLOY_FLEET", value_name = "FILE")]
    fleet: Option<PathBuf>,

    /// Print all findings as one JSON array
    #[arg(long, env = "HOMELAB_DEPLOY_JSON", value_parser = switch)]
    json: bool,

    /// With --listener: name of this host
    #[arg(long, env = "HOMELAB_DEPLOY_HOSTNAME", value_name = "HOST", required_if_eq("listener", "true"))]
    hostname: Option<HostName>,

    /// With --listener: tier of this host
    #[arg(long, env = "HOMELAB_DEPLOY_TIER", required_if_eq("listener", "true"))]
    tier: Option<Tier>,

    /// With --listener: role of this host
    #[arg(long, env = "HOMELAB_DEPLOY_ROLE")]
    role: Option<Role>,

    /// With --listener: flake with the configuration of this host
    #[arg(long, env = "HOMELAB_DEPLOY_FLAKE_URL", value_name = "URL")]
    flake_url: Option<FlakeUrl>,

    /// Flake in which to look up a branch or tag
    #[arg(long, env = "HOMELAB_DEPLOY_FLAKE", value_name = "URL")]
    flake: Option<FlakeUrl>,

    #[command(flatten)]
    plans: PlanFolders,

    #[command(flatten)]
    operator: OperatorArgs,
}

fn unless_file(arg: Arg) -> Arg {
    arg.required(false).required_unless_present("file")
}

impl Doctor {
    pub(in crate::cli) async fn run(self) -> CommandResult {
        let fleet = self.fleet_file().map(|file| read_fleet(&file)).transpose()?;
        let checkup = Checkup { args: &self, fleet: fleet.as_ref(), findings: Findings::default() };
        let findings = match (&self.file, self.listener_name()) {
            (Some(file), _) => examine_server_file(file, fleet.as_ref()),
            (None, Some(name)) => checkup.of_host(name).await,
            (None, None) => checkup.of_operator().await,
        };
        if self.json {
            out::json(&findings.0);
        } else {
            out::data(&findings.text(out::stdout_line_limit()));
        }
        Ok(if findings.worst() == Level::Problem { Exit::Failed } else { Exit::Success })
    }

    fn fleet_file(&self) -> Option<PathBuf> {
        let beside = || Some(self.file.as_ref()?.parent().unwrap_or(Path::new("")).join("fleet.toml"));
        self.fleet.clone().or_else(|| beside().filter(|file| file.exists()))
    }

    fn listener_name(&self) -> Option<ListenerName> {
        let (hostname, tier) = self.hostname.clone().zip(self.tier).filter(|_| self.listener)?;
        Some(ListenerName { tier, hostname, role: self.role.clone() })
    }
}

const RELOAD: &str = "print the permissions anew with `homelab-deploy nats-config`, and reload the server";

/// Examines the users in a file. The list of a fleet tells who holds each key; without one, the permissions do.
fn examine_server_file(file: &Path, fleet: Option<&FleetList>) -> Findings {
    let mut findings = Findings::default();
    let users = match read_server_file(file) {
        Ok(users) => users,
        Err(why) => {
            findings.problem(file.display(), why, "nats-server -t --config FILE says more");
            return findings;
        }
    };
    if users.is_empty() {
        let next = "include what `homelab-deploy nats-config` prints";
        findings.problem(file.display(), "no user has an NKey, so the server cannot tell them apart", next);
    }
    let known = |user: &ServerUser| fleet.map(|fleet| fleet.holder(&user.key));
    let holder = |user: &ServerUser| known(user).flatten().or_else(|| Principal::guess(&user.permissions));
    let deviations = |strictness: Strictness| -> Vec<(String, Vec<Deviation>)> {
        let of_user = |user: &ServerUser| {
            let holder = holder(user)?;
            Some((holder.to_string(), user.permissions.deviations_from(&holder.permissions(strictness))))
        };
        users.iter().filter_map(of_user).collect()
    };
    let count = |deviations: &[(String, Vec<Deviation>)]| deviations.iter().map(|(_, list)| list.len()).sum::<usize>();
    let (strict, compatible) = (deviations(Strictness::Strict), deviations(Strictness::Compatible));
    let is_compatible = count(&compatible) < count(&strict);
    for (holder, deviations) in if is_compatible { compatible } else { strict } {
        if deviations.is_empty() {
            findings.ok(&holder, "has what it needs, and no more");
        }
        findings.deviations(&holder, "its key", &deviations);
    }
    if is_compatible {
        findings.note(
            file.display(),
            "the permissions are for the predecessor's deployers, too: hosts can answer those for each other",
            "once the predecessor is gone, print them without --compatible",
        );
    }
    for user in users.iter().filter(|user| known(user) == Some(None)) {
        let key = safe(&user.key);
        match Principal::guess(&user.permissions) {
            Some(holder) => {
                findings.problem(key, format!("is not in fleet.toml, and has the permissions of: {holder}"), RELOAD);
            }
            None => {
                findings.note(key, "is not in fleet.toml, and may do nothing here", "none of this program's business");
            }
        }
    }
    for user in fleet.into_iter().flat_map(FleetList::users) {
        if !users.iter().any(|other| other.key == user.key.to_string()) {
            findings.problem(&user.holder, format!("the server does not know its key {}", user.key), RELOAD);
        }
    }
    findings
}

fn read_server_file(file: &Path) -> Result<Vec<ServerUser>, String> {
    let read = |file: &Path| fs::read_to_string(file).map_err(|error| format!("cannot be read: {error}"));
    let include = |name: &str| read(&file.parent().unwrap_or(Path::new("")).join(name));
    server_users(&read(file)?, &include).map_err(|error| error.to_string())
}

/// What stands before the next step, and before each line that continues another.
const MARGIN: &str = "           ";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Note,
    Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    /// The subject of the finding: `server`, `key`, a host.
    about: String,
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, about: impl Display, what: impl Display) {
        self.add(Level::Ok, about, what, None);
    }

    fn note(&mut self, about: impl Display, what: impl Display, next: impl Display) {
        self.add(Level::Note, about, what, Some(next.to_string()));
    }

    fn problem(&mut self, about: impl Display, what: impl Display, next: impl Display) {
        self.add(Level::Problem, about, what, Some(next.to_string()));
    }

    /// Adds an error of another module, with its help text as the next step.
    fn error(&mut self, about: impl Display, error: &dyn Diagnostic) {
        self.add(Level::Problem, about, error, error.help().map(|help| help.to_string()));
    }

    fn add(&mut self, level: Level, about: impl Display, what: impl Display, next: Option<String>) {
        self.0.push(Finding { level, about: about.to_string(), what: what.to_string(), next });
    }

    /// Adds a problem for each way in which the permissions of a key differ from what its holder needs.
    fn deviations(&mut self, about: impl Display, whose: &str, deviations: &[Deviation]) {
        const NEXT: &str = "replace its permissions in the server's configuration by those that `homelab-deploy nats-config` \
                            prints, and reload the server: nats-server --signal reload";
        let (lacks, exceeds): (Vec<_>, Vec<_>) =
            deviations.iter().partition(|deviation| matches!(deviation, Deviation::Lacks(_)));
        for (list, may, must) in [(lacks, "may not", "has to"), (exceeds, "may", "must not")] {
            for of in [Operation::Publish, Operation::Subscribe] {
                let permissions =
                    list.iter().map(|(Deviation::Lacks(permission) | Deviation::Exceeds(permission))| permission);
                let subjects: Vec<&str> = permissions
                    .filter(|(operation, _)| *operation == of)
                    .map(|(_, subject)| subject.as_str())
                    .collect();
                if !subjects.is_empty() {
                    let (verb, subjects) = (of.verb(), subjects.join(", "));
                    self.problem(&about, format!("{whose} {may} {verb} to {subjects}, and {must}"), NEXT);
                }
            }
        }
    }

    fn worst(&self) -> Level {
        self.0.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    /// Formats all findings for people, each with its next step below it.
    fn text(&self, room: usize) -> String {
        let width = self.0.iter().map(|finding| finding.about.chars().count()).max().unwrap_or_default();
        let mut text = String::new();
        for Finding { level, about, what, next } in &self.0 {
            let sign = match level {
                Level::Ok => "✔ ok     ",
                Level::Note => "• note   ",
                Level::Problem => "✖ problem",
            };
            let next = next.iter().map(|next| format!("{MARGIN}{next}"));
            for line in [format!("{sign}  {about:width$}  {what}")].into_iter().chain(next) {
                text.push_str(&wrapped(&line, room, MARGIN));
                text.push('\n');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stands_above_what_to_do() {
        let mut findings = Findings::default();
        findings.ok("server", "nats://h:4222 accepts the key");
        assert_eq!(findings.worst(), Level::Ok);
        findings.note("ns1", "it does not answer", "start it");
        let lacks = |subject: &str| Deviation::Lacks((Operation::Publish, subject.to_owned()));
        let exceeds = Deviation::Exceeds((Operation::Subscribe, "deploy.prod.>".to_owned()));
        findings.deviations("key", "this key", &[lacks("a"), exceeds, lacks("b")]);
        assert_eq!(findings.worst(), Level::Problem);
        insta::assert_snapshot!(findings.text(60), @"
        ✔ ok       server  nats://h:4222 accepts the key
        • note     ns1     it does not answer
                   start it
        ✖ problem  key     this key may not publish to a, b, and has
                   to
                   replace its permissions in the server's
                   configuration by those that `homelab-deploy
                   nats-config` prints, and reload the server:
                   nats-server --signal reload
        ✖ problem  key     this key may subscribe to deploy.prod.>,
                   and must not
                   replace its permissions in the server's
                   configuration by those that `homelab-deploy
                   nats-config` prints, and reload the server:
                   nats-server --signal reload
        ");
        insta::assert_snapshot!(serde_json::to_string(&findings.0[1]).unwrap(), @r#"{"level":"note","about":"ns1","what":"it does not answer","next":"start it"}"#);
    }
}
