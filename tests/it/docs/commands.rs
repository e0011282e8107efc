//! Tests that the program, nats-server or Nix accepts each command, flag and configuration in the documentation.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use homelab_deploy::nats_config::Principal;
use homelab_deploy::plan::Plan;
use tempfile::TempDir;

use crate::module;
use crate::support::fleet;
use crate::support::keys::Key;
use crate::support::server;
use crate::support::tls::Authority;

/// The placeholders in the documentation, and their values here.
const PLACEHOLDERS: [(&str, &str); 9] = [
    ("HOST", "prod.ns1"),
    ("FILE", "nats.conf"),
    ("FLEET", "fleet.toml"),
    ("ID", "0f1e2d3c"),
    ("NAME", "fleet"),
    ("ROLLOUT", "0f1e2d3c"),
    ("SEED", "keys/operator.seed"),
    ("URL", "git+https://git.example.com/nixos"),
    ("PREVIOUS", "previous"),
];

/// The beginnings of commands that need no fleet, and so have to succeed.
const RUN: [&str; 8] = [
    "init fleet --nats-url",
    "keygen keys/",
    "keygen --public",
    "nats-config fleet.toml",
    "nats-config --compatible fleet.toml",
    "doctor nats.conf",
    "completions",
    "rollouts",
];

/// Returns the pages with their names.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let others = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md"].map(|page| root.join(page));
    let files = docs.chain(others).filter(|file| file.extension().is_some_and(|extension| extension == "md"));
    files
        .map(|file| (file.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&file).unwrap()))
        .collect()
}

/// Returns the inline code of a page, each as one line.
fn inline(page: &str) -> Vec<String> {
    let prose: Vec<&str> = page.split("```").step_by(2).collect();
    let spans = prose.iter().flat_map(|text| text.split('`').skip(1).step_by(2));
    spans.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Returns the lines of code in fences and indented blocks, joined after a backslash.
fn lines(page: &str) -> Vec<String> {
    let fences = page.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    let fences: String =
        fences.filter(|(kind, _)| matches!(*kind, "sh" | "console" | "")).map(|(_, code)| code).collect();
    let prose: String = page.split("```").step_by(2).collect();
    let indented: Vec<&str> = prose.lines().filter(|line| line.starts_with("    ")).collect();
    (fences + &indented.join("\n")).replace("\\\n", " ").lines().map(str::to_owned).collect()
}

/// Returns the commands of this program on a page, without its name. A page with shell variables is run whole instead.
fn commands(page: &str) -> BTreeSet<Vec<String>> {
    let code = lines(page).into_iter().chain(inline(page));
    let commands = code.filter_map(|line| {
        let line = line.trim().trim_start_matches("$ ");
        let (before, command) = line.split_once("homelab-deploy ")?;
        let is_command = before.is_empty() || before.ends_with(' ') && !before.contains("claude");
        // The shell handles the rest of the line.
        let ends = [" #", " ─", " >", " |", " &", " 2>", ";", ")"].iter().filter_map(|end| command.find(end));
        let command = &command[..ends.min().unwrap_or(command.len())];
        (is_command && !command.contains('$')).then(|| command.to_owned())
    });
    let meant =
        |word: &str| PLACEHOLDERS.iter().find(|(name, _)| *name == word).map_or(word, |(_, meant)| meant).to_owned();
    let words = |command: String| command.split_whitespace().filter(|word| *word != "…").map(meant).collect();
    commands
        .map(words)
        .filter(|words: &Vec<String>| words.first().is_some_and(|word| word.starts_with(char::is_lowercase)))
        .collect()
}

/// Returns a folder with the files of `init`.
fn site() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let arguments = "init . --yes --flake git+https://git.example.com/nixos --host test.test1 --host prod.ns1.dns";
    let output = run(folder.path(), arguments.split(' '));
    assert!(output.status.success(), "{output:?}");
    folder
}

