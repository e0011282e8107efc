//! Examines an operator's side: the key and its permissions, the hosts, the plans, the journals.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::Doctor;
use super::findings::Findings;
use crate::bus::{self, Bus, Operation, Tried};
use crate::cli::alias;
use crate::cli::commands::hosts::twins;
use crate::clock;
use crate::listener;
use crate::nats_config::{Deviation, FleetList, Permission, Principal, sample};
use crate::operator::journal::Recorded;
use crate::operator::plan_file::PlanFile;
use crate::operator::{Awaited, Discovered, Discovery, Purpose, RollCall};
use crate::private_dir::PrivateDir;
use crate::protocol::{Feature, HostAnswer, SubjectError, Target, Tier};
use crate::rollout::Outcome;
use crate::text::{did_you_mean, safe};

/// How far clocks may differ, beside the time that an answer may take.
const CLOCKS_APART: SignedDuration = SignedDuration::from_secs(10);

pub(super) struct OperatorCheckup<'a> {
    pub(super) args: &'a Doctor,
    pub(super) discovery: Discovery,
    pub(super) fleet: Option<&'a FleetList>,
}

impl OperatorCheckup<'_> {
    pub(super) async fn examine(self) -> Result<Findings, SubjectError> {
        let mut findings = Findings::default();
        let called = self.server(&mut findings).await?;
        if let Some((called, asked_at)) = &called {
            self.hosts(called, *asked_at, &mut findings);
        }
        let hosts = called.map(|(called, _)| called.hosts).unwrap_or_default();
        self.plans(&hosts, &mut findings);
        self.records(&mut findings);
        if let Some(flake) = &self.args.flake {
            match listener::flake_problem(flake.clone(), Duration::ZERO).await {
                // Nix would have to fetch the whole flake to answer.
                None if flake.git_remote().is_none() => findings.ok("flake", "it is not for git to ask"),
                None => findings.ok("flake", "it can be asked"),
                Some(why) => {
                    let next = "check --flake, git on this machine, and its access to the repository";
                    findings.problem("flake", why, next);
                }
            }
        }
        Ok(findings)
    }

    /// Connects, tries the permissions of the key, and calls the roll. Returns the answers and the time of the call.
    async fn server(&self, findings: &mut Findings) -> Result<Option<(Discovered, Timestamp)>, SubjectError> {
        let settings = self.args.operator.settings();
        let connected = Bus::connect(&settings).await.map_err(|error| findings.error("server", &error));
        let Ok(mut bus) = connected else { return Ok(None) };
        let servers: Vec<String> = settings.servers.iter().map(ToString::to_string).collect();
        findings.ok("server", format!("{} accepts the key", servers.join(", ")));
        for warning in &bus.warnings {
            findings.problem("key", warning, "the seed is for you alone");
        }
        let key = bus::public_key(&settings.nkey_file).map(|(key, _)| key).unwrap_or_default();
        let known = self.fleet.and_then(|fleet| fleet.holder(&key));
        if let Some(Principal::Listener(_)) = known {
            let what = format!("this is the key of the {}", known.map(|holder| holder.to_string()).unwrap_or_default());
            findings.problem("key", what, "use that of an operator, as in keys/operator.seed: hosts cannot deploy");
            return Ok(None);
        }
        if self.fleet.is_some() && known.is_none() {
            findings.problem("key", format!("{key} is not in fleet.toml"), "add it there as an [[operator]]");
        }
        if !self.permissions(&mut bus, known, findings).await? {
            return Ok(None);
        }
        let call =
            RollCall { discovery: &self.discovery, purpose: Purpose::List(None), awaited: Awaited::everybody(None) };
        let asked_at = clock::now();
        let called = call.call(&mut bus).await.map_err(|error| findings.error("hosts", &error));
        Ok(called.ok().map(|called| (called, asked_at)))
    }

    /// Checks the permissions of the key, and returns whether it can receive the responses of any tier.
    async fn permissions(
        &self,
        bus: &mut Bus,
        known: Option<Principal>,
        findings: &mut Findings,
    ) -> Result<bool, SubjectError> {
        let (all, beyond) = (Principal::Admin.needs()?, Principal::TestDeployer.must_not()?);
        let token = Uuid::new_v4().to_string();
        let Some(tried) = try_out(bus, all.iter().chain(&beyond), &token, findings).await else { return Ok(false) };
        let may = |operation, subject: String| !is_refused(&tried, &(operation, subject), &token);
        let reaches = |tier: Tier| may(Operation::Publish, format!("deploy.{tier}.>"));
        let hears = |tier: Tier| may(Operation::Subscribe, format!("deploy.responses.{tier}.>"));
        let guess = if reaches(Tier::Prod) || hears(Tier::Prod) {
            Some(Principal::Admin)
        } else {
            (reaches(Tier::Test) || hears(Tier::Test)).then_some(Principal::TestDeployer)
        };
        let Some(holder) = known.or(guess) else {
            let next = "use the key of an operator, or see that the server has its permissions: `homelab-deploy nats-config` prints them";
            findings.problem("key", "this key may deploy to no tier; it may be that of a listener", next);
            return Ok(false);
        };
        let deviations = deviations(&tried, &holder.needs()?, &holder.must_not()?, &token);
        if deviations.is_empty() {
            findings.ok("key", format!("this is the key of an operator: {holder}"));
        }
        findings.deviations("key", &format!("this key ({holder})"), &deviations);
        for tier in Tier::ALL.into_iter().filter(|tier| !reaches(*tier)) {
            let what = format!("cannot reach {tier} with this key ({holder})");
            let next = "an admin's key reaches every tier; `homelab-deploy nats-config --admin` prints its permissions";
            findings.note(tier, what, next);
        }
        Ok(hears(Tier::Test) || hears(Tier::Prod))
    }

    fn hosts(&self, called: &Discovered, asked_at: Timestamp, findings: &mut Findings) {
        let hosts = called.clone().sorted();
        for twin in twins(&hosts) {
            let next = "stop one listener, or give it a name and a key of its own";
            findings.problem(twin, "two machines answer to this name", next);
        }
        for host in &hosts {
            self.host(host, asked_at, findings);
        }
        let is_silent = |tier: Tier, name: &str| {
            let answers = |host: &HostAnswer| host.report.tier == tier && host.report.hostname.as_str() == name;
            !called.unheard.contains(&tier) && !hosts.iter().any(answers)
        };
        for (name, _) in self.fleet.map(|fleet| &fleet.hosts).into_iter().flatten() {
            if is_silent(name.tier, name.hostname.as_str()) {
                let next = "start it, or look at it there: homelab-deploy doctor --listener";
                findings.note(&name.hostname, "it does not answer", next);
            }
        }
        if hosts.is_empty() && self.fleet.is_none() {
            findings.note("hosts", "no host answers", "check that the listeners run and use this server");
        }
    }

    /// Checks what a host reports, its clock, its version, and whether its answer is proved.
    fn host(&self, HostAnswer { report, proved }: &HostAnswer, asked_at: Timestamp, findings: &mut Findings) {
        let (name, before) = (&report.hostname, findings.0.len());
        for problem in &report.problems {
            let next = "look at it there: homelab-deploy doctor --listener";
            findings.problem(name, safe(&problem.message), next);
        }
        let apart = report.now.map_or(SignedDuration::ZERO, |now| now.duration_since(asked_at));
        let window = SignedDuration::try_from(self.discovery.longest()).unwrap_or(SignedDuration::MAX);
        if apart.abs() > CLOCKS_APART.saturating_add(window) {
            // Rounded to 5 s, since the time that the answer took is unknown.
            let seconds = (apart.abs().as_secs().unsigned_abs() + 2) / 5 * 5;
            let by = humantime::format_duration(Duration::from_secs(seconds));
            let way = if apart.is_negative() { "behind" } else { "ahead of" };
            let next = "set the one that is wrong: requests expire by the clock, on this machine or there";
            findings.problem(name, format!("its clock is about {by} {way} that of this machine"), next);
        }
        if !proved {
            let next = "update its listener, and then its permissions: `homelab-deploy nats-config` prints them";
            findings.problem(name, "it answers in the old form, which proves nothing", next);
        }
        let lacks = Feature::ALWAYS.iter().filter(|feature| !report.has(feature)).map(Feature::as_str);
        let lacks: Vec<&str> = lacks.collect();
        let version = report.version.as_deref().map_or_else(|| "of the predecessor".to_owned(), safe);
        if !lacks.is_empty() {
            let what = format!("its listener ({version}) is older and cannot: {}", lacks.join(", "));
            findings.note(name, what, "update it");
        }
        if findings.0.len() == before {
            findings.ok(name, format!("{}, version {version}", report.tier));
        }
    }

    /// Checks that the plans can be read and that the hosts in them are known.
    fn plans(&self, hosts: &[HostAnswer], findings: &mut Findings) {
        for path in &self.args.plans.files() {
            let plan = match PlanFile::read(path, &alias::KnownAliases) {
                Ok(file) => file.plan,
                Err(error) => {
                    findings.error(path.display(), &error);
                    findings.note(
                        path.display(),
                        "it cannot be used",
                        format!("homelab-deploy plan {}", path.display()),
                    );
                    continue;
                }
            };
            let before = findings.0.len();
            let listed = self.fleet.map(|fleet| &fleet.hosts).into_iter().flatten();
            let listed = listed.map(|(host, _)| (host.tier, host.hostname.as_str()));
            let answering = hosts.iter().map(|host| (host.report.tier, host.report.hostname.as_str()));
            let known: BTreeSet<(Tier, &str)> = listed.chain(answering).collect();
            for selector in plan.waves.iter().flat_map(|wave| wave.targets.iter().chain(&wave.exclude)) {
                if let Target::Host(tier, name) = &selector.value.target
                    && !known.contains(&(*tier, name.as_str()))
                {
                    let of_tier = known.iter().filter(|(known, _)| known == tier).map(|(_, name)| *name);
                    let near = did_you_mean(name.as_str(), of_tier);
                    let next = format!("{near}it is misspelt, or its listener does not run");
                    findings.note(
                        path.display(),
                        format!("it names {}, of which nothing is known", selector.value.text),
                        next,
                    );
                }
            }
            if findings.0.len() == before {
                findings.ok(path.display(), "a plan");
            }
        }
    }

    /// Checks that the state directory is private to this user, and that no rollout was left unfinished.
    fn records(&self, findings: &mut Findings) {
        let journals = self.args.state.journals();
        match PrivateDir::open(journals.state_dir()) {
            Err(error) if error.is_missing() => return,
            Err(error) => return findings.error("records", &error),
            Ok(_) => findings.ok("records", format!("{} is yours alone", journals.state_dir().display())),
        }
        let (all, errors) = journals.all().unwrap_or_else(|error| (Vec::new(), vec![error]));
        for error in &errors {
            findings.error("records", error);
        }
        for Recorded { summary, .. } in all.iter().filter(|recorded| !recorded.running) {
            let left = match summary.outcome {
                None => "was broken off",
                Some(Outcome::Paused) => "is paused",
                Some(_) => continue,
            };
            if let Some(rollout) = &summary.rollout {
                let next = format!("homelab-deploy apply --resume {}", rollout.id.short());
                findings.note("records", format!("the rollout {} {left}", safe(rollout.name())), next);
            }
        }
    }
}

