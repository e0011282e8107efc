//! One call on its way through the server, and the progress that its client hears.

use std::time::Duration;

use rmcp::RoleServer;
use rmcp::model::{CallToolRequestParams, JsonObject, ProgressNotificationParam, ProgressToken};
use rmcp::service::RequestContext;
use tokio::time::Instant;

use super::audit::AuditEntry;

#[derive(Clone, Copy)]
pub(super) struct ToolCall<'a> {
    pub(super) request: &'a CallToolRequestParams,
    pub(super) arguments: &'a JsonObject,
    pub(super) context: &'a RequestContext<RoleServer>,
    pub(super) audit: &'a AuditEntry<'a>,
}

/// Progress notifications, for a client that asked for them.
pub(super) struct Progress<'a> {
    context: &'a RequestContext<RoleServer>,
    token: ProgressToken,
    /// The longest silence.
    pub(super) every: Duration,
    said_at: Instant,
    /// The last number. Numbers have to grow with each message, also while nothing happens.
    reached: f64,
}

impl<'a> Progress<'a> {
    /// `None` for a client that did not ask.
    pub(super) fn towards(context: &'a RequestContext<RoleServer>, every: Duration) -> Option<Self> {
        let token = context.meta.get_progress_token()?;
        Some(Self { context, token, every, said_at: Instant::now(), reached: 0.0 })
    }

    /// Whether the client has heard nothing for long enough.
    pub(super) fn is_due(&self) -> bool {
        self.said_at.elapsed() >= self.every
    }

    /// Says something, with how many hosts are done.
    pub(super) async fn say(&mut self, message: String, done: usize, total: usize) {
        self.said_at = Instant::now();
        self.reached = count(done).max(self.reached + 0.001);
        let progress = ProgressNotificationParam::new(self.token.clone(), self.reached);
        let progress = progress.with_total(count(total).max(self.reached)).with_message(message);
        // That a client is gone is noticed elsewhere.
        self.context.peer.notify_progress(progress).await.ok();
    }
}

#[expect(clippy::cast_precision_loss, reason = "a fleet is counted in thousands")]
const fn count(hosts: usize) -> f64 {
    hosts as f64
}