fn run<'a>(folder: &Path, words: impl IntoIterator<Item = &'a str>) -> Output {
    let mut command = fleet::command(crate::program(), folder, &[]).unwrap();
    command.args(words).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn each_command_on_the_pages_is_one_that_the_program_takes() {
    let site = site();
    let (mut seen, mut succeeded) = (0, 0);
    for (name, page) in pages() {
        for words in commands(&page) {
            let line = words.join(" ");
            // Each command begins in the same state of the folder.
            let folder = tempfile::tempdir().unwrap();
            copy(site.path(), folder.path());
            let output = run(folder.path(), words.iter().map(String::as_str));
            let told = String::from_utf8_lossy(&output.stderr);
            // Only clap begins an error with `error:`; others begin with `×`. One or two words are only a name.
            let is_taken = !told.starts_with("error:") || words.len() <= 2 && told.contains("required arguments");
            assert!(is_taken, "{name}: homelab-deploy {line}: {told}");
            // Without hosts, `init` asks for them.
            let is_asking = words[0] == "init" && !line.contains("--host");
            if RUN.iter().any(|begin| line.starts_with(begin)) && !is_asking {
                assert!(output.status.success(), "{name}: homelab-deploy {line}: {told}");
                succeeded += 1;
            }
            seen += 1;
        }
    }
    assert!(seen > 40 && succeeded > 8, "{seen} commands were found, and {succeeded} succeeded");
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from.join(".")).arg(to).status().unwrap();
    assert!(copied.success());
}

#[test]
fn each_flag_on_the_pages_is_one_of_some_command() {
    let help = |command: &str| Command::new(crate::program()).args([command, "--help"]).output().unwrap().stdout;
    let top = String::from_utf8(Command::new(crate::program()).arg("--help").output().unwrap().stdout).unwrap();
    let (_, commands) = top.split_once("Commands:\n").unwrap();
    let commands = commands.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    let helps: String =
        commands.map(|line| String::from_utf8(help(line.split_whitespace().next().unwrap())).unwrap()).collect();
    let is_flag = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let known: BTreeSet<&str> = helps.split(|c| !is_flag(c)).filter(|word| word.starts_with("--")).collect();
    let mut seen = 0;
    for (name, page) in pages() {
        // A flag without a command is one of this program.
        for span in inline(&page).iter().filter(|span| span.starts_with("--")) {
            let flag = span.split(|c| !is_flag(c)).next().unwrap();
            assert!(known.contains(flag), "{name}: {span}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} flags were found");
}

/// Returns the blocks of one kind on all pages.
fn blocks(kind: &str) -> Vec<(String, String)> {
    let fence = format!("```{kind}\n");
    let of_page = |(name, page): (String, String)| {
        // A block may be indented, as part of a list.
        let blocks = page.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
        blocks.map(|block| (name.clone(), block)).collect::<Vec<_>>()
    };
    pages().into_iter().flat_map(of_page).collect()
}

#[test]
fn nats_server_takes_each_configuration_on_the_pages() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create(folder.path()).unwrap();
    let key = Key::generate(folder.path(), "key").unwrap().user(Principal::Admin).key.to_string();
    let configurations = blocks("conf");
    assert!(configurations.len() >= 4, "{}", configurations.len());
    for (name, configuration) in configurations {
        let configuration = configuration.replace("UABC…", &key).replace("/etc/nats", folder.path().to_str().unwrap());
        let file = authority.certificate().with_file_name("server.conf");
        fs::write(&file, &configuration).unwrap();
        let output = Command::new(server::program().unwrap()).arg("-t").arg("--config").arg(&file).output().unwrap();
        assert!(output.status.success(), "{name}: {configuration}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn each_plan_on_the_pages_is_one() {
    let mut plans = 0;
    for (name, text) in blocks("toml").into_iter().filter(|(_, text)| text.contains("[[wave]]")) {
        let plan = Plan::parse(&text, "plan", &|_: &str| None);
        assert!(plan.is_ok(), "{name}: {text}\n{plan:?}");
        plans += 1;
    }
    assert!(plans >= 2, "{plans}");
}

#[test]
fn nix_reads_each_snippet_on_the_pages() {
    let snippets = blocks("nix");
    assert!(snippets.len() >= 10, "{}", snippets.len());
    for (name, snippet) in snippets {
        // The settings of a module are the inside of a set.
        let text = format!("{{ config, lib, inputs, ... }}: {{ {} \n}}", snippet.replace('…', "x"));
        let Some(output) = module::run("nix-instantiate", &["--parse", "--expr", &text]) else { return };
        assert!(output.status.success(), "{name}: {snippet}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn each_link_between_the_pages_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for (name, page) in pages() {
        let is_doc = root.join("docs").join(&name).exists();
        let folder = if is_doc { root.join("docs") } else { root.to_owned() };
        let targets = page.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, place) = target.split_once('#').unwrap_or((target, ""));
            let file: PathBuf = if file.is_empty() { folder.join(&name) } else { folder.join(file) };
            assert!(file.exists(), "{name}: {target}");
            if !place.is_empty() {
                let text = fs::read_to_string(&file).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#')).map(anchor);
                assert!(headings.into_iter().any(|heading| heading == place), "{name}: {target}");
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} links were found");
}

/// Returns the anchor that a forge gives to a heading.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}
