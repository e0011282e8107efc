//! Asks questions at the terminal. Only `yes` means yes.

use std::io::{self, BufRead, IsTerminal, Write};

use tokio::task::spawn_blocking;

use super::display::{Audience, DisplayBarrier};
use crate::operator::driver::Confirm;
use crate::operator::flake::Consent;
use crate::rollout::{Confirmation, Summary, WaveIndex};

pub(super) fn somebody_can_answer(audience: Audience) -> bool {
    audience == Audience::Person && io::stdin().is_terminal()
}

/// Returns how to ask whether a flake that hosts name may be contacted, or `None` if no person is at the terminal.
pub(super) fn ask_about_flake(audience: Audience) -> Option<Consent> {
    let is_there = somebody_can_answer(audience) && io::stderr().is_terminal();
    is_there.then_some(|question| Box::pin(async move { ask(question).await == Confirmation::Yes }))
}

/// Asks before each wave that needs confirmation, once everything before the question is shown. With JSON on stdout, or
/// without a terminal, nobody can be asked.
pub(super) fn ask_before_wave(audience: Audience, display: DisplayBarrier) -> Confirm<'static> {
    Box::new(move |summary: &Summary, wave: WaveIndex| {
        if !somebody_can_answer(audience) {
            return Box::pin(async { Confirmation::Unavailable });
        }
        let waves = summary.rollout.iter().flat_map(|rollout| &rollout.plan.waves);
        let name = waves.map(|wave| wave.name.as_str()).nth(wave.0).unwrap_or_default();
        let question = format!("Start wave {wave} {name:?}?");
        let all_shown = display.wait();
        Box::pin(async {
            all_shown.await;
            ask(question).await
        })
    })
}

pub(super) async fn ask(question: String) -> Confirmation {
    let answer = spawn_blocking(move || {
        write!(io::stderr(), "{question} Only 'yes' is accepted: ")?;
        io::stderr().flush()?;
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line)?;
        io::Result::Ok((read > 0).then_some(line))
    });
    match answer.await {
        Ok(Ok(Some(line))) if line.trim() == "yes" => Confirmation::Yes,
        Ok(Ok(Some(_))) => Confirmation::No,
        // The terminal is gone or at its end, so nobody has answered.
        Ok(Ok(None) | Err(_)) | Err(_) => Confirmation::Unavailable,
    }
}
