//! What every display is made of: durations, symbols, safe text and columns.

use std::fmt::{self, Display};
use std::time::Duration;

use jiff::Timestamp;
use unicode_width::UnicodeWidthStr;

use super::Style;

/// The longest piece of a host's own text that is shown in one line, in columns.
const MAX_TEXT: usize = 200;

/// A duration as people say it: `0.4s`, `12s`, `4m02s`, `45m`, `1h05m`. What is shorter than the last digit is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Took(pub Duration);

impl Took {
    /// The time from one moment to another; none at all when the clock was set back in between.
    pub fn between(from: Timestamp, to: Timestamp) -> Self {
        Self(Duration::try_from(to.duration_since(from)).unwrap_or_default())
    }

    /// The same without fractions of a second, for what goes on.
    pub(super) const fn so_far(self) -> Self {
        Self(Duration::from_secs(self.0.as_secs()))
    }
}

impl Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, tenths) = (self.0.as_secs(), self.0.subsec_millis() / 100);
        let text = match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, 0, 0) if tenths > 0 => format!("0.{tenths}s"),
            (0, 0, seconds) => format!("{seconds}s"),
            (0, minutes, 0) => format!("{minutes}m"),
            (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
            (hours, 0, _) => format!("{hours}h"),
            (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        };
        f.pad(&text)
    }
}

/// What a line is about, at a glance. It never stands without a word that says the same.
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
    const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "✔",
            Self::Bad => "✖",
            Self::UnderWay => "◌",
            Self::Waits => "◷",
            Self::Skipped => "○",
            Self::Warning => "⚠",
            Self::Others => "…",
        }
    }

    /// The SGR parameter of its color.
    const fn color(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Bad => "31",
            Self::UnderWay => "36",
            Self::Waits | Self::Warning => "33",
            Self::Skipped | Self::Others => "90",
        }
    }

    /// The symbol as it is written.
    pub(super) fn in_style(self, style: Style) -> String {
        match style {
            Style::Plain => self.as_str().to_owned(),
            Style::Colored => format!("\x1b[{}m{}\x1b[0m", self.color(), self.as_str()),
        }
    }
}

/// `1 host`, `2 hosts`.
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// How many columns a terminal needs for a text.
pub(super) fn columns(text: &str) -> usize {
    text.width()
}

/// The widest of these texts, in columns.
pub(super) fn widest<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> usize {
    texts.into_iter().map(|text| columns(text.as_ref())).max().unwrap_or(0)
}

/// The text filled up with spaces; a longer one is left as it is.
pub(super) fn pad(text: &str, width: usize) -> String {
    format!("{text}{:1$}", "", width.saturating_sub(columns(text)))
}

/// Words in lines of at most `width` columns. A longer word gets a line of its own: host names are never cut.
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

/// The first line of a foreign text, made safe and not endless.
pub(super) fn first_line(text: &str) -> String {
    shorten(&safe(text.trim_start().lines().next().unwrap_or_default()), MAX_TEXT)
}

/// The text, cut to at most `width` columns, with `…` where something is missing.
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

/// One line of foreign text without anything that a terminal obeys or that makes it look like another text: escape
/// sequences, control characters, and characters that reorder others or cannot be seen.
pub(super) fn safe(text: &str) -> String {
    let mut characters = text.chars().peekable();
    let mut safe = String::with_capacity(text.len());
    while let Some(character) = characters.next() {
        match character {
            '\x1b' => skip_escape(&mut characters),
            '\u{9b}' => skip_until(&mut characters, ends_control_sequence),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => skip_string(&mut characters),
            '\t' | '\u{2028}' | '\u{2029}' => safe.push(' '),
            _ if character.is_control() || is_invisible(character) => {}
            _ => safe.push(character),
        }
    }
    safe.trim_end().to_owned()
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Skips the rest of an escape sequence as ECMA-48 builds them.
fn skip_escape(characters: &mut Characters<'_>) {
    match characters.next_if(|c| !c.is_control()) {
        Some('[') => skip_until(characters, ends_control_sequence),
        Some(']' | 'P' | 'X' | '^' | '_') => skip_string(characters),
        Some(' '..='/') => skip_until(characters, |c| ('0'..='~').contains(&c)),
        Some(_) | None => {}
    }
}

const fn ends_control_sequence(character: char) -> bool {
    matches!(character, '@'..='~')
}

fn skip_until(characters: &mut Characters<'_>, ends: impl Fn(char) -> bool) {
    // A character outside ASCII cannot be part of the sequence, which then was none.
    while let Some(character) = characters.next_if(char::is_ascii) {
        if ends(character) {
            return;
        }
    }
}

/// Skips a window title and its like, up to the bell or string terminator.
fn skip_string(characters: &mut Characters<'_>) {
    while let Some(character) = characters.next() {
        match character {
            '\x07' | '\u{9c}' => return,
            '\x1b' => {
                characters.next_if_eq(&'\\');
                return;
            }
            _ => {}
        }
    }
}

/// Whether a character cannot be seen, or changes the order in which others are.
const fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_said_as_people_say_them() {
        let said = |millis| Took(Duration::from_millis(millis)).to_string();
        let seconds = [0, 40, 400, 12_900, 60_000, 242_000, 2_700_000, 3_600_000, 3_900_000, 19_680_000];
        insta::assert_snapshot!(seconds.map(said).join(" "), @"0s 0s 0.4s 12s 1m 4m02s 45m 1h 1h05m 5h28m");
        assert_eq!(Took::between(Timestamp::UNIX_EPOCH, Timestamp::MIN), Took(Duration::ZERO));
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
    fn what_a_terminal_obeys_does_not_reach_it() {
        let cases = [
            "\x1b[31mred\x1b[0m",
            "\x1b]0;title\x07text",
            "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\",
            "\u{9b}2Jcleared",
            "\x1b(Bcharset",
            "\x1bPdevice\x1b\\control",
            "10%\r20%\x08",
            "user\u{202e}txt.exe",
            "a\tb\u{2028}c",
            "cut off \x1b[",
            "\x1b",
        ];
        insta::assert_snapshot!(cases.map(safe).join("|"), @"red|text|link|cleared|charset|control|10%20%|usertxt.exe|a b c|cut off|");
        assert_eq!(first_line("\n  first\nsecond"), "first");
        assert_eq!(columns(&first_line(&"x".repeat(100_000))), MAX_TEXT);
    }

    proptest! {
        #[test]
        fn safe_text_is_safe_and_stays_so(text in "(\\PC|\\x1b|[\\[\\]0-9;mP\\\\]|\\x07|\\u{9b}|\\u{202e}|\\p{Cc}){0,24}") {
            let once = safe(&text);
            prop_assert!(!once.chars().any(|c| c.is_control() || is_invisible(c)));
            prop_assert_eq!(safe(&once), once);
        }

        #[test]
        fn plain_text_is_left_alone(text in "[a-zA-Z0-9 äöü✔'\"/:.-]{0,24}") {
            prop_assert_eq!(safe(&text), text.trim_end());
        }
    }
}
