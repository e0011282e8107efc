//! The kinds of values in a plan: their readers, whose errors say what to write instead, and their JSON schemas where
//! those of the types do not fit.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;
use thiserror::Error;
use toml::de::{DeTable, DeValue};

use super::Spanned;
use super::diagnostic::{PlanDiagnostic, PlanErrors};
use super::target::{Aliases, Selector};

type Read<T> = Result<T, PlanDiagnostic>;

/// The longest duration: a longer one is a typing error, and sums of durations could overflow.
const MAX_DURATION: Duration = Duration::from_hours(30 * 24);

const DURATION_HELP: &str = "durations are written like \"90s\", \"10m\" or \"1h30m\"";

/// The default time that an activated host waits for its confirmation.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_mins(1);

/// More is a typing error.
pub(super) const MAX_RETRIES: u16 = 1000;

/// The allowed range. A host whose network restarts needs the minimum to reconnect; while it waits, no operator can
/// deploy to it, hence the maximum.
const CONFIRM_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_hours(1);

/// Numbers with units, as `humantime` parses them, without the units that are too long for a plan.
pub(super) const DURATION: &str = r"^\s*([0-9]+(\.[0-9]+)?\s*(nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|wks?|w)\s*)+$|^0$";

/// An alias, or tokens with dots between them.
const TARGET: &str = r"^([A-Za-z0-9_-]+|[^.*>\s]+(\.[^.*>\s]+)+)$";

pub(super) const NAME: &str = "^[a-z0-9-]+$";

/// The most hosts in flight at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parallel {
    /// A number of hosts; at least 1.
    Hosts(usize),
    /// A percentage of the wave's hosts, 1 to 100.
    Percent(u8),
}

#[derive(Debug, Clone, PartialEq, Error)]
pub enum BadConfirmTimeout {
    #[error(transparent)]
    NoDuration(#[from] humantime::DurationError),
    /// Hosts count in whole seconds.
    #[error("it is not a whole number of seconds")]
    NotWhole,
    #[error("it is not between 5s and 1h")]
    OutOfRange,
}

/// A key with its value, or with one item of its list.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a, 'i> {
    pub(super) key: &'a str,
    pub(super) value: &'a toml::Spanned<DeValue<'i>>,
}

impl<'a, 'i> Entry<'a, 'i> {
    fn refused(self, why: impl Into<String>, label: impl Into<String>, help: impl Into<String>) -> PlanDiagnostic {
        PlanDiagnostic::mistake(why).at(&self.value.span(), label).help(help)
    }

    fn wrong_type(self, wanted: &str, help: impl Into<String>) -> PlanDiagnostic {
        let found = match self.value.get_ref() {
            DeValue::Array(_) => "a list",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Float(_) => "a fraction",
            DeValue::Integer(_) => "a number",
            DeValue::String(_) => "a string",
            DeValue::Table(_) => "a table",
        };
        self.refused(format!("`{}` is {found}", self.key), format!("expected {wanted}"), help)
    }

    /// Adds the place of the value.
    pub(super) fn spanned<T>(self, value: T) -> Spanned<T> {
        Spanned { value, span: self.value.span() }
    }

    pub(super) fn table(self) -> Read<&'a DeTable<'i>> {
        let help = || format!("write [{}] on a line of its own", self.key);
        self.value.get_ref().as_table().ok_or_else(|| self.wrong_type("a table", help()))
    }

