//! Previews a rollout before anything is sent.

use std::collections::BTreeMap;
use std::time::Duration;

use super::format::{DisplayDuration, count, first_line, pad, shorten, widest, wrap, wrap_indented};
use super::packages::packages;
use super::{Style, describe};
use crate::plan::{Changes, ResolvedHost, ResolvedWave, Rollback};
use crate::protocol::Commit;
use crate::rollout::{Rollout, WaveIndex};

/// The least width of the column of hosts, so that short plans look alike.
const MIN_HOSTS_COLUMNS: usize = 28;

/// If fewer columns than this are left for the hosts, the `then` column goes below them.
const LEAST_HOSTS_COLUMNS: usize = 12;

/// The placeholder of an empty cell.
const NOTHING: &str = "-";

/// The most lines of host names in a cell. The other hosts are counted.
const MAX_HOST_LINES: usize = 3;

/// The most packages that are listed. The others are counted.
const MAX_PACKAGES: usize = 20;

/// The longest commit subject that is shown whole, in columns.
const MAX_SUBJECT_COLUMNS: usize = 60;

/// Formats the preview of a rollout for a terminal of `width` columns, without a line break at the end. A line is wider
/// than the terminal only if a host name is. Each warning is a whole sentence.
pub fn preview(rollout: &Rollout, warnings: &[String], changed: Option<&Changes>, width: usize) -> String {
    let mut notes: Vec<String> = warnings.iter().map(|warning| format!("⚠ warning: {}", first_line(warning))).collect();
    let commit = rollout.revision.commit();
    notes.extend(absent(rollout));
    notes.extend(current(rollout, commit.as_ref()));
    notes.push(counting(rollout, commit.as_ref()));
    let notes = notes.iter().flat_map(|note| {
        let lines = wrap(note.split_whitespace(), width.saturating_sub(4));
        lines.into_iter().enumerate().map(|(index, line)| format!("{}{line}", if index == 0 { "  " } else { "    " }))
    });

    let mut lines = vec![wrap_indented(&title(rollout), width, "    "), String::new()];
    lines.extend(table(rollout, commit.as_ref(), width));
    lines.push(String::new());
    let changed = changed.map(|changed| packages(rollout, changed, MAX_PACKAGES)).unwrap_or_default();
    lines.extend(changed.iter().map(|line| format!("  {line}")));
    lines.extend((!changed.is_empty()).then(String::new));
    lines.extend(rollout.plan.hooks.iter().map(|(hook, argv)| {
        let line = format!("{hook} runs on this machine: {}", command(argv));
        format!("  {}", wrap_indented(&line, width, "    "))
    }));
    lines.extend(notes);
    lines.join("\n")
}

