//! Tests what holds for all commands.

use clap::{Arg, Command, CommandFactory};

use super::commands::Cli;

/// Returns the commands that the help lists.
fn commands() -> Vec<Command> {
    let mut root = Cli::command().term_width(80);
    root.build();
    root.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect()
}

fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set())
}

#[test]
fn clap_finds_nothing_wrong() {
    Cli::command().debug_assert();
}

#[test]
fn every_flag_of_who_connects_has_its_variable() {
    let connecting = commands().into_iter().filter(|command| flags(command).any(|flag| flag.get_id() == "nats_url"));
    let mut count = 0;
    for command in connecting {
        for flag in flags(&command) {
            let name = flag.get_long().unwrap();
            // These flags change what a single call does, so they have no variable.
            if matches!(name, "help" | "out" | "resume" | "schema" | "listener" | "id" | "follow" | "to") {
                continue;
            }
            let variable = format!("HOMELAB_DEPLOY_{}", name.to_uppercase().replace('-', "_"));
            let actual = flag.get_env().map(|variable| variable.to_str().unwrap());
            assert_eq!(actual, Some(variable.as_str()), "--{name} of {}", command.get_name());
            count += 1;
        }
    }
    assert!(count > 40, "only {count} flags");
}

#[test]
fn help_fits_a_terminal_of_80_columns_and_hides_what_is_not_for_people() {
    for mut command in commands() {
        let name = command.get_name().to_owned();
        for help in [command.render_help(), command.render_long_help()].map(|help| help.to_string()) {
            // The usage is never broken, so that it can be copied.
            for line in help.lines().filter(|line| !line.starts_with("Usage: ")) {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
            for hidden in ["[env: HOME=", "XDG_", "[env: USER=", "NO_COLOR", "JOURNAL_STREAM", "STATE_DIRECTORY"] {
                assert!(!help.contains(hidden), "{name}: {hidden}");
            }
        }
    }
}

#[test]
fn help_begins_with_what_the_command_does_and_ends_with_examples_and_exit_codes() {
    const VERBS: [&str; 13] = [
        "Create", "Write", "Build", "Check", "Carry", "List", "Show", "Stop", "Deploy", "Roll", "Print", "Run", "Serve",
    ];
    // Clap adds `help`.
    for mut command in commands().into_iter().filter(|command| command.get_name() != "help") {
        let name = command.get_name().to_owned();
        for help in [command.render_help(), command.render_long_help()].map(|help| help.to_string()) {
            let verb = help.split_whitespace().next().unwrap();
            assert!(VERBS.contains(&verb), "{name} begins with {verb}: {help}");
            let examples = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{name} has no examples: {help}")).1;
            let (examples, codes) =
                examples.split_once("\n\nExit codes:\n").unwrap_or_else(|| panic!("{name}: {help}"));
            assert!(examples.contains(&format!("homelab-deploy {name}")), "{name}: {examples}");
            assert!(codes.trim_start().starts_with("0 "), "{name}: {codes}");
        }
    }
}
