//! Tests which context is chosen, and what takes precedence over it.

use std::path::Path;

use clap::CommandFactory;

use super::*;
use crate::cli::commands::Cli;

const TWO: &str = r#"
default-context = "home"

[context.home]
server = "nats://home:4222"
key = "keys/ops.seed"
flake = "git+https://h/home"
plans = "/plans"

[context.lab]
server = "nats://lab-a,nats://lab-b"
key = "/lab.seed"
assistant-key = "assistant.seed"
"#;

/// Returns a command line with the words that the context in this text adds, without those that name its file.
fn settled(text: &str, words: &[&str]) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("contexts.toml");
    fs::write(&file, text).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let words = ["homelab-deploy"].iter().chain(words).chain(&config).map(OsString::from).collect();
    let settled = with_context(&Cli::command(), words).map_err(|error| {
        let help = error.report.help().map(|help| help.to_string()).unwrap_or_default();
        short(&format!("{}\n{help}", error.report), folder.path())
    })?;
    let settled: Vec<&str> = settled.iter().map(|word| word.to_str().unwrap()).collect();
    Ok(short(&settled[1..settled.len() - 2].join(" "), folder.path()))
}

/// Replaces the temporary folder, which differs in each run.
fn short(text: &str, folder: &Path) -> String {
    text.replace(folder.to_str().unwrap(), "FOLDER")
}

#[test]
fn what_no_flag_gives_comes_from_the_context() {
    insta::assert_snapshot!(settled(TWO, &["hosts"]).unwrap(), @"hosts --nats-url=nats://home:4222 --nkey-file=FOLDER/keys/ops.seed --flake=git+https://h/home --context=home");
    insta::assert_snapshot!(settled(TWO, &["apply", "sunday", "--nkey-file", "k", "--flake=github:a/b"]).unwrap(), @"apply --nats-url=nats://home:4222 --plans-dir=/plans --context=home sunday --nkey-file k --flake=github:a/b");
    insta::assert_snapshot!(settled(TWO, &["hosts", "--context", "lab"]).unwrap(), @"hosts --nats-url=nats://lab-a,nats://lab-b --nkey-file=/lab.seed --context lab");
    // An assistant has its own key, or none.
    insta::assert_snapshot!(settled(TWO, &["mcp", "--context", "lab"]).unwrap(), @"mcp --nats-url=nats://lab-a,nats://lab-b --nkey-file=FOLDER/assistant.seed --context lab");
    insta::assert_snapshot!(settled(TWO, &["mcp"]).unwrap(), @"mcp --nats-url=nats://home:4222 --flake=git+https://h/home --plans-dir=/plans --context=home");
    // Neither command connects, and the second takes no context.
    insta::assert_snapshot!(settled(TWO, &["rollouts"]).unwrap(), @"rollouts --context=home");
    insta::assert_snapshot!(settled(TWO, &["keygen", "x"]).unwrap(), @"keygen x");
}

#[test]
fn one_context_needs_no_default_and_none_adds_nothing() {
    let one = "[context.a]\nserver = 's'";
    insta::assert_snapshot!(settled(one, &["rollouts"]).unwrap(), @"rollouts --context=a");
    insta::assert_snapshot!(settled("", &["rollouts"]).unwrap(), @"rollouts");
}

#[test]
fn a_path_begins_in_the_folder_of_the_file_or_at_home() {
    let context = "[context.a]\nserver = 's'\nkey = '~/keys/k'\nfleet = '~fleet'\non-start = ['~/tell', '~/it']";
    let settled = settled(context, &["apply", "x"]).unwrap();
    let home = env::home_dir().unwrap();
    assert!(settled.contains(&format!("--nkey-file={}/keys/k", home.display())), "{settled}");
    assert!(settled.contains(&format!(r#"--hooks={{"on_start":["{}/tell","~/it"]}}"#, home.display())), "{settled}");
}

#[test]
fn a_file_that_says_nothing_clear_is_refused() {
    let two = "[context.a]\n[context.b]";
    insta::assert_snapshot!(settled(two, &["rollouts"]).unwrap_err(), @r#"
    FOLDER/contexts.toml has several contexts, and none of them is the default
    add `default-context = "NAME"` at its top, or give --context: a, b
    "#);
    insta::assert_snapshot!(settled(two, &["rollouts", "--context", "c"]).unwrap_err(), @r#"
    there is no context "c"
    FOLDER/contexts.toml has these: a, b
    "#);
    insta::assert_snapshot!(settled("[context.a]\nsever = 'x'", &["hosts"]).unwrap_err(), @"
    FOLDER/contexts.toml is not a valid context file: TOML parse error at line 2, column 1
      |
    2 | sever = 'x'
      | ^^^^^
    unknown field `sever`, expected one of `server`, `key`, `assistant-key`, `tls-ca`, `tls-cert`, `tls-key`, `flake`, `plans`, `fleet`, `on-start`, `on_start`, `on-halt`, `on_halt`, `on-finish`, `on_finish`, `aliases`

    a context is a table such as [context.home]; `homelab-deploy init` writes one
    ");
    insta::assert_snapshot!(settled("[context.'../a']", &["hosts"]).unwrap_err(), @r#"
    FOLDER/contexts.toml is not a valid context file: "../a" cannot be the name of a context: use letters, digits, - and _
    a context is a table such as [context.home]; `homelab-deploy init` writes one
    "#);
}

#[test]
fn a_setting_that_is_missing_is_told_with_each_place_for_it() {
    let error = Cli::command().try_get_matches_from(["homelab-deploy", "hosts", "--nkey-file", "k"]).unwrap_err();
    insta::assert_snapshot!(places_of_settings(&error).unwrap(), @"
    Settings can be given in three places:
      --nats-url, or HOMELAB_DEPLOY_NATS_URL, or `server` in a context of homelab-deploy.toml
    ");
}

#[test]
fn a_variable_that_is_empty_or_relative_is_not_set() {
    let found = |state: Option<&str>, home: Option<&str>| {
        folder_by(state.map(PathBuf::from), home.map(PathBuf::from), ".local/state")
    };
    assert_eq!(found(Some("/s"), Some("/h")), Some("/s/homelab-deploy".into()));
    for unset in [None, Some(""), Some("state"), Some("./state")] {
        assert_eq!(found(unset, Some("/h")), Some("/h/.local/state/homelab-deploy".into()));
        assert_eq!(found(None, unset), None);
    }
}