/// Renders the title of a preview in bold and its column headers dimmed, if `style` is colored.
pub fn emphasize(preview: &str, style: Style) -> String {
    let line = |(index, line): (usize, &str)| match style {
        Style::Colored if index == 0 => format!("\x1b[1m{line}\x1b[0m"),
        Style::Colored if line.starts_with("  wave ") => format!("\x1b[2m{line}\x1b[0m"),
        Style::Colored | Style::Plain => line.to_owned(),
    };
    preview.lines().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

/// Formats a line for each commit that hosts run now: the commit, the one they roll back to, and the hosts.
pub fn rollback_commits(rollout: &Rollout) -> String {
    let to = describe::revision(rollout);
    let mut by_commit: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let new = rollout.revision.commit();
    let is_changed = |host: &&ResolvedHost| !host.is_current && (new.is_none() || host.revision != new);
    for host in rollout.plan.hosts().filter(is_changed) {
        let from = host.revision.as_ref().map_or("what they run", Commit::short);
        by_commit.entry(from).or_default().push(host.hostname.as_str());
    }
    let line = |(from, hosts): (&str, Vec<&str>)| format!("\n  from {from} back to {to}: {}", describe::names(&hosts));
    by_commit.into_iter().map(line).collect()
}

/// Formats `Rollout sunday   main -> 8c1f0e2 "flake: bump nixpkgs"   switch`, without the action if waves differ in it.
fn title(rollout: &Rollout) -> String {
    let subject = rollout.subject.as_deref().map(first_line).filter(|subject| !subject.is_empty());
    let subject = subject.map(|subject| format!(" \"{}\"", shorten(&subject, MAX_SUBJECT_COLUMNS)));
    let action = match rollout.plan.waves.first() {
        Some(wave) if is_uniform(rollout) => format!("   {}", wave.action),
        Some(_) | None => String::new(),
    };
    format!("Rollout {}   {}{}{action}", rollout.name(), describe::revision(rollout), subject.unwrap_or_default())
}

/// Formats a command line: quotes mark each unusual argument, and no argument can move the cursor.
fn command(argv: &[String]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    let shown = |word: &String| {
        if !word.is_empty() && word.chars().all(is_plain) { word.clone() } else { format!("{word:?}") }
    };
    argv.iter().map(shown).collect::<Vec<_>>().join(" ")
}

fn is_uniform(rollout: &Rollout) -> bool {
    rollout.plan.waves.windows(2).all(|pair| matches!(pair, [one, next] if one.action == next.action))
}

// -- the table

struct PreviewRow {
    wave: String,
    hosts: Vec<String>,
    at_once: usize,
    may_fail: usize,
    then: String,
}

fn table(rollout: &Rollout, commit: Option<&Commit>, width: usize) -> Vec<String> {
    let waves = &rollout.plan.waves;
    let digits = waves.len().to_string().len();
    let row = |(index, wave): (usize, &ResolvedWave)| {
        let (index, number) = (WaveIndex(index), WaveIndex(index).to_string());
        let action = if is_uniform(rollout) { String::new() } else { format!(" ({})", wave.action) };
        PreviewRow {
            wave: format!("{number:>digits$} {}{action}", wave.name),
            hosts: wave.hosts.iter().map(|host| marked(host, HostStatus::of(host, commit))).collect(),
            at_once: wave.limits.max_parallel,
            may_fail: wave.limits.max_failures,
            then: then(rollout, index, wave),
        }
    };
    let rows: Vec<PreviewRow> = waves.iter().enumerate().map(row).collect();
    let wave_width = widest(rows.iter().map(|row| row.wave.as_str()).chain(["wave"]));
    let numbers = "  ".len() + wave_width + "      at once  may fail".len();
    let then = "  ".len() + widest(rows.iter().map(|row| row.then.as_str()).chain(["then"]));
    let is_beside = width >= numbers + LEAST_HOSTS_COLUMNS + then;
    let room = width.saturating_sub(numbers + if is_beside { then } else { 0 }).max(LEAST_HOSTS_COLUMNS);
    let hosts_width = widest(rows.iter().map(|row| row.hosts.join(" "))).clamp(MIN_HOSTS_COLUMNS.min(room), room);

    let line = |wave: &str, hosts: &str, rest: &str| {
        format!("  {}   {}   {rest}", pad(wave, wave_width), pad(hosts, hosts_width)).trim_end().to_owned()
    };
    let mut lines =
        vec![line("wave", "hosts", if is_beside { "at once  may fail  then" } else { "at once  may fail" })];
    for row in &rows {
        let mut hosts = cells(&row.hosts, hosts_width).into_iter();
        let then = if is_beside { row.then.as_str() } else { "" };
        let rest = format!("{:<7}  {:<8}  {then}", row.at_once, row.may_fail);
        lines.push(line(&row.wave, &hosts.next().unwrap_or_default(), &rest));
        lines.extend(hosts.map(|hosts| line("", &hosts, "")));
        if !is_beside && row.then != NOTHING {
            let margin = " ".repeat("  ".len() + wave_width + "   ".len());
            lines.push(format!("{margin}{}", wrap_indented(&format!("then {}", row.then), width, &margin)));
        }
    }
    lines
}

/// Formats what a wave does beside sending requests: confirmation, bake, check and rollback.
fn then(rollout: &Rollout, index: WaveIndex, wave: &ResolvedWave) -> String {
    let confirm = wave.limits.confirm.then(|| "asks first".to_owned());
    let bake = describe::bake(&rollout.plan, index).map(|bake| format!("bake {bake}"));
    let check = wave.limits.check.as_ref().map(|_| "check".to_owned());
    let rollback = (wave.limits.rollback != Rollback::None).then(|| format!("rollback {}", wave.limits.rollback));
    let parts: Vec<String> = [confirm, bake, check, rollback].into_iter().flatten().collect();
    if parts.is_empty() { NOTHING.to_owned() } else { parts.join(", ") }
}

/// Wraps the names of a wave's hosts. If they need too many lines, the first ones and the number of the others.
fn cells(names: &[String], width: usize) -> Vec<String> {
    let all = wrap(names, width);
    if all.len() <= MAX_HOST_LINES {
        return all;
    }
    let shortened = |shown: usize| {
        let more = format!("… and {} more", names.len() - shown);
        wrap(names.iter().take(shown).chain([&more]), width)
    };
    let fitting = all.iter().take(MAX_HOST_LINES).map(|line| line.split(' ').count()).sum();
    (0..fitting).rev().map(shortened).find(|lines| lines.len() <= MAX_HOST_LINES).unwrap_or(all)
}

// -- the state of the hosts

/// What a rollout means for a host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HostStatus {
    ToChange,
    Unasked,
    Current,
    Absent,
}

