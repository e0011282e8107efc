//! The flags by which a context says what is told of a rollout. A plan has keys for that.

use std::path::Path;
use std::str::FromStr;

use clap::Args;

use crate::plan::{Hook, Hooks};

// What is told of a rollout.
#[derive(Debug, Args)]
#[expect(clippy::struct_field_names, reason = "they are named like the keys")]
pub(super) struct HookArgs {
    #[arg(long, hide = true, value_name = "JSON")]
    on_start: Option<Argv>,

    #[arg(long, hide = true, value_name = "JSON")]
    on_halt: Option<Argv>,

    #[arg(long, hide = true, value_name = "JSON")]
    on_finish: Option<Argv>,
}

/// A program and its arguments, as a JSON array.
#[derive(Debug, Clone)]
struct Argv(Vec<String>);

impl HookArgs {
    /// The hooks that were said.
    pub(super) fn hooks(&self) -> Hooks {
        let programs = [&self.on_start, &self.on_halt, &self.on_finish];
        Hook::ALL.into_iter().zip(programs).filter_map(|(hook, argv)| Some((hook, argv.clone()?.0))).collect()
    }
}

/// A program with its arguments as such a flag takes them. Its path is relative to this folder.
pub(super) fn in_folder(argv: &[String], folder: &Path) -> String {
    let mut argv = argv.to_owned();
    if let Some(program) = argv.first_mut().filter(|program| program.contains('/')) {
        *program = folder.join(&*program).to_string_lossy().into_owned();
    }
    serde_json::to_string(&argv).expect("texts only, so this cannot fail")
}

impl FromStr for Argv {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let argv: Vec<String> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if argv.first().is_none_or(String::is_empty) {
            return Err("it names no program".to_owned());
        }
        Ok(Self(argv))
    }
}