/// Tries these permissions on subjects that nobody uses. Returns `None` if the server does not say what it allows.
pub(super) async fn try_out<'a>(
    bus: &mut Bus,
    permissions: impl Iterator<Item = &'a Permission>,
    token: &str,
    findings: &mut Findings,
) -> Option<Tried> {
    let samples: Vec<Permission> =
        permissions.map(|(operation, subject)| (*operation, sample(subject, token))).collect();
    let tried = bus.try_out(&samples).await;
    tried.map_err(|why| findings.problem("server", why, "try again when the server is well")).ok()
}

fn is_refused(tried: &Tried, (operation, subject): &Permission, token: &str) -> bool {
    tried.refused.contains(&(*operation, sample(subject, token)))
}

/// Returns how the tried permissions differ from what is needed.
pub(super) fn deviations(tried: &Tried, needs: &[Permission], must_not: &[Permission], token: &str) -> Vec<Deviation> {
    let lacks = needs.iter().filter(|permission| is_refused(tried, permission, token)).cloned().map(Deviation::Lacks);
    let exceeds = must_not.iter().filter(|permission| !is_refused(tried, permission, token)).cloned();
    let beyond = tried.beyond.then(|| (Operation::Publish, ">".to_owned()));
    lacks.chain(exceeds.chain(beyond).map(Deviation::Exceeds)).collect()
}
