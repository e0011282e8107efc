//! Formats the building blocks of every display: durations, symbols, columns and tables.

use std::fmt::{self, Display};
use std::iter;
use std::time::Duration;

use jiff::Timestamp;
use unicode_width::UnicodeWidthStr;

use crate::text::all_bytes;
pub(super) use crate::text::safe;

/// The longest foreign text that is shown in one line, in columns.
const MAX_TEXT: usize = 200;

/// A duration as people write it: `0.4s`, `12s`, `4m02s`, `45m`, `1h05m`. It is rounded down to the last digit shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DisplayDuration(pub Duration);

impl DisplayDuration {
    /// Returns the time between two moments, or zero if the clock was set back in between.
    pub fn between(from: Timestamp, to: Timestamp) -> Self {
        Self(Duration::try_from(to.duration_since(from)).unwrap_or_default())
    }

    /// Drops the fractions of a second, for a duration that is still growing.
    pub(super) const fn so_far(self) -> Self {
        Self(Duration::from_secs(self.0.as_secs()))
    }
}

impl Display for DisplayDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, tenths) = (self.0.as_secs(), self.0.subsec_millis() / 100);
        match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, 0, 0) if tenths > 0 => write!(f, "0.{tenths}s"),
            (0, 0, seconds) => write!(f, "{seconds}s"),
            (0, minutes, 0) => write!(f, "{minutes}m"),
            (0, minutes, seconds) => write!(f, "{minutes}m{seconds:02}s"),
            (hours, 0, _) => write!(f, "{hours}h"),
            (hours, minutes, _) => write!(f, "{hours}h{minutes:02}m"),
        }
    }
}

/// Formats how long ago a moment was, in the largest unit: `12s ago`, `3m ago`, `5h ago`, `9d ago`.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = DisplayDuration::between(at, now).0.as_secs();
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..172_800 => format!("{}h ago", seconds / 3600),
        172_800.. => format!("{}d ago", seconds / 86_400),
    }
}

/// The symbol that shows the state of a line at a glance. The text beside it always says the same in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symbol {
    Good,
    Bad,
    UnderWay,
    Waits,
    Skipped,
    Warning,
    Others,
}

impl Symbol {
    /// Returns the symbol and the code of its color.
    pub(super) const fn with_color(self) -> (&'static str, &'static str) {
        match self {
            Self::Good => ("✔", "32"),
            Self::Bad => ("✖", "31"),
            Self::UnderWay => ("◌", "36"),
            Self::Waits => ("◷", "33"),
            Self::Skipped => ("○", "90"),
            Self::Warning => ("⚠", "33"),
            Self::Others => ("…", "90"),
        }
    }
}

/// Formats a number with its noun: `1 host`, `2 hosts`.
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Returns how many columns a text takes on a terminal.
pub(super) fn columns(text: &str) -> usize {
    // Fast path: nearly all texts are printable ASCII, one column a character.
    if all_bytes(text, |byte| matches!(byte, b' '..=b'~')) { text.len() } else { text.width() }
}

pub(super) fn widest<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> usize {
    texts.into_iter().map(|text| columns(text.as_ref())).max().unwrap_or(0)
}

/// Pads a text with spaces on the right. A longer text stays as it is.
pub(super) fn pad(text: &str, width: usize) -> String {
    let mut padded = String::with_capacity(text.len() + width);
    push_padded(&mut padded, text, width);
    padded
}

/// Appends a text padded with spaces. Cheaper than `format!`: a large fleet has many rows.
pub(super) fn push_padded(line: &mut String, text: &str, width: usize) {
    line.push_str(text);
    line.extend(iter::repeat_n(' ', width.saturating_sub(columns(text))));
}

/// Wraps words into lines of at most `width` columns. A longer word gets a line of its own: host names are never cut.
pub(super) fn wrap<T: AsRef<str>>(words: impl IntoIterator<Item = T>, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        let word = word.as_ref();
        match lines.last_mut() {
            Some(line) if columns(line) + 1 + columns(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Wraps a text between words and puts `margin` before each line but the first. Every line leaves room for the margin.
pub(super) fn wrap_indented(text: &str, width: usize, margin: &str) -> String {
    let lines = wrap(text.split(' '), width.saturating_sub(columns(margin)));
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(&format!("\n{margin}"))
}

/// Returns the first line of a foreign text, made safe to show and shortened to [`MAX_TEXT`].
pub(super) fn first_line(text: &str) -> String {
    shorten(&safe(text.trim_start().lines().next().unwrap_or_default()), MAX_TEXT)
}

/// Cuts a text to at most `width` columns and marks the cut with `…`.
pub(super) fn shorten(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    for character in text.chars() {
        short.push(character);
        if columns(&short) >= width {
            short.pop();
            break;
        }
    }
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_as_people_say_them() {
        let said = |millis| DisplayDuration(Duration::from_millis(millis)).to_string();
        let seconds = [0, 40, 400, 12_900, 60_000, 242_000, 2_700_000, 3_600_000, 3_900_000, 19_680_000];
        insta::assert_snapshot!(seconds.map(said).join(" "), @"0s 0s 0.4s 12s 1m 4m02s 45m 1h 1h05m 5h28m");
        assert_eq!(DisplayDuration::between(Timestamp::UNIX_EPOCH, Timestamp::MIN), DisplayDuration(Duration::ZERO));
    }

    #[test]
    fn columns_are_those_of_the_terminal() {
        assert_eq!(pad("日本", 6), "日本  ");
        assert_eq!(pad("longer", 3), "longer");
        assert_eq!(shorten("日本日本", 5), "日本…");
        assert_eq!(shorten("abc", 3), "abc");
        assert_eq!(wrap(["a", "bb", "a-long-name", "c"], 4), ["a bb", "a-long-name", "c"]);
    }

    #[test]
    fn only_the_first_line_of_a_text_is_shown_and_not_for_ever() {
        assert_eq!(first_line("\n  first\nsecond"), "first");
        assert_eq!(columns(&first_line(&"x".repeat(100_000))), MAX_TEXT);
    }
}
