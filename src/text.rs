//! Makes foreign text safe for terminals, logs and messages, finds the names that misspelt ones resemble, and takes
//! fingerprints. Pure.

use sha2::{Digest, Sha256};

/// Returns 128 bits of the SHA-256 in hexadecimal digits. They are enough to tell texts apart.
pub fn fingerprint(text: impl AsRef<[u8]>) -> String {
    let half = Sha256::digest(text).first_chunk().copied().unwrap_or_default();
    format!("{:032x}", u128::from_be_bytes(half))
}

/// Removes escape sequences, control characters, and characters that are invisible or reorder others from a line of
/// foreign text, so that it can neither control the terminal nor look like another text.
pub fn safe(text: &str) -> String {
    // A fast path: nearly all texts are harmless, and there are many.
    if all_bytes(text, |byte| matches!(byte, b' '..=b'~')) {
        return text.trim_end().to_owned();
    }
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
    safe.truncate(safe.trim_end().len());
    safe
}

/// Whether all bytes of a text satisfy a predicate. It looks at each byte, which compiles to a fraction of the instructions that
/// stopping at the first mismatch takes.
pub(crate) fn all_bytes(text: &str, is_such: impl Fn(u8) -> bool) -> bool {
    text.bytes().fold(true, |all, byte| all & is_such(byte))
}

/// Returns the known name most similar to this one, if any; the first of several.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    // The measure and bound of clap, and `is_close`: the measure is too strict about swapped letters in short names.
    let is_close = |known: &str| strsim::osa_distance(&name, known) * 3 <= name.chars().count();
    let measure = |known: &str| strsim::jaro(&name, known).max(if is_close(known) { 0.8 } else { 0.0 });
    let likeness = known.into_iter().map(|known| (measure(&known.to_lowercase()), known));
    likeness.filter(|(likeness, _)| *likeness > 0.7).min_by(|(a, _), (b, _)| b.total_cmp(a)).map(|(_, known)| known)
}

/// Returns "did you mean …? " with the most similar known name, or an empty string.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map(|near| format!("did you mean {near}? ")).unwrap_or_default()
}

/// Gives each variant of an enum its word, by `as_str` and by display.
macro_rules! words {
    ($type:ident: $($variant:ident = $word:literal),+ $(,)?) => {
        impl $type {
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

pub(crate) use words;

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Skips the rest of an escape sequence by the rules of ECMA-48.
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
    // A character outside ASCII cannot be part of a sequence.
    while let Some(character) = characters.next_if(char::is_ascii) {
        if ends(character) {
            return;
        }
    }
}

/// Skips a window title or similar string, up to the bell or string terminator.
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

/// Whether a character is invisible or reorders others: those that Unicode calls `Default_Ignorable_Code_Point`, the
/// blank of Braille, and the marks of annotations.
pub const fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The first half of an example of FIPS 180-4. Folders of the cache are named so, and must be found again.
    #[test]
    fn a_fingerprint_is_half_of_the_sha_256() {
        assert_eq!(fingerprint("abc"), "ba7816bf8f01cfea414140de5dae2223");
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
    }

    #[test]
    fn the_nearest_name_is_one_that_fingers_or_eyes_take_for_it() {
        let known = ["dns", "media", "ns1", "sunday", "web"];
        let near = ["dsn", "meida", "nsl", "sundy", "wbe", "web", "SUNDAY", "x", "", "backup"]
            .map(|name| nearest(name, known).unwrap_or("-"));
        insta::assert_snapshot!(near.join(" "), @"dns media ns1 sunday web web sunday - - -");
        assert_eq!(nearest("nas", ["NAS", "ns1"]), Some("NAS"));
        assert_eq!(did_you_mean("dsn", known) + &did_you_mean("backup", known), "did you mean dns? ");
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
