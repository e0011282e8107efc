//! Parses the TOML values of a plan's keys. Each error says what to write instead.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::Spanned;
use super::diagnostic::PlanDiagnostic;
use super::settings::{self, Parallel, Rollback};

pub(super) type Value<'i> = toml::Spanned<DeValue<'i>>;

/// The longest duration: a longer one is a typing error, and sums of durations could overflow.
const MAX_DURATION: Duration = Duration::from_hours(30 * 24);

pub(super) const MAX_RETRIES: usize = 1000;

const DURATION_HELP: &str = "durations are written like \"90s\", \"10m\" or \"1h30m\"";

fn wrong_type(value: &Value<'_>, key: &str, wanted: &str) -> PlanDiagnostic {
    let found = match value.get_ref() {
        DeValue::Array(_) => "a list",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Float(_) => "a fraction",
        DeValue::Integer(_) => "a number",
        DeValue::String(_) => "a string",
        DeValue::Table(_) => "a table",
    };
    refused(value, format!("`{key}` is {found}"), format!("expected {wanted}"))
}

fn refused(value: &Value<'_>, why: String, label: impl Into<String>) -> PlanDiagnostic {
    PlanDiagnostic::mistake(why).at(&value.span(), label)
}

pub(super) fn table<'a, 'i>(value: &'a Value<'i>, key: &str) -> Result<&'a DeTable<'i>, PlanDiagnostic> {
    let table = value.get_ref().as_table();
    table.ok_or_else(|| wrong_type(value, key, "a table").help(format!("write [{key}] on a line of its own")))
}

pub(super) fn text<'a>(value: &'a Value<'_>, key: &str) -> Result<&'a str, PlanDiagnostic> {
    let text = value.get_ref().as_str();
    text.ok_or_else(|| wrong_type(value, key, "a string").help(format!("write {key} = \"…\"")))
}

/// Parses a string to `T`, whose error is the message.
pub(super) fn parsed<T>(value: &Value<'_>, key: &str, example: &str) -> Result<T, PlanDiagnostic>
where
    T: FromStr<Err: Display>,
{
    text(value, key)?.parse().map_err(|error: T::Err| {
        refused(value, error.to_string(), "refused").help(format!("such as {key} = \"{example}\""))
    })
}

pub(super) fn boolean(value: &Value<'_>, key: &str) -> Result<bool, PlanDiagnostic> {
    let boolean = value.get_ref().as_bool();
    boolean.ok_or_else(|| {
        wrong_type(value, key, "true or false").help(format!("write {key} = true or {key} = false, without quotes"))
    })
}

pub(super) fn file(value: &Value<'_>, key: &str) -> Result<String, PlanDiagnostic> {
    let file = text(value, key)?;
    if file.is_empty() {
        let mistake = refused(value, "an empty text is no file".to_owned(), "expected a path");
        return Err(mistake.help(format!("write {key} = \"{key}.json\"")));
    }
    Ok(file.to_owned())
}

pub(super) fn count(value: &Value<'_>, key: &str) -> Result<usize, PlanDiagnostic> {
    whole(value, key, 0..=usize::MAX)
}

pub(super) fn retries(value: &Value<'_>, key: &str) -> Result<u32, PlanDiagnostic> {
    whole(value, key, 0..=MAX_RETRIES).map(|count| u32::try_from(count).unwrap_or(u32::MAX))
}

fn whole(value: &Value<'_>, key: &str, allowed: RangeInclusive<usize>) -> Result<usize, PlanDiagnostic> {
    let (least, most) = (allowed.start(), allowed.end());
    let wanted = if *most == usize::MAX {
        format!("a whole number, {least} or more")
    } else {
        format!("a whole number from {least} to {most}")
    };
    let Some(integer) = value.get_ref().as_integer() else {
        return Err(wrong_type(value, key, &wanted).help(format!("write a number without quotes, such as {key} = 1")));
    };
    let number = usize::from_str_radix(integer.as_str(), integer.radix()).ok();
    number.filter(|number| allowed.contains(number)).ok_or_else(|| {
        refused(value, format!("`{key}` is out of range"), "out of range").help(format!("write {wanted}"))
    })
}

/// Parses a number of hosts or a percentage of them.
pub(super) fn parallel(value: &Value<'_>, key: &str) -> Result<Parallel, PlanDiagnostic> {
    let Some(text) = value.get_ref().as_str() else { return whole(value, key, 1..=usize::MAX).map(Parallel::Hosts) };
    let percent = text.strip_suffix('%').filter(|number| number.bytes().all(|b| b.is_ascii_digit()));
    let percent = percent.and_then(|number| number.parse().ok());
    percent.filter(|percent| (1..=100).contains(percent)).map(Parallel::Percent).ok_or_else(|| {
        let why = format!("`{key}` is neither a number of hosts nor a percentage");
        refused(value, why, "expected 1 or more, or \"1%\" to \"100%\"")
            .help(format!("write a number without quotes, such as {key} = 2, or a percentage such as {key} = \"25%\""))
    })
}

pub(super) fn duration(value: &Value<'_>, key: &str) -> Result<Duration, PlanDiagnostic> {
    if let Some(number) = value.get_ref().as_integer() {
        let why = format!("`{key}` is a bare number, which does not say its unit");
        return Err(refused(value, why, "expected a duration")
            .help(format!("write {key} = \"{number}s\" if you mean seconds; {DURATION_HELP}")));
    }
    let Some(text) = value.get_ref().as_str() else {
        return Err(wrong_type(value, key, "a duration").help(DURATION_HELP));
    };
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= MAX_DURATION => Ok(duration),
        Ok(_) => Err(refused(value, format!("`{key}` is longer than 30 days"), "too long").help(DURATION_HELP)),
        Err(error) => Err(refused(value, format!("`{key}` is not a duration"), error.to_string()).help(DURATION_HELP)),
    }
}