impl HostStatus {
    /// `commit` is that of the rollout, if it is known.
    fn of(host: &ResolvedHost, commit: Option<&Commit>) -> Self {
        match &host.revision {
            _ if !host.present => Self::Absent,
            _ if host.is_current => Self::Unasked,
            Some(current) if commit == Some(current) => Self::Current,
            Some(_) | None => Self::ToChange,
        }
    }
}

/// Formats the name of a host: `=` marks a current one, and `?` one that did not answer.
fn marked(host: &ResolvedHost, status: HostStatus) -> String {
    let mark = match status {
        HostStatus::ToChange => "",
        HostStatus::Unasked | HostStatus::Current => "=",
        HostStatus::Absent => "?",
    };
    format!("{}{mark}", host.hostname)
}

/// Returns a sentence for each wave with hosts that did not answer, and what that means for the wave.
fn absent(rollout: &Rollout) -> impl Iterator<Item = String> {
    rollout.plan.deploying_waves().filter_map(|(index, wave)| {
        let absent = wave.hosts.iter().filter(|host| !host.present);
        let hosts: Vec<String> = absent.map(|host| marked(host, HostStatus::Absent)).collect();
        let index = WaveIndex(index);
        let silence = if wave.limits.ignore_unreachable { "ignored" } else { "a failure" };
        let meaning = match &wave.limits {
            _ if hosts.is_empty() => return None,
            // The listener of such a host is unknown, and may be one that deploys but cannot roll back.
            limits if limits.rollback != Rollback::None => {
                format!("not known to be able to return, so not asked in wave {index}, which is {silence}")
            }
            _ if wave.hosts.iter().any(|host| host.system.is_some()) => format!(
                "not known to take built systems, so asked in wave {index} only if it answers; else that is {silence}"
            ),
            limits if limits.ignore_unreachable => format!("wave {index} ignores unreachable hosts"),
            _ if !rollout.plan.remembered.is_empty() => "asked in any case, and ignored if silent".to_owned(),
            _ => format!("silence counts as a failure in wave {index}"),
        };
        Some(format!("{} did not answer; {meaning}.", describe::names(&hosts)))
    })
}

/// Returns a sentence about the hosts that run the commit, and one about those that also boot it and so are not asked.
fn current(rollout: &Rollout, commit: Option<&Commit>) -> impl Iterator<Item = String> {
    let hosts = |wanted| -> Vec<String> {
        let hosts = rollout.plan.hosts().filter(|host| HostStatus::of(host, commit) == wanted);
        hosts.map(|host| marked(host, wanted)).collect()
    };
    let (current, unasked) = (hosts(HostStatus::Current), hosts(HostStatus::Unasked));
    let runs = if current.len() == 1 { "runs" } else { "run" };
    let is = if unasked.len() == 1 { "is" } else { "are" };
    let current = commit
        .filter(|_| !current.is_empty())
        .map(|commit| format!("{} already {runs} {}.", describe::names(&current), commit.short()));
    let unasked = (!unasked.is_empty())
        .then(|| format!("{} {is} current and not asked; --even-if-current asks.", describe::names(&unasked)));
    current.into_iter().chain(unasked)
}

fn counting(rollout: &Rollout, commit: Option<&Commit>) -> String {
    let number = |wanted| rollout.plan.hosts().filter(|host| HostStatus::of(host, commit) == wanted).count();
    let kinds = describe::of_kinds([
        (number(HostStatus::ToChange), "to change"),
        (number(HostStatus::Current) + number(HostStatus::Unasked), "current"),
        (number(HostStatus::Absent), "unreachable"),
    ]);
    let hosts = count(rollout.plan.hosts().count(), "host");
    let waves = count(rollout.plan.waves.len(), "wave");
    let separator = if kinds.is_empty() { "" } else { ": " };
    format!("{hosts} in {waves}{separator}{kinds}. At most {}.", DisplayDuration(rounded_up(rollout.plan.longest())))
}

/// Rounds a bound up to a whole minute, so that it never reads too short.
fn rounded_up(bound: Duration) -> Duration {
    let seconds = bound.as_secs() + u64::from(bound.subsec_nanos() > 0);
    Duration::from_secs(seconds.next_multiple_of(60))
}

#[cfg(test)]
mod tests;
