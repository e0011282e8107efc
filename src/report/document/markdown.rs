//! Renders a rollout as Markdown for issues, pull requests and chat.

use jiff::tz::TimeZone;

use super::{Document, WaveSection, write};

pub fn markdown(document: &Document<'_>, zone: &TimeZone) -> String {
    let mut page = format!("# Rollout {}: {}\n\n", escape(&document.name()), document.outcome());
    for (title, fact) in document.facts(zone) {
        write(&mut page, format_args!("- {title}: {}\n", escape(&fact)));
    }
    for wave in document.waves() {
        page.push_str(&section(document, &wave, zone));
    }
    page
}

fn section(document: &Document<'_>, wave: &WaveSection<'_>, zone: &TimeZone) -> String {
    let mut section = format!(
        "\n## {}/{} {}: {}\n\n| host | state | took | commit | says |\n| --- | --- | --- | --- | --- |\n",
        wave.index,
        document.summary.waves.len(),
        escape(&wave.name),
        escape(&wave.verdict())
    );
    let mut logs = String::new();
    for host in document.hosts(wave.index) {
        let name = escape(host.view.name.as_str());
        write(
            &mut section,
            format_args!(
                "| {name} | {} | {} | {} | {} |\n",
                host.status(),
                host.took.map(|took| took.to_string()).unwrap_or_default(),
                escape(&host.commits()),
                escape(&host.says(zone))
            ),
        );
        let log = host.log();
        if !log.is_empty() {
            let fence = fence(&log);
            write(&mut logs, format_args!("\nLog of {name}:\n\n{fence}\n{log}\n{fence}\n"));
        }
    }
    section + &logs
}

/// Escapes foreign text: every character that could have a meaning in Markdown or HTML gets a backslash.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_punctuation() && !matches!(character, ',' | '\'' | ';') {
            escaped.push('\\');
        }
        escaped.push(if character.is_control() { ' ' } else { character });
    }
    escaped
}

/// Returns a code fence with more backticks than the longest run of backticks in the text.
fn fence(text: &str) -> String {
    let longest = text.split(|character| character != '`').map(str::len).max().unwrap_or(0);
    "`".repeat(longest.max(2) + 1)
}
