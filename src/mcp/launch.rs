//! From what an assistant asks for to a rollout that runs: settled, held against what its key may do, and left to a process
//! of its own.
//!
//! A single deployment is a rollout of one wave as well. So it is on record before it begins, goes on when the client ends
//! this server, as many do with a call that they cancel, and any later process can tell how it ended.

use std::sync::Arc;

use rmcp::RoleServer;
use rmcp::model::{InputRequiredResult, JsonObject};
use rmcp::service::RequestContext;
use tokio::time::{Instant, timeout_at};

use super::approval::{Approval, Question};
use super::error::ToolError;
use super::server::Server;
use super::settings::Access;
use crate::operator::detach::Background;
use crate::operator::{Prepared, RollCalled, Wanted};
use crate::plan::FrozenPlan;
use crate::protocol::{RolloutId, Tier};
use crate::report;

/// What is to be launched, in the words in which it was asked for.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    /// The tool, and what it was called with.
    pub(super) tool: &'static str,
    pub(super) arguments: &'a JsonObject,
    /// The key that it connects with.
    pub(super) access: Access,
    /// What to call it: the target as plans write it, or the name of the plan.
    pub(super) phrase: String,
    /// What `preview_plan` called it.
    pub(super) plan_hash: Option<&'a str>,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Launched {
    /// It is under way, and on record.
    Begun(RolloutId),
    /// A person is asked first.
    Asked(Box<InputRequiredResult>),
}

impl Server {
    /// Settles hosts and commit before the call has to be answered. `judge` sees who is there before anything else is done.
    pub(super) async fn prepare(
        &self,
        access: Access,
        wanted: Wanted,
        until: Instant,
        judge: impl FnOnce(&RollCalled) -> Result<(), ToolError>,
    ) -> Result<Prepared, ToolError> {
        let prepared = async {
            let mut bus = self.connect(access).await?;
            let called = wanted.call_roll(&mut bus, &self.settings.discovery).await?;
            judge(&called.roll)?;
            let mut prepared = wanted.settle(called).await?;
            within_reach(access, &prepared.rollout.plan)?;
            prepared.warnings.extend(report::missed(&prepared.missed(&self.settings.journals)));
            Ok(prepared)
        };
        let late = || {
            ToolError::new("too_slow", "it was not settled in time which hosts are there and which commit to deploy")
                .next("nothing was sent; see that the repository can be reached, or name the whole commit id")
        };
        timeout_at(until, prepared).await.unwrap_or_else(|_| Err(late()))
    }

    /// Begins a rollout, unless there is a reason not to or a person has to be asked first.
    pub(super) async fn launch(
        &self,
        launch: Launch<'_>,
        prepared: Prepared,
        context: &RequestContext<RoleServer>,
    ) -> Result<Launched, ToolError> {
        prepared.yield_to_others()?;
        prepared.go_forward()?;
        let Launch { tool, arguments, access, phrase, plan_hash } = launch;
        let mut question = Question::about(tool, arguments, &phrase, &prepared.rollout);
        if let Some(plan_hash) = plan_hash {
            question = question.previewed(plan_hash);
        }
        match self.permit(&question, context).await? {
            Approval::Given(_) => self.begin(access, prepared).map(Launched::Begun),
            Approval::Asked(question) => Ok(Launched::Asked(question)),
        }
    }

    /// Leaves a rollout to a process of its own. It is on record when this returns.
    fn begin(&self, access: Access, prepared: Prepared) -> Result<RolloutId, ToolError> {
        let environment = self.settings.environment(self.connection(access)?);
        let background = Background { program: self.settings.program.clone(), ..Background::apply(environment) };
        let rollout = Arc::new(prepared.rollout);
        background.begin(&rollout, &self.settings.journals)?;
        Ok(rollout.id)
    }
}

/// Makes sure that a plan has no host that the key is not for. The server would refuse to publish to it, but only once the
/// hosts before it had been deployed.
pub(super) fn within_reach(access: Access, plan: &FrozenPlan) -> Result<(), ToolError> {
    let is_beyond = |tier: Tier| access == Access::Test && tier != Tier::Test;
    let beyond = plan.hosts().find(|host| {
        let named = host.subject().target().ok().and_then(|target| target.tier());
        is_beyond(host.tier) || named.is_some_and(is_beyond)
    });
    match beyond {
        None => Ok(()),
        Some(host) => Err(ToolError::new(
            "wrong_tier",
            format!("{} is a host of {}, and this tool is for hosts of test", host.hostname, host.tier),
        )
        .next("list_hosts tells the tier of each host; deploy_admin deploys to any, where this server offers it")),
    }
}