/// Parses a duration that is not zero.
pub(super) fn timeout(value: &Value<'_>, key: &str) -> Result<Duration, PlanDiagnostic> {
    let duration = duration(value, key)?;
    if duration.is_zero() {
        let why = format!("`{key}` leaves no time at all");
        return Err(refused(value, why, "expected more than nothing").help(DURATION_HELP));
    }
    Ok(duration)
}

/// Parses a timeout and keeps its place.
pub(super) fn timeout_at(value: &Value<'_>, key: &str) -> Result<Spanned<Duration>, PlanDiagnostic> {
    timeout(value, key).map(|duration| Spanned { value: duration, span: value.span() })
}

/// Parses the time that an activated host waits for its confirmation.
pub(super) fn confirm_timeout(value: &Value<'_>, key: &str) -> Result<Duration, PlanDiagnostic> {
    settings::confirm_timeout(duration(value, key)?).map_err(|error| {
        refused(value, format!("`{key}` cannot be kept to"), error.to_string())
            .help(format!("write {key} = \"1m\", or what a host needs to be reached again after its activation"))
    })
}

/// Parses a rollback policy and keeps its place.
pub(super) fn rollback(value: &Value<'_>, key: &str) -> Result<Spanned<Rollback>, PlanDiagnostic> {
    parsed(value, key, "auto").map(|rollback| Spanned { value: rollback, span: value.span() })
}

pub(super) fn name(value: &Value<'_>, key: &str) -> Result<String, PlanDiagnostic> {
    let name = text(value, key)?;
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.is_empty() && name.chars().all(allowed) {
        return Ok(name.to_owned());
    }
    Err(refused(value, format!("{name:?} cannot be a name"), "expected lower-case letters, digits and hyphens")
        .help(format!("write {key} = \"{}\"", slug(name))))
}

/// Turns `text` into a valid name.
pub(super) fn slug(text: &str) -> String {
    let fitting = |c: char| {
        if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }
    };
    let name: String = text.chars().map(fitting).collect();
    match name.trim_matches('-') {
        "" => "unnamed".to_owned(),
        name => name.to_owned(),
    }
}

pub(super) fn command(value: &Value<'_>, key: &str) -> Result<Vec<String>, PlanDiagnostic> {
    let help =
        |words: &[String]| format!("no shell reads it: write each word as a string of its own, {key} = {words:?}");
    let Some(list) = value.get_ref().as_array() else {
        let line = value.get_ref().as_str().filter(|line| !line.trim().is_empty()).unwrap_or("./smoke.sh dns");
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        return Err(wrong_type(value, key, "a list of strings").help(help(&words)));
    };
    let words = list
        .iter()
        .map(|word| text(word, key).map(str::to_owned))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|mistake| mistake.help(format!("every word of `{key}` is a string")))?;
    if words.first().is_none_or(String::is_empty) {
        return Err(refused(value, format!("`{key}` names no program"), "the first word is the program")
            .help(help(&["./smoke.sh".to_owned(), "dns".to_owned()])));
    }
    Ok(words)
}

/// Parses one string or a list of them, with their places.
pub(super) fn texts<'a>(value: &'a Value<'_>, key: &str) -> Result<Vec<Spanned<&'a str>>, PlanDiagnostic> {
    let at = |span: Range<usize>, value: &'a str| Spanned { value, span };
    match value.get_ref() {
        DeValue::String(text) => Ok(vec![at(value.span(), text)]),
        DeValue::Array(list) => list.iter().map(|item| Ok(at(item.span(), text(item, key)?))).collect(),
        _ => Err(wrong_type(value, key, "a string or a list of strings").help(format!("write {key} = \"test.all\""))),
    }
}

/// Parses one string or a list that is not empty.
pub(super) fn some_texts<'a>(value: &'a Value<'_>, key: &str) -> Result<Vec<Spanned<&'a str>>, PlanDiagnostic> {
    let texts = texts(value, key)?;
    if texts.is_empty() {
        return Err(refused(value, format!("`{key}` is empty"), "expected at least one")
            .help(format!("write {key} = \"test.all\"")));
    }
    Ok(texts)
}
