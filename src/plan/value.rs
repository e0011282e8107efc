//! The kinds of values in a plan: their readers, whose errors say what to write instead, and their JSON schemas where
//! those of the types do not fit.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use miette::MietteDiagnostic;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;
use toml::de::{DeTable, DeValue};

use super::Spanned;
use super::diagnostic::{Place, PlanErrors};
use super::target::{Aliases, Selector, TargetError};

type Read<T> = Result<T, PlanErrors>;

/// The longest duration: a longer one is a typing error, and sums of durations could overflow.
const MAX_DURATION: Duration = Duration::from_hours(30 * 24);

/// The default time that an activated host waits for its confirmation.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_mins(1);

/// More is a typing error.
pub(super) const MAX_RETRIES: u16 = 1000;

/// The allowed range. A host whose network restarts needs the minimum to reconnect; while it waits, no operator can
/// deploy to it, hence the maximum.
const CONFIRM_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_hours(1);

const CONFIRM_TIMEOUTS_HELP: &str = "a duration of whole seconds between 5s and 1h";

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

/// A key with its value, or with one item of its list.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a, 'i> {
    pub(super) key: &'a str,
    pub(super) value: &'a toml::Spanned<DeValue<'i>>,
}

impl<'a, 'i> Entry<'a, 'i> {
    /// Reads the value, which has to be `wanted`, a noun with its article. `example` is a right one.
    fn read<T>(self, wanted: &str, example: &str, read: impl FnOnce(&'a DeValue<'i>) -> Option<T>) -> Read<T> {
        read(self.value.get_ref()).ok_or_else(|| self.refused(format!("`{}` is not {wanted}", self.key), example))
    }

    fn refused(self, why: String, example: &str) -> PlanErrors {
        let help = format!("write it like {} = {example}", self.key);
        MietteDiagnostic::new(why).at(&self.value.span(), "this value").with_help(help).into()
    }

    /// Adds the place of the value.
    pub(super) fn spanned<T>(self, value: T) -> Spanned<T> {
        Spanned { value, span: self.value.span() }
    }

    pub(super) fn table(self) -> Read<&'a DeTable<'i>> {
        self.read("a table", "{ max_parallel = 2 }", DeValue::as_table)
    }

