//! Shares the steps of most tests: set up a lab, give its hosts scripts, apply a plan, and read what was run.

use std::fs;
use std::process::Command;

use crate::host;
use crate::operator::{Ended, Running};
use crate::support::lab::Lab;
use crate::support::wait;

/// Returns a lab whose hosts all listen.
pub async fn lab(hosts: &[&str]) -> Lab {
    let mut lab = empty(hosts).await;
    lab.listen_all().await.unwrap();
    lab
}

/// Returns a lab whose server runs, and nothing else.
pub async fn empty(hosts: &[&str]) -> Lab {
    Lab::start(crate::program(), hosts).await.unwrap()
}

/// Returns the command `homelab-deploy <verb> plans/plan.toml` with the key of the admin.
pub fn command(lab: &Lab, verb: &str, plan: &str) -> Command {
    let mut command = lab.operator(&lab.admin).unwrap();
    command.args([verb, &write_plan(lab, plan)]);
    command
}

/// Writes a plan into the operator's folder, and returns its path.
pub fn write_plan(lab: &Lab, plan: &str) -> String {
    fs::create_dir_all(lab.home().join("plans")).unwrap();
    fs::write(lab.home().join("plans/plan.toml"), plan).unwrap();
    "plans/plan.toml".to_owned()
}

/// Starts a command without a terminal or input.
pub fn start(mut command: Command) -> Running {
    Running::start(&mut command).unwrap()
}

/// Starts to apply a plan with `--yes`.
pub fn apply(lab: &Lab, plan: &str) -> Running {
    let mut command = command(lab, "apply", plan);
    command.arg("--yes");
    start(command)
}

/// Gives each of these hosts the same script for all later runs.
pub fn order(lab: &Lab, hosts: &[&str], script: &str) {
    for name in hosts {
        lab.fleet.rebuild().on(&host(name), script).unwrap();
    }
}

/// Opens the gate of a host, for its current run and all later ones.
pub fn open(lab: &Lab, name: &str) {
    lab.fleet.rebuild().open(&host(name)).unwrap();
}

/// Waits until this event is in the [`story`] of the lab.
pub async fn until(lab: &Lab, event: &str) {
    let happened = async || Ok(story(lab).iter().any(|said| said == event).then_some(()));
    wait::until(event, happened).await.unwrap();
}

/// Returns the events of the runs in order: `ns1 start`, `ns1 end 0`.
pub fn story(lab: &Lab) -> Vec<String> {
    let record = lab.fleet.rebuild().record();
    let lines = record.into_iter().map(|line| match line.split_once(" start ") {
        Some((host, _)) => format!("{host} start"),
        None => line,
    });
    lines.collect()
}

/// Returns the arguments of each call of nixos-rebuild, in order.
pub fn calls(lab: &Lab) -> Vec<String> {
    let record = lab.fleet.rebuild().record();
    let calls = record.iter().filter_map(|line| line.split_once(" start ")?.1.split_once(' '));
    calls.map(|(_pid, arguments)| arguments.to_owned()).collect()
}

/// Returns the hosts in the order of their runs, each as often as it ran.
pub fn ran(lab: &Lab) -> Vec<String> {
    story(lab).iter().filter_map(|event| event.strip_suffix(" start").map(str::to_owned)).collect()
}

/// Returns the same, sorted by name.
pub fn ran_sorted(lab: &Lab) -> Vec<String> {
    let mut hosts = ran(lab);
    hosts.sort();
    hosts
}

/// Returns the recap of an ended rollout, as [`plain`] words and without the next steps.
#[track_caller]
pub fn recap(ended: &Ended) -> String {
    let (all, _) = ended.stderr.split_once("  resume:").unwrap_or((&ended.stderr, ""));
    let name = all.rfind("Rollout ").unwrap_or_else(|| panic!("no recap in:\n{all}"));
    let line = all[..name].rfind('\n').map_or(0, |newline| newline + 1);
    plain(&all[line..])
}

/// Asserts that the recap contains this text, as [`plain`] words.
#[track_caller]
pub fn expect_recap(ended: &Ended, text: &str) {
    assert!(recap(ended).contains(text), "{text:?} is not in the recap of\n{}", ended.stderr);
}

/// Returns the words of a text by line, without durations, which differ from run to run.
pub fn plain(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let words = line.split_whitespace().filter(|word| !is_duration(word));
        words.collect::<Vec<_>>().join(" ")
    });
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Whether a word is like `4m02s`.
fn is_duration(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_digit())
        && word.ends_with(['s', 'm', 'h'])
        && word.chars().all(|letter| letter.is_ascii_digit() || "hms.".contains(letter))
}