    fn text(self) -> Read<&'a str> {
        let help = || format!("write {} = \"…\"", self.key);
        self.value.get_ref().as_str().ok_or_else(|| self.wrong_type("a string", help()))
    }

    /// Parses a string to `T`, whose error is the message.
    pub(super) fn parsed<T: FromStr<Err: Display>>(self, example: &str) -> Read<T> {
        let help = || format!("such as {} = \"{example}\"", self.key);
        self.text()?.parse().map_err(|error: T::Err| self.refused(error.to_string(), "refused", help()))
    }

    pub(super) fn boolean(self) -> Read<bool> {
        let help = || format!("write {0} = true or {0} = false, without quotes", self.key);
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong_type("true or false", help()))
    }

    pub(super) fn file(self) -> Read<String> {
        let help = || format!("write {0} = \"{0}.json\"", self.key);
        match self.text()? {
            "" => Err(self.refused("an empty text is no file", "expected a path", help())),
            file => Ok(file.to_owned()),
        }
    }

    pub(super) fn count(self) -> Read<usize> {
        self.whole(0..=usize::MAX)
    }

    pub(super) fn retries(self) -> Read<u32> {
        self.whole(0..=MAX_RETRIES.into()).map(|count| u32::try_from(count).unwrap_or(u32::MAX))
    }

    fn whole(self, allowed: RangeInclusive<usize>) -> Read<usize> {
        let wanted = match (allowed.start(), allowed.end()) {
            (least, &usize::MAX) => format!("a whole number, {least} or more"),
            (least, most) => format!("a whole number from {least} to {most}"),
        };
        let Some(integer) = self.value.get_ref().as_integer() else {
            let help = format!("write a number without quotes, such as {} = 1", self.key);
            return Err(self.wrong_type(&wanted, help));
        };
        let number = usize::from_str_radix(integer.as_str(), integer.radix()).ok();
        number.filter(|number| allowed.contains(number)).ok_or_else(|| {
            self.refused(format!("`{}` is out of range", self.key), "out of range", format!("write {wanted}"))
        })
    }

    /// Reads a number of hosts or a percentage of them.
    pub(super) fn parallel(self) -> Read<Parallel> {
        let Some(text) = self.value.get_ref().as_str() else { return self.whole(1..=usize::MAX).map(Parallel::Hosts) };
        let percent = text.strip_suffix('%').filter(|number| number.bytes().all(|b| b.is_ascii_digit()));
        let percent = percent.and_then(|number| number.parse().ok());
        percent.filter(|percent| (1..=100).contains(percent)).map(Parallel::Percent).ok_or_else(|| {
            let key = self.key;
            let why = format!("`{key}` is neither a number of hosts nor a percentage");
            let help =
                format!("write a number without quotes, such as {key} = 2, or a percentage such as {key} = \"25%\"");
            self.refused(why, "expected 1 or more, or \"1%\" to \"100%\"", help)
        })
    }

    pub(super) fn duration(self) -> Read<Duration> {
        let key = self.key;
        if let Some(number) = self.value.get_ref().as_integer() {
            let why = format!("`{key}` is a number without a unit");
            let help = format!("write {key} = \"{number}s\" if you mean seconds; {DURATION_HELP}");
            return Err(self.refused(why, "expected a duration", help));
        }
        let Some(text) = self.value.get_ref().as_str() else {
            return Err(self.wrong_type("a duration", DURATION_HELP));
        };
        let (why, label) = match humantime::parse_duration(text) {
            Ok(duration) if duration <= MAX_DURATION => return Ok(duration),
            Ok(_) => (format!("`{key}` is longer than 30 days"), "too long".to_owned()),
            Err(error) => (format!("`{key}` is not a duration"), error.to_string()),
        };
        Err(self.refused(why, label, DURATION_HELP))
    }

    /// Reads a duration that is not zero.
    pub(super) fn timeout(self) -> Read<Duration> {
        let duration = self.duration()?;
        if duration.is_zero() {
            let why = format!("`{}` is zero", self.key);
            return Err(self.refused(why, "expected more than 0", DURATION_HELP));
        }
        Ok(duration)
    }

    /// Reads the time that an activated host waits for its confirmation.
    pub(super) fn confirm_timeout(self) -> Read<Duration> {
        let key = self.key;
        confirm_timeout(self.duration()?).map_err(|error| {
            let help = format!("write {key} = \"1m\", or as long as a host may be out of reach after its activation");
            self.refused(format!("`{key}` is not possible"), error.to_string(), help)
        })
    }

    pub(super) fn name(self) -> Read<String> {
        let name = self.text()?;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !name.is_empty() && name.chars().all(allowed) {
            return Ok(name.to_owned());
        }
        let why = format!("{name:?} cannot be a name");
        let help = format!("write {} = \"{}\"", self.key, slug(name));
        Err(self.refused(why, "expected lower-case letters, digits and hyphens", help))
    }

    pub(super) fn command(self) -> Read<Vec<String>> {
        let key = self.key;
        let help =
            |words: &[&str]| format!("no shell reads it: write each word as a string of its own, {key} = {words:?}");
        let example = ["./smoke.sh", "dns"];
        let Some(list) = self.value.get_ref().as_array() else {
            let words: Vec<_> = self.value.get_ref().as_str().unwrap_or_default().split_whitespace().collect();
            let words = if words.is_empty() { &example[..] } else { &words };
            return Err(self.wrong_type("a list of strings", help(words)));
        };
        let word = |value| Entry { value, ..self }.text().map(str::to_owned);
        let words: Vec<String> = list
            .iter()
            .map(word)
            .collect::<Result<_, _>>()
            .map_err(|mistake| mistake.help(format!("every word of `{key}` is a string")))?;
        if words.first().is_none_or(String::is_empty) {
            let why = format!("`{key}` names no program");
            return Err(self.refused(why, "the first word is the program", help(&example)));
        }
        Ok(words)
    }

    /// Reads one target or a list of at least `least`. Appends the right ones to `selectors`.
    pub(super) fn selectors(
        self,
        least: usize,
        aliases: &dyn Aliases,
        selectors: &mut Vec<Spanned<Selector>>,
    ) -> Result<(), PlanErrors> {
        let help = || format!("write {} = \"test.all\"", self.key);
        let items = match self.value.get_ref() {
            DeValue::String(_) => vec![self.value],
            DeValue::Array(list) => list.iter().collect(),
            _ => return Err(self.wrong_type("a string or a list of strings", help()).into()),
        };
        if items.len() < least {
            return Err(self.refused(format!("`{}` is empty", self.key), "expected at least one", help()).into());
        }
        let mut mistakes = Vec::new();
        for item in items.into_iter().map(|value| Entry { value, ..self }) {
            let selector = item.text().and_then(|text| {
                Selector::parse(text, aliases).map_err(|mistake| mistake.at(&item.value.span(), "this target"))
            });
            match selector {
                Ok(selector) => selectors.push(item.spanned(selector)),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        PlanErrors::unless_none(mistakes)
    }
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

impl Parallel {
    /// Returns the number for a wave of `hosts` hosts: at least 1.
    pub fn of(self, hosts: usize) -> usize {
        let share = match self {
            Self::Hosts(count) => count.min(hosts),
            Self::Percent(percent) => hosts.saturating_mul(percent.into()) / 100,
        };
        share.max(1)
    }
}

/// Refuses a timeout that is not whole seconds or out of range.
fn confirm_timeout(duration: Duration) -> Result<Duration, BadConfirmTimeout> {
    if duration.subsec_nanos() > 0 {
        return Err(BadConfirmTimeout::NotWhole);
    }
    if !CONFIRM_TIMEOUTS.contains(&duration) {
        return Err(BadConfirmTimeout::OutOfRange);
    }
    Ok(duration)
}

/// Parses the confirm timeout in a plan or a flag.
pub fn parse_confirm_timeout(text: &str) -> Result<Duration, BadConfirmTimeout> {
    confirm_timeout(humantime::parse_duration(text)?)
}

pub(super) fn command_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "items": [{ "type": "string", "minLength": 1 }],
        "additionalItems": { "type": "string" },
    })
}

