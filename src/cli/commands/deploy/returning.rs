//! `deploy --auto-rollback`: whoever listens there, provided that all of them can return to what they ran before.
//!
//! The roll call comes first, as in a plan: a listener that does not know of returning would deploy as ever. So each
//! host that answered gets the request on its own subject, and who comes later is not sent any.

use std::sync::Arc;
use std::time::Duration;

use miette::Diagnostic;
use thiserror::Error;

use super::{ACCEPT_TIMEOUT, Deploy, NobodyThere, is_deserted, who_answers};
use crate::bus::Bus;
use crate::cli::exit::{CommandError, CommandResult, Exit};
use crate::clock;
use crate::operator::RollCall;
use crate::plan::{At, FrozenPlan, Parallel, Plan, Roster, Selector, Settings, Wave};
use crate::protocol::{Feature, HostReport, Target};
use crate::rollout::Machine;

#[derive(Debug, Error, Diagnostic)]
#[error("the listeners of {0} cannot return to what ran before")]
#[diagnostic(help("update them first, by deploying to them without --auto-rollback; nothing was sent"))]
struct TooOld(String);

impl Deploy {
    pub(super) async fn deploy_returning(self, selector: Selector) -> CommandResult {
        let mut bus = self.operator.connect().await?;
        let roster = self.call_roll(&mut bus, &selector).await?;
        let plan = self.freeze(&roster, selector)?;
        let rollout = Arc::new(self.rollout(plan));
        let mut machine = Machine::new(Arc::clone(&rollout), clock::now());
        let progress = self.drive(bus, &rollout, &mut machine).await?;
        if is_deserted(&progress.summary) {
            return Err(nobody_there(&roster, &rollout.plan.name));
        }
        Ok(self.conclude(&progress))
    }

    async fn call_roll(&self, bus: &mut Bus, selector: &Selector) -> Result<Roster, CommandError> {
        let discovery = self.operator.discovery(None);
        let only = match &selector.target {
            Target::Host(_, host) => Some([host.clone()].into()),
            Target::Role(..) | Target::All(_) | Target::Custom(_) => None,
        };
        let called = RollCall { discovery: &discovery, only }.call(bus).await;
        called.map(|called| Roster::new(called.hosts)).map_err(|error| Exit::Precondition.because(error))
    }

    /// The hosts that the selector means, as a plan of one wave, all of them at once.
    fn freeze(&self, roster: &Roster, selector: Selector) -> Result<FrozenPlan, CommandError> {
        let name = selector.target.subject().to_string();
        let members = members(roster, &selector.target);
        if members.is_empty() {
            return Err(nobody_there(roster, &name));
        }
        let old: Vec<&str> =
            members.iter().filter(|host| !host.has(&Feature::Rollback)).map(|host| host.hostname.as_str()).collect();
        if !old.is_empty() {
            return Err(Exit::Usage.because(TooOld(old.join(" "))));
        }
        let settings = Settings {
            action: self.action,
            max_parallel: Parallel::Percent(100),
            accept_timeout: At::nowhere(ACCEPT_TIMEOUT),
            timeout: At::nowhere(Duration::from_secs(self.timeout.into())),
            ..Settings::default()
        };
        let targets = vec![At::nowhere(selector)];
        let wave = Wave { name: At::nowhere(name.clone()), targets, exclude: Vec::new(), settings };
        let mut plan = Plan { name, revision: None, flake: None, waves: vec![wave] };
        self.rollback.speak_for(&mut plan);
        let (frozen, _) = plan.resolve(roster).map_err(|mistakes| Exit::Usage.because(mistakes))?;
        Ok(frozen)
    }
}

/// Those who answered and are meant.
fn members<'a>(roster: &'a Roster, target: &Target) -> Vec<&'a HostReport> {
    match target {
        Target::Host(_, host) => roster.host(host).into_iter().collect(),
        group => roster.members(&group.subject()).collect(),
    }
}

fn nobody_there(roster: &Roster, subject: &str) -> CommandError {
    let subjects = roster.hosts().filter_map(|host| host.deploy_subjects.first());
    Exit::Failed.because(NobodyThere { subject: subject.to_owned(), help: who_answers(subjects) })
}
