//! What a rollout is about, settled before its first request.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plan::ResolvedPlan;
use crate::protocol::{RequestIds, Revision, RolloutId};

/// What a rollout is about, settled before its first request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    pub id: RolloutId,
    /// What its request ids follow from.
    #[serde(rename = "secret")]
    pub ids: RequestIds,
    /// The operator, as `user@machine`.
    pub operator: String,
    /// What was asked for: a branch, tag or commit.
    pub asked: Revision,
    /// What every request carries: a commit wherever it is known, else the branch or tag, which each host looks up for itself.
    pub revision: Revision,
    /// The first line of the commit's message, where it could be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The file that the plan was read from, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PlanSource>,
    pub plan: ResolvedPlan,
}

/// The file of a plan, as it was when the rollout began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSource {
    /// Where it is, as an absolute path.
    pub path: String,
    /// A digest of its text, to tell whether it was changed since.
    pub digest: String,
}

impl Rollout {
    /// The subject prefix and secret aside, two rollouts differ by this.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// The longest that it can take while the bus is connected and no answer to a question is awaited.
    pub fn longest(&self) -> Duration {
        self.plan.longest()
    }
}
