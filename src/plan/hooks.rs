//! Programs on the operator's machine that are told how a rollout goes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A program and its arguments for each moment that somebody may want to hear of; no shell reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// When a process begins to carry the rollout out, or goes on with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_start: Option<Vec<String>>,
    /// When a wave fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_halt: Option<Vec<String>>,
    /// When it is over, however it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_finish: Option<Vec<String>>,
}

/// The moment that a program is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// The rollout begins or goes on.
    OnStart,
    /// A wave fails.
    OnHalt,
    /// The rollout is over.
    OnFinish,
}

impl Hook {
    /// Every moment, in order.
    pub const ALL: [Self; 3] = [Self::OnStart, Self::OnHalt, Self::OnFinish];

    /// The moment as a plan spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnStart => "on_start",
            Self::OnHalt => "on_halt",
            Self::OnFinish => "on_finish",
        }
    }
}

impl Hooks {
    /// The program of a moment.
    pub fn command(&self, hook: Hook) -> Option<&Vec<String>> {
        match hook {
            Hook::OnStart => self.on_start.as_ref(),
            Hook::OnHalt => self.on_halt.as_ref(),
            Hook::OnFinish => self.on_finish.as_ref(),
        }
    }

    /// The programs that there are, in order.
    pub fn all(&self) -> impl Iterator<Item = (Hook, &Vec<String>)> {
        Hook::ALL.into_iter().filter_map(|hook| Some((hook, self.command(hook)?)))
    }

    /// Whether nothing is told of the rollout. What a record without hooks means.
    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// These, and for the moments that they say nothing of the others.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            on_start: self.on_start.or(others.on_start),
            on_halt: self.on_halt.or(others.on_halt),
            on_finish: self.on_finish.or(others.on_finish),
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
