//! What another program says when it is asked.

use std::ffi::OsStr;
use std::time::Duration;

use tokio::process::Command;

use crate::lookup::in_plain_words;
use crate::process_group::output_within;

/// How long a program may take to answer. That one does not is no reason to stop a deployment.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What a program says, if it succeeds and does so soon.
pub(super) async fn answer(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    in_plain_words(command.as_std_mut());
    let output = output_within(command.args(arguments), ANSWER_WITHIN).await.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
