//! `completions`: what makes a shell complete the command line.

use clap::{Args, ValueEnum};
use clap_complete::env::{Bash, Fish, Zsh};

use crate::cli::completion;
use crate::cli::exit::Exit;
use crate::cli::out;

/// How each shell is told.
const SETUP: &str = r#"In ~/.bashrc:
  eval "$(homelab-deploy completions bash)"
In ~/.zshrc, below compinit:
  eval "$(homelab-deploy completions zsh)"
In ~/.config/fish/config.fish:
  homelab-deploy completions fish | source"#;

#[derive(Debug, Args)]
#[command(after_help = SETUP)]
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
