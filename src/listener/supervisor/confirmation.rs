//! Waiting to be told that the host was heard from.

use std::time::Duration;

use tokio::time::sleep;

use super::stop_signal::StopSignal;
use crate::listener::run::RunDir;
use crate::listener::verdict::End;

/// How often it is looked whether it was told.
const POLL: Duration = Duration::from_millis(100);

/// Waits until the run is confirmed, which a listener notes in its directory. An error is what came instead: that the
/// time was over, or a signal.
pub(super) async fn confirmed(dir: &RunDir, bounds: &mut StopSignal) -> Result<(), End> {
    let noted = async {
        while !dir.is_confirmed() {
            sleep(POLL).await;
        }
    };
    tokio::select! {
        () = noted => Ok(()),
        end = bounds.reached() => Err(end),
    }
}
