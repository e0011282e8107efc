//! Passes a call and its context through the server, and sends progress to the client.

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
    /// The last progress value. The protocol wants it to grow with each message, even while nothing happens.
    reached: f64,
}

impl<'a> Progress<'a> {
    /// Returns `None` for a client that did not ask for progress.
    pub(super) fn towards(context: &'a RequestContext<RoleServer>, every: Duration) -> Option<Self> {
        let token = context.meta.get_progress_token()?;
        Some(Self { context, token, every, said_at: Instant::now(), reached: 0.0 })
    }

    /// Whether the longest silence is over.
    pub(super) fn is_due(&self) -> bool {
        self.said_at.elapsed() >= self.every
    }

    /// Sends a message with the number of finished hosts.
    pub(super) async fn say(&mut self, message: String, done: usize, total: usize) {
        let count = |hosts| f64::from(u32::try_from(hosts).unwrap_or(u32::MAX));
        self.said_at = Instant::now();
        self.reached = count(done).max(self.reached + 0.001);
        let progress = ProgressNotificationParam::new(self.token.clone(), self.reached);
        let progress = progress.with_total(count(total).max(self.reached)).with_message(message);
        // The transport notices when the client is gone.
        self.context.peer.notify_progress(progress).await.ok();
    }
}
