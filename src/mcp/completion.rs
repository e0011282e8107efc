//! How the arguments of prompts and resources can go on, for a person who fills in a form.
//!
//! Who is there now could only be asked over the network, while somebody types: the hosts are those of the last rollout.

use rmcp::model::{ArgumentInfo, CompletionInfo};

use super::settings::Settings;
use crate::operator::journal::Journals;

/// The values that an argument can have, given how it begins. What it belongs to does not matter: the same name means the
/// same everywhere.
pub(super) fn complete(argument: &ArgumentInfo, settings: &Settings) -> CompletionInfo {
    let mut values = match argument.name.as_str() {
        "plan" | "name" => settings.plans.names().iter().map(ToString::to_string).collect(),
        "rollout" | "id" => settings.journals.ids().unwrap_or_default(),
        "host" => last_hosts(&settings.journals),
        _ => Vec::new(),
    };
    values.retain(|value| value.starts_with(&argument.value));
    values.sort();
    let total = u32::try_from(values.len()).ok();
    let has_more = values.len() > CompletionInfo::MAX_VALUES;
    values.truncate(CompletionInfo::MAX_VALUES);
    CompletionInfo::with_pagination(values, total, has_more).unwrap_or_default()
}

fn last_hosts(journals: &Journals) -> Vec<String> {
    let last = journals.latest().ok().flatten().and_then(|id| journals.read(&id).ok());
    let rollout = last.and_then(|recorded| recorded.summary.rollout);
    rollout.map(|rollout| rollout.plan.hosts().map(|host| host.hostname.to_string()).collect()).unwrap_or_default()
}