    fn text(self) -> Read<&'a str> {
        self.read("a string", "\"…\"", DeValue::as_str)
    }

    /// Parses a string to `T`, whose error is the message.
    pub(super) fn parsed<T: FromStr<Err: Display>>(self, example: &str) -> Read<T> {
        self.text()?.parse().map_err(|error: T::Err| self.refused(error.to_string(), &format!("{example:?}")))
    }

    pub(super) fn boolean(self) -> Read<bool> {
        self.read("true or false, without quotes", "true", DeValue::as_bool)
    }

    pub(super) fn file(self) -> Read<String> {
        let file = |value: &DeValue<'_>| value.as_str().filter(|file| !file.is_empty()).map(str::to_owned);
        self.read("the path of a file", "\"systems.json\"", file)
    }

    pub(super) fn count(self) -> Read<usize> {
        self.read("a whole number from 0, without quotes", "1", whole)
    }

    pub(super) fn retries(self) -> Read<u32> {
        let fits = |value: &DeValue<'_>| u16::try_from(whole(value)?).ok().filter(|count| *count <= MAX_RETRIES);
        self.read("a whole number from 0 to 1000, without quotes", "1", fits).map(u32::from)
    }

    pub(super) fn parallel(self) -> Read<Parallel> {
        self.read("a number of hosts from 1, or a percentage from \"1%\" to \"100%\"", "\"25%\"", |value| {
            let Some(text) = value.as_str() else {
                return whole(value).filter(|hosts| *hosts > 0).map(Parallel::Hosts);
            };
            let digits = text.strip_suffix('%').filter(|number| number.bytes().all(|b| b.is_ascii_digit()))?;
            digits.parse().ok().filter(|percent| (1..=100).contains(percent)).map(Parallel::Percent)
        })
    }

    pub(super) fn duration(self) -> Read<Duration> {
        self.duration_that("a duration of at most 30 days", |_| true)
    }

    pub(super) fn timeout(self) -> Read<Duration> {
        self.duration_that("a duration above zero and of at most 30 days", |duration| !duration.is_zero())
    }

    /// Reads the time that an activated host waits for its confirmation.
    pub(super) fn confirm_timeout(self) -> Read<Duration> {
        self.duration_that(CONFIRM_TIMEOUTS_HELP, fits_confirmation)
    }

    fn duration_that(self, wanted: &str, fits: impl Fn(Duration) -> bool) -> Read<Duration> {
        let duration = |text: &str| {
            let duration = humantime::parse_duration(text).ok()?;
            (duration <= MAX_DURATION && fits(duration)).then_some(duration)
        };
        // Who writes a number most probably means seconds.
        let seconds = self.value.get_ref().as_integer().map(|number| format!("{number}s"));
        let example = seconds.filter(|text| duration(text).is_some()).unwrap_or_else(|| "1m30s".to_owned());
        self.read(wanted, &format!("{example:?}"), |value| duration(value.as_str()?))
    }

    pub(super) fn name(self) -> Read<String> {
        let example = slug(self.value.get_ref().as_str().unwrap_or("sunday"));
        self.read("a name of lower-case letters, digits and hyphens", &format!("{example:?}"), |value| {
            let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            value.as_str().filter(|name| !name.is_empty() && name.chars().all(is_allowed)).map(str::to_owned)
        })
    }

    pub(super) fn command(self) -> Read<Vec<String>> {
        let text = self.value.get_ref().as_str().filter(|text| !text.trim().is_empty());
        let words: Vec<&str> = text.unwrap_or("./smoke.sh dns").split_whitespace().collect();
        self.read("a list of strings: a program and its arguments", &format!("{words:?}"), |value| {
            let word = |word: &toml::Spanned<DeValue<'_>>| word.get_ref().as_str().map(str::to_owned);
            let words: Vec<String> = value.as_array()?.iter().map(word).collect::<Option<_>>()?;
            words.first().is_some_and(|program| !program.is_empty()).then_some(words)
        })
    }

    /// Reads one target or a list of at least `least`. Appends the right ones to `selectors`.
    pub(super) fn selectors(
        self,
        least: usize,
        aliases: &dyn Aliases,
        selectors: &mut Vec<Spanned<Selector>>,
    ) -> Result<(), PlanErrors> {
        let items: Vec<_> = self.read("a target or a list of targets", "\"test.all\"", |value| match value {
            DeValue::String(_) => Some(vec![self.value]),
            DeValue::Array(list) if list.len() >= least => Some(list.iter().collect()),
            _ => None,
        })?;
        let mut mistakes = Vec::new();
        for item in items.into_iter().map(|value| Entry { value, ..self }) {
            match item.text().map(|text| Selector::parse(text, aliases)) {
                Ok(Ok(selector)) => selectors.push(item.spanned(selector)),
                Ok(Err(TargetError { what, help })) => {
                    mistakes.push(MietteDiagnostic::new(what).at(&item.value.span(), "this target").with_help(help));
                }
                Err(errors) => mistakes.extend(errors.mistakes),
            }
        }
        PlanErrors::unless_none(mistakes)
    }
}

fn whole(value: &DeValue<'_>) -> Option<usize> {
    let integer = value.as_integer()?;
    usize::from_str_radix(integer.as_str(), integer.radix()).ok()
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

/// Hosts count in whole seconds.
fn fits_confirmation(timeout: Duration) -> bool {
    timeout.subsec_nanos() == 0 && CONFIRM_TIMEOUTS.contains(&timeout)
}

/// Parses the confirm timeout in a flag.
pub fn parse_confirm_timeout(text: &str) -> Result<Duration, String> {
    let timeout = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if fits_confirmation(timeout) { Ok(timeout) } else { Err(format!("it is not {CONFIRM_TIMEOUTS_HELP}")) }
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
