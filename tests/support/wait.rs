//! Waits for conditions and events.

use std::time::Duration;

use miette::{Report, Result, miette};
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take: far more than it needs, so that a slow machine does not fail.
const PATIENCE: Duration = Duration::from_mins(1);

/// The pause between polls.
const PAUSE: Duration = Duration::from_millis(10);

/// Polls until there is an answer and returns it. The error says that `what` never came.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            return Err(in_vain(what));
        }
        sleep(PAUSE).await;
    }
}

/// Waits for an event. The error says that `what` never came.
pub async fn event<T>(what: &str, happens: impl Future<Output = T>) -> Result<T> {
    timeout(PATIENCE, happens).await.map_err(|_| in_vain(what))
}

fn in_vain(what: &str) -> Report {
    miette!("waited {PATIENCE:?} in vain until {what}")
}
