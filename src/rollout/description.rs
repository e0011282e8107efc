//! The description of a rollout, which is settled before its first request.

use serde::{Deserialize, Serialize};

use crate::plan::ResolvedPlan;
use crate::protocol::{RequestIds, Revision, RolloutId};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    pub id: RolloutId,
    /// The source of its request ids.
    #[serde(rename = "secret")]
    pub ids: RequestIds,
    /// The operator, as `user@machine`.
    pub operator: String,
    /// The branch, tag or commit that the operator asked for.
    pub asked: Revision,
    /// The revision in every request: a commit if it is known, else the branch or tag, which each host resolves itself.
    pub revision: Revision,
    /// The first line of the commit's message, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The file that the plan was read from, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PlanSource>,
    pub plan: ResolvedPlan,
}

/// The plan file as it was when the rollout began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSource {
    /// An absolute path.
    pub path: String,
    /// A digest of the text, to detect later changes.
    pub digest: String,
}

impl Rollout {
    pub fn name(&self) -> &str {
        &self.plan.name
    }
}
