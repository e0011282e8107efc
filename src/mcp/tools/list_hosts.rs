//! `list_hosts`: who is there.

use std::fmt::Write;

use rmcp::schemars::{self, JsonSchema};
use serde::{Deserialize, Serialize};

use crate::mcp::answer::Answer;
use crate::mcp::error::ToolError;
use crate::mcp::page::Page;
use crate::mcp::schema;
use crate::mcp::server::Server;
use crate::mcp::settings::Access;
use crate::operator::{Awaited, Purpose, RollCall};
use crate::protocol::{HostAnswer, Tier};
use crate::text::safe;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    /// Only hosts of this tier.
    #[serde(default)]
    #[schemars(schema_with = "schema::tier")]
    tier: Option<Tier>,
    /// `next_cursor` of the previous page.
    #[serde(default)]
    #[schemars(with = "String")]
    cursor: Option<String>,
}

/// The hosts, by tier and name.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Listing {
    /// The hosts, by tier and name.
    hosts: Vec<Host>,
    /// How many hosts answered.
    total: usize,
    /// Whether there are more on the next page.
    truncated: bool,
    /// The cursor of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    next_cursor: Option<String>,
    /// The tiers whose hosts this server may not hear.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    unheard: Vec<Tier>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct Host {
    /// Its name.
    hostname: String,
    /// Its tier.
    #[schemars(schema_with = "schema::tier")]
    tier: Tier,
    /// Its role.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    role: Option<String>,
    /// The commit that it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    revision: Option<String>,
    /// The generation that it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    generation: Option<u64>,
    /// The version of its listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    version: Option<String>,
    /// Whether a reboot would change what it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    reboot_pending: Option<bool>,
    /// Who it is deploying for now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    busy_for: Option<String>,
    /// How its last deployment ended: completed or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    last_status: Option<String>,
    /// The kind of failure of its last deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    last_error: Option<String>,
}

pub(super) async fn list(server: &Server, arguments: Arguments) -> Result<Answer<Listing>, ToolError> {
    // Each key hears the hosts of its own tier; an administrator's hears all.
    let is_admins = server.settings.admin.is_some() && arguments.tier != Some(Tier::Test);
    let mut bus = server.connect(if is_admins { Access::Admin } else { Access::Test }).await?;
    let (purpose, awaited) = (Purpose::List(arguments.tier), Awaited::everybody(arguments.tier));
    let called = RollCall { discovery: &server.settings.discovery, purpose, awaited }.call(&mut bus).await?;
    let unheard = called.unheard.clone();
    let page = Page::of(&called.sorted(), arguments.cursor.as_deref(), Host::of)?;
    let mut text = in_words(&page);
    for tier in &unheard {
        write!(text, "\nThis server's key may not hear hosts of {tier}.").expect("writing to memory cannot fail");
    }
    let truncated = page.truncated();
    let Page { items: hosts, total, next_cursor } = page;
    Ok(Answer { data: Listing { hosts, total, truncated, next_cursor, unheard }, text })
}

fn in_words(page: &Page<Host>) -> String {
    let mut text = match page.total {
        0 => "No host answers: check that the listeners run and use the same NATS server.".to_owned(),
        1 => "1 host answers.".to_owned(),
        total => format!("{total} hosts answer."),
    };
    for host in &page.items {
        let revision =
            host.revision.as_deref().map_or("an unknown revision", |revision| revision.get(..7).unwrap_or(revision));
        let busy = if host.busy_for.is_some() { ", busy" } else { "" };
        write!(text, "\n{}.{} {revision}{busy}", host.tier, host.hostname).expect("writing to memory cannot fail");
    }
    if let Some(cursor) = &page.next_cursor {
        write!(text, "\nMore with cursor {cursor}.").expect("writing to memory cannot fail");
    }
    text
}

impl Host {
    fn of(HostAnswer { report, .. }: &HostAnswer) -> Self {
        Self {
            hostname: safe(report.hostname.as_str()),
            tier: report.tier,
            role: report.role.as_ref().map(|role| safe(role.as_str())),
            revision: report.revision.as_ref().map(ToString::to_string),
            generation: report.generation,
            version: report.version.as_deref().map(short),
            reboot_pending: report.booted_system_differs,
            busy_for: report.busy.as_ref().map(|holder| short(holder.operator.as_deref().unwrap_or("somebody"))),
            last_status: report.last.as_ref().map(|last| last.status.to_string()),
            last_error: report.last.as_ref().and_then(|last| last.error.as_ref()).map(|error| short(error.as_str())),
        }
    }
}

/// What a host says, in one line of which it cannot make a page.
fn short(text: &str) -> String {
    safe(text).chars().take(100).collect()
}