/// A duration with a digit other than 0, since a timeout is not empty.
pub(super) fn timeout_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "allOf": [{ "pattern": DURATION }, { "pattern": "[1-9]" }] })
}

pub(super) fn parallel_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [{ "type": "integer", "minimum": 1 }, { "type": "string", "pattern": "^0*(100|[1-9][0-9]?)%$" }],
    })
}

pub(super) fn targets_schema(_: &mut SchemaGenerator) -> Schema {
    one_or_list(0)
}

pub(super) fn some_targets_schema(_: &mut SchemaGenerator) -> Schema {
    one_or_list(1)
}

/// Returns the schema of one target, or a list of at least `least`.
fn one_or_list(least: usize) -> Schema {
    let target = json!({ "type": "string", "pattern": TARGET });
    json_schema!({ "anyOf": [target, { "type": "array", "items": target, "minItems": least }] })
}

/// The keys of the hooks.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct HookKeys {
    /// A program to run when the rollout begins or resumes: the program and its arguments, without a shell. It gets the
    /// rollout as JSON on its standard input, may take 30 seconds, and does not affect the rollout.
    #[schemars(rename = "on_start", schema_with = "command_schema", default)]
    start: (),
    /// The same, when a wave fails.
    #[schemars(rename = "on_halt", schema_with = "command_schema", default)]
    halt: (),
    /// The same, when the rollout has ended, whatever its outcome.
    #[schemars(rename = "on_finish", schema_with = "command_schema", default)]
    finish: (),
}
