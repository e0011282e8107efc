//! Questions at the terminal. Only `yes` means yes.

use std::io::{self, BufRead, IsTerminal, Write};

use tokio::task::spawn_blocking;

use super::display::{Audience, Shown};
use crate::operator::drive::Confirm;
use crate::operator::flake::Consent;
use crate::rollout::{Answer, Summary, WaveIndex};

/// Asks whether the rollout that was shown may start.
pub(super) async fn start() -> bool {
    ask("Start this rollout? Only 'yes' is accepted: ".to_owned()).await == Answer::Yes
}

/// How a person is asked whether a flake that the hosts name may be contacted, where one is there.
pub(super) fn flake(audience: Audience) -> Option<Consent> {
    let is_there = audience == Audience::Person && io::stdin().is_terminal() && io::stderr().is_terminal();
    is_there.then_some(|question| {
        Box::pin(async move { ask(format!("{question} Only 'yes' is accepted: ")).await == Answer::Yes })
    })
}

/// Asks before each wave that wants it. With JSON on stdout, or without a terminal, there is nobody to ask.
/// What led to the question is seen before it.
pub(super) fn wave(audience: Audience, shown: Shown) -> Confirm<'static> {
    Box::new(move |summary: &Summary, wave: WaveIndex| {
        if audience == Audience::Program || !io::stdin().is_terminal() {
            return Box::pin(async { Answer::Unavailable });
        }
        let waves = summary.rollout.iter().flat_map(|rollout| &rollout.plan.waves);
        let name = waves.map(|wave| wave.name.as_str()).nth(wave.0).unwrap_or_default();
        let question = format!("Start wave {wave} {name:?}? Only 'yes' is accepted: ");
        let all_shown = shown.all();
        Box::pin(async {
            all_shown.await;
            ask(question).await
        })
    })
}

async fn ask(question: String) -> Answer {
    let answer = spawn_blocking(move || {
        write!(io::stderr(), "{question}")?;
        io::stderr().flush()?;
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line)?;
        io::Result::Ok((read > 0).then_some(line))
    });
    match answer.await {
        Ok(Ok(Some(line))) if line.trim() == "yes" => Answer::Yes,
        Ok(Ok(Some(_))) => Answer::No,
        // The terminal is gone, or its end was reached: nobody has answered.
        Ok(Ok(None) | Err(_)) | Err(_) => Answer::Unavailable,
    }
}
