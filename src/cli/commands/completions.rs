//! `completions`: what makes a shell complete the command line.

use clap::{Args, ValueEnum};
use clap_complete::env::{Bash, Fish, Zsh};

use crate::cli::completion;
use crate::cli::exit::Exit;
use crate::cli::out;

#[derive(Debug, Args)]
pub(in crate::cli) struct Completions {
    /// For which shell
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    pub(in crate::cli) fn run(self) -> Exit {
        out::data(&match self.shell {
            Shell::Bash => completion::script(&Bash),
            Shell::Zsh => completion::script(&Zsh),
            Shell::Fish => completion::script(&Fish),
        });
        Exit::Success
    }
}
