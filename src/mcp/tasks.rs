//! Rollouts as tasks: with a client that knows the tasks extension of the protocol, a call that has begun a rollout is not
//! answered when its time has come, but at once with a task, which waits as long as the rollout takes.
//!
//! A task is somebody who waits, and nothing else. The rollout has a process of its own and is on record before the task
//! exists, so whatever ends the task, be it `tasks/cancel` or the end of this server, ends nothing but the waiting. That is
//! why a task of rmcp, which nobody joins, is good enough for it.
//! What is refused or asks a person first has begun no rollout, and is answered as with any other client.

use std::fmt;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use rmcp::RoleServer;
use rmcp::model::{CallToolResponse, CallToolResult, CreateTaskResult, ProtocolVersion};
use rmcp::service::RequestContext;
use rmcp::task_manager::{TaskContext, TaskExit, TaskManager, TaskOptions};
use tokio::time::Instant;

use super::answer::Answer;
use super::call::Call;
use super::error::ToolError;
use super::server::Server;
use super::status::Told;
use super::wait::Waiter;
use crate::protocol::RolloutId;

/// The tasks of one session. Each has begun a rollout, which has a folder on disk: their number needs no other bound.
#[derive(Clone, Default)]
pub(super) struct Tasks(pub(super) TaskManager);

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tasks").field(&self.0.running_task_count()).finish()
    }
}

impl Server {
    /// Answers a call that has begun a rollout: with what it has come to when the time has come or, where the client knows
    /// that, at once with a task.
    pub(super) async fn go_on<T: Told + Send + 'static>(
        &self,
        id: RolloutId,
        until: Instant,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ToolError> {
        if knows_tasks(context) {
            if let Some(call) = Call::of(context) {
                call.about().id = Some(id.to_string());
            }
            return Ok(self.task::<T>(id));
        }
        let told = self.tell::<T>(&id.to_string(), None, Waiter::Call(context, until)).await?;
        Ok(told.into_result().into())
    }

    /// A task that waits for a rollout.
    fn task<T: Told + Send + 'static>(&self, id: RolloutId) -> CallToolResponse {
        let begun = format!("{id}: it began; a task that is cancelled waits no longer, and {} goes on telling", T::BY);
        // A task that went away while its rollout runs would be read as one that failed.
        let options = TaskOptions::new().with_ttl_ms(None).with_status_message(begun);
        let server = self.clone();
        let task = self.tasks.0.spawn(options, |task| {
            Box::pin(async move {
                let awaited = AssertUnwindSafe(server.awaited::<T>(id, &task)).catch_unwind().await;
                awaited.unwrap_or_else(|_| Ok(ToolError::broke_off().into_result()))
            })
        });
        CallToolResponse::Task(CreateTaskResult::new(task))
    }

    /// What a rollout has come to when it is over, in the words of a call that could wait for it.
    async fn awaited<T: Told>(&self, id: RolloutId, task: &TaskContext) -> Result<CallToolResult, TaskExit> {
        let told = self.tell::<T>(&id.to_string(), None, Waiter::Task(task)).await;
        if task.is_cancel_requested() {
            return Err(TaskExit::Cancelled);
        }
        let result = told.map_or_else(ToolError::into_result, Answer::into_result);
        Ok(self.scrubber.clean_result(result))
    }
}

/// Whether this very request says that its client takes a task for an answer. What was said at a handshake does not count:
/// the versions of the protocol that have one knew other tasks.
fn knows_tasks(context: &RequestContext<RoleServer>) -> bool {
    let is_new = |version: ProtocolVersion| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str();
    context.meta.protocol_version().is_some_and(is_new)
        && context.meta.client_capabilities().is_some_and(|client| client.supports_tasks())
}
