//! Examines what a connection shows: an operator's side, with the key and its permissions, the hosts, the plans and the
//! journals; or a host, as its listener would.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{Doctor, Findings};
use crate::bus::{self, Bus, Operation, SeedReaders, Settings, Tried};
use crate::cli::commands::hosts::twins;
use crate::cli::context::KnownAliases;
use crate::clock;
use crate::listener;
use crate::nats_config::{Deviation, FleetList, ListenerName, Permission, Principal, sample};
use crate::operator::journal::Recorded;
use crate::operator::plan_file::PlanFile;
use crate::operator::{Discovered, RollCall};
use crate::private_dir::PrivateDir;
use crate::protocol::subject::DISCOVER;
use crate::protocol::{Feature, HostAnswer, Target, Tier};
use crate::rollout::Outcome;
use crate::text::{did_you_mean, safe};

/// How far clocks may differ, beside the time that an answer may take.
const CLOCKS_APART: SignedDuration = SignedDuration::from_secs(10);

pub(super) struct Checkup<'a> {
    pub(super) args: &'a Doctor,
    pub(super) fleet: Option<&'a FleetList>,
    pub(super) findings: Findings,
}

impl Checkup<'_> {
    /// Examines this host as its listener would: the programs, the flake, the key, and what the server lets the key do.
    pub(super) async fn of_host(mut self, name: ListenerName) -> Findings {
        self.programs().await;
        let connection = &self.args.operator.connection;
        let settings = connection.settings(format!("homelab-deploy doctor {}", name.hostname), SeedReaders::Refuse);
        let is_this = |other: &Principal| matches!(other, Principal::Listener(other) if (other.tier, &other.hostname) == (name.tier, &name.hostname));
        let known = self.holder_of_key(&settings);
        let next = if known.as_ref().is_some_and(is_this) {
            "give --role as fleet.toml has it, or change it there and print the server's permissions anew"
        } else {
            "give this host its own seed, keys/TIER.HOST.seed"
        };
        let holder = Principal::Listener(name);
        if let Some(other) = known.filter(|known| *known != holder) {
            self.findings.problem("key", format!("this is the key of the {other}"), next);
        }
        let Some(mut bus) = self.connect(&settings).await else { return self.findings };
        self.findings.ok("server", "it accepts the key");
        if let Some(trial) = self.try_out(&mut bus, &holder.needs(), &holder.must_not()).await {
            let deviations = trial.deviations(&holder);
            if deviations.is_empty() {
                self.findings.ok("permissions", "this key may answer for this host, and for no other");
            }
            self.findings.deviations("permissions", "this key", &deviations);
        }
        self.findings
    }

    async fn programs(&mut self) {
        let Some(flake) = &self.args.flake_url else {
            return self.findings.note("flake", "it was not checked", "give --flake-url as the listener has it");
        };
        let missing = listener::missing(flake).await;
        if missing.is_empty() {
            self.findings.ok("programs", "nixos-rebuild, nix and git are there, and the flake can be read");
        }
        let next = "the NixOS module brings the programs; see docs/operations.md for keys of git";
        for what in missing {
            self.findings.problem("programs", what, next);
        }
    }

    pub(super) async fn of_operator(mut self) -> Findings {
        let hosts = self.server().await;
        self.plans(&hosts);
        self.records();
        if let Some(flake) = &self.args.flake {
            match listener::flake_problem(flake.clone(), Duration::ZERO).await {
                // Nix would have to fetch the whole flake to answer.
                None if flake.git_remote().is_none() => self.findings.ok("flake", "not checked: git cannot read it"),
                None => self.findings.ok("flake", "it can be read"),
                Some(why) => {
                    let next = "check --flake, git on this machine, and its access to the repository";
                    self.findings.problem("flake", why, next);
                }
            }
        }
        self.findings
    }

    /// Returns the holder of the key in this file, if the list of the fleet tells.
    fn holder_of_key(&self, settings: &Settings) -> Option<Principal> {
        self.fleet?.holder(&bus::public_key(&settings.nkey_file).ok()?.0)
    }

    async fn connect(&mut self, settings: &Settings) -> Option<Bus> {
        Bus::connect(settings).await.map_err(|error| self.findings.error("server", &error)).ok()
    }

    /// Connects, tries the permissions of the key, and calls the roll. Returns the hosts that answered.
    async fn server(&mut self) -> Vec<HostAnswer> {
        let settings = self.args.operator.settings();
        let Some(mut bus) = self.connect(&settings).await else { return Vec::new() };
        let servers: Vec<String> = settings.servers.iter().map(ToString::to_string).collect();
        self.findings.ok("server", format!("{} accepts the key", servers.join(", ")));
        for warning in &bus.warnings {
            self.findings.problem("key", warning, "only you may be able to read the seed");
        }
        let known = self.holder_of_key(&settings);
        match &known {
            Some(holder @ Principal::Listener(_)) => {
                let next = "use that of an operator, as in keys/operator.seed: hosts cannot deploy";
                self.findings.problem("key", format!("this is the key of the {holder}"), next);
                return Vec::new();
            }
            None if self.fleet.is_some() => {
                let key = bus::public_key(&settings.nkey_file).map(|(key, _)| key).unwrap_or_default();
                let next = "add it there as an [[operator]]";
                self.findings.problem("key", format!("{key} is not in fleet.toml"), next);
            }
            _ => {}
        }
        if !self.permissions(&mut bus, known).await {
            return Vec::new();
        }
        let discovery = self.args.operator.discovery();
        let asked_at = clock::now();
        match RollCall::of_all(&discovery, None).call(&mut bus).await {
            Ok(called) => self.hosts(called, asked_at, discovery.longest()),
            Err(error) => {
                self.findings.error("hosts", &error);
                Vec::new()
            }
        }
    }

    /// Checks the permissions of the key, and returns whether it can receive the responses of any tier.
    async fn permissions(&mut self, bus: &mut Bus, known: Option<Principal>) -> bool {
        let (all, beyond) = (Principal::Admin.needs(), Principal::TestDeployer.must_not());
        let Some(trial) = self.try_out(bus, &all, &beyond).await else { return false };
        let may = |operation, subject| !trial.is_refused(&(operation, subject));
        let reaches = |tier: Tier| may(Operation::Publish, format!("deploy.{tier}.>"));
        let hears = |tier: Tier| may(Operation::Subscribe, format!("deploy.responses.{tier}.>"));
        let is_for = |tier: Tier| reaches(tier) || hears(tier);
        let for_test = || is_for(Tier::Test).then_some(Principal::TestDeployer);
        let guess = || if is_for(Tier::Prod) { Some(Principal::Admin) } else { for_test() };
        let Some(holder) = known.or_else(guess) else {
            let next = "use the key of an operator, or see that the server has its permissions: `homelab-deploy nats-config` prints them";
            self.findings.problem("key", "this key may deploy to no tier; it may be that of a listener", next);
            return false;
        };
        let deviations = trial.deviations(&holder);
        if deviations.is_empty() {
            self.findings.ok("key", format!("this is the key of an operator: {holder}"));
        }
        self.findings.deviations("key", &format!("this key ({holder})"), &deviations);
        for tier in Tier::ALL.into_iter().filter(|tier| !reaches(*tier)) {
            let what = format!("cannot reach {tier} with this key ({holder})");
            let next = "an admin's key reaches every tier; `homelab-deploy nats-config --admin` prints its permissions";
            self.findings.note(tier, what, next);
        }
        hears(Tier::Test) || hears(Tier::Prod)
    }

    /// Tries these permissions on subjects that nobody uses. Returns `None` if the server does not say what it allows.
    async fn try_out(&mut self, bus: &mut Bus, needs: &[Permission], must_not: &[Permission]) -> Option<KeyTrial> {
        let token = Uuid::new_v4().to_string();
        let samples = needs.iter().chain(must_not).map(|(operation, subject)| (*operation, sample(subject, &token)));
        match bus.try_out(&samples.collect::<Vec<_>>(), DISCOVER).await {
            Ok(tried) => Some(KeyTrial { tried, token }),
            Err(why) => {
                self.findings.problem("server", why, "try again when the server is well");
                None
            }
        }
    }

    /// Checks who answered a roll call of this time, and who did not. Returns the hosts in order.
    fn hosts(&mut self, called: Discovered, asked_at: Timestamp, window: Duration) -> Vec<HostAnswer> {
        let Discovered { hosts, unheard, .. } = called;
        for twin in twins(&hosts) {
            let next = "stop one listener, or give it a name and a key of its own";
            self.findings.problem(twin, "two machines answer to this name", next);
        }
        for host in &hosts {
            self.host(host, asked_at, window);
        }
        for (name, _) in self.fleet.map(|fleet| &fleet.hosts).into_iter().flatten() {
            let is_this = |host: &HostAnswer| (host.report.tier, &host.report.hostname) == (name.tier, &name.hostname);
            if !unheard.contains(&name.tier) && !hosts.iter().any(is_this) {
                let next = "start it, or look at it there: homelab-deploy doctor --listener";
                self.findings.note(&name.hostname, "it does not answer", next);
            }
        }
        if hosts.is_empty() && self.fleet.is_none() {
            self.findings.note("hosts", "no host answers", "check that the listeners run and use this server");
        }
        hosts
    }

    /// Checks what a host reports, its clock, its version, and whether its answer is proved.
    fn host(&mut self, HostAnswer { report, proved }: &HostAnswer, asked_at: Timestamp, window: Duration) {
        let (name, before) = (&report.hostname, self.findings.0.len());
        for problem in &report.problems {
            let next = "look at it there: homelab-deploy doctor --listener";
            self.findings.problem(name, safe(&problem.message), next);
        }
        let apart = report.now.map_or(SignedDuration::ZERO, |now| now.duration_since(asked_at));
        let window = SignedDuration::try_from(window).unwrap_or(SignedDuration::MAX);
        if apart.abs() > CLOCKS_APART.saturating_add(window) {
            // Rounded to 5 s, since the time that the answer took is unknown.
            let seconds = (apart.abs().as_secs().unsigned_abs() + 2) / 5 * 5;
            let by = humantime::format_duration(Duration::from_secs(seconds));
            let way = if apart.is_negative() { "behind" } else { "ahead of" };
            let next = "set the one that is wrong: requests expire by the clock, on this machine or there";
            self.findings.problem(name, format!("its clock is about {by} {way} that of this machine"), next);
        }
        if !proved {
            let next = "update its listener, and then its permissions: `homelab-deploy nats-config` prints them";
            self.findings.problem(name, "it answers in the old form, which proves nothing", next);
        }
        let lacks = Feature::ALWAYS.iter().filter(|feature| !report.has(feature)).map(Feature::as_str);
        let lacks: Vec<&str> = lacks.collect();
        let version = report.version.as_deref().map_or_else(|| "of the predecessor".to_owned(), safe);
        if !lacks.is_empty() {
            let what = format!("its listener ({version}) is older and cannot: {}", lacks.join(", "));
            self.findings.note(name, what, "update it");
        }
        if self.findings.0.len() == before {
            self.findings.ok(name, format!("{}, version {version}", report.tier));
        }
    }

    /// Checks that the plans can be read and that the hosts in them are known.
    fn plans(&mut self, hosts: &[HostAnswer]) {
        let listed = self.fleet.map(|fleet| &fleet.hosts).into_iter().flatten();
        let listed = listed.map(|(host, _)| (host.tier, host.hostname.as_str()));
        let answering = hosts.iter().map(|host| (host.report.tier, host.report.hostname.as_str()));
        let known: BTreeSet<(Tier, &str)> = listed.chain(answering).collect();
        for path in &self.args.plans.files() {
            let path_shown = path.display();
            let plan = match PlanFile::read(path, &KnownAliases) {
                Ok(file) => file.plan,
                Err(error) => {
                    self.findings.error(&path_shown, &error);
                    continue;
                }
            };
            let before = self.findings.0.len();
            for selector in plan.waves.iter().flat_map(|wave| wave.targets.iter().chain(&wave.exclude)) {
                if let Target::Host(tier, name) = &selector.value.target
                    && !known.contains(&(*tier, name.as_str()))
                {
                    let of_tier = known.iter().filter(|(known, _)| known == tier).map(|(_, name)| *name);
                    let near = did_you_mean(name.as_str(), of_tier);
                    let what = format!("it names {}, which is not known", selector.value.text);
                    let next = format!("{near}it is misspelt, or its listener does not run");
                    self.findings.note(&path_shown, what, next);
                }
            }
            if self.findings.0.len() == before {
                self.findings.ok(&path_shown, "a plan");
            }
        }
    }

    /// Checks that the state directory is private to this user, and that no rollout was left unfinished.
    fn records(&mut self) {
        let journals = self.args.operator.state.journals();
        match PrivateDir::open(&journals.state_dir) {
            Err(error) if error.is_missing() => return,
            Err(error) => return self.findings.error("records", &error),
            Ok(_) => self.findings.ok("records", format!("{} is yours alone", journals.state_dir.display())),
        }
        let (all, errors) = journals.all().unwrap_or_else(|error| (Vec::new(), vec![error]));
        for error in &errors {
            self.findings.error("records", error);
        }
        for Recorded { summary, .. } in all.iter().filter(|recorded| !recorded.running) {
            let left = match summary.outcome {
                None => "was cut off",
                Some(Outcome::Paused) => "is paused",
                Some(_) => continue,
            };
            if let Some(rollout) = &summary.rollout {
                let next = format!("homelab-deploy apply --resume {}", rollout.id.short());
                self.findings.note("records", format!("the rollout {} {left}", safe(rollout.name())), next);
            }
        }
    }
}

/// What the server said to permissions that were tried with this token in their subjects.
struct KeyTrial {
    tried: Tried,
    token: String,
}

impl KeyTrial {
    fn is_refused(&self, (operation, subject): &Permission) -> bool {
        self.tried.refused.contains(&(*operation, sample(subject, &self.token)))
    }

    /// Returns how the key's permissions differ from what this holder needs.
    fn deviations(&self, holder: &Principal) -> Vec<Deviation> {
        let lacks = holder.needs().into_iter().filter(|permission| self.is_refused(permission));
        let exceeds = holder.must_not().into_iter().filter(|permission| !self.is_refused(permission));
        let beyond = self.tried.beyond.then(|| (Operation::Publish, ">".to_owned()));
        lacks.map(Deviation::Lacks).chain(exceeds.chain(beyond).map(Deviation::Exceeds)).collect()
    }
}
