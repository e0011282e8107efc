//! Parses TOML to a [`Plan`].
//!
//! Reads the tables by hand and continues after a mistake, to report all mistakes of a file at once with their places.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::diagnostic::{PlanDiagnostic, PlanErrors};
use super::schema::{Key, SETTING_KEYS, TOP_KEYS, WAVE_KEYS};
use super::target::Aliases;
use super::value::{self, Value};
use super::{Hook, Plan, Selector, Settings, Spanned, Wave};
use crate::protocol::Action;
use crate::text::nearest;

impl Plan {
    /// Parses a plan. `default_name`, the stem of its file, names a plan without `name`.
    pub fn parse(text: &str, default_name: &str, aliases: &dyn Aliases) -> Result<Self, PlanErrors> {
        let (document, errors) = DeTable::parse_recoverable(text);
        let mut mistakes = Vec::new();
        let plan = Self::read(document.get_ref(), default_name, aliases, &mut mistakes);
        if !errors.is_empty() {
            // The content of a broken line is unknown, and so is what is missing because of it.
            let broken: Vec<_> = errors.iter().map(|error| lines_of(text, error.span())).collect();
            let is_known =
                |span: Range<usize>| !broken.iter().any(|lines| span.start < lines.end && lines.start <= span.end);
            // What has no place stands for a value that is missing there.
            mistakes.retain(|mistake| !mistake.is_absence() && mistake.span().is_some_and(is_known));
            mistakes.extend(errors.iter().map(|error| not_toml(error, text)));
        }
        PlanErrors::unless_none(mistakes).map(|()| plan)
    }

    fn read(
        document: &DeTable<'_>,
        default_name: &str,
        aliases: &dyn Aliases,
        mistakes: &mut Vec<PlanDiagnostic>,
    ) -> Self {
        let mut top = Keys::new(document, PlanTable::Top, mistakes);
        let name = top.read("name", value::name);
        let revision = top.read("revision", |value, key| value::parsed(value, key, "main"));
        let flake = top.read("flake", |value, key| value::parsed(value, key, "git+https://git.example.com/nixos"));
        let systems = top.read("systems", value::file);
        let stage = top.setting("stage", value::boolean, &false);
        let hooks = Hook::ALL.into_iter().filter_map(|hook| Some((hook, top.read(hook.as_str(), value::command)?)));
        let hooks = hooks.collect();
        let builtin = Settings::default();
        let mut settings = Settings { action: top.setting("action", action, &builtin.action), ..builtin };
        if let Some(defaults) = document.get("defaults") {
            match value::table(defaults, "defaults") {
                Ok(table) => settings = Settings::read(&mut Keys::new(table, PlanTable::Defaults, mistakes), &settings),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        let waves: Vec<_> = wave_tables(document, mistakes)
            .into_iter()
            .map(|wave| Wave::read(wave.value, &wave.span, &settings, aliases, mistakes))
            .collect();
        mistakes.extend(names_used_twice(&waves));
        Self { name: name.unwrap_or_else(|| value::slug(default_name)), revision, flake, hooks, systems, stage, waves }
    }
}

fn action(value: &Value<'_>, key: &str) -> Result<Action, PlanDiagnostic> {
    value::parsed(value, key, "switch")
}

/// Returns the tables of the waves, with the places of their headers.
fn wave_tables<'a, 'i>(document: &'a DeTable<'i>, mistakes: &mut Vec<PlanDiagnostic>) -> Vec<Spanned<&'a DeTable<'i>>> {
    let list = match document.get("wave").map(|value| (value, value.get_ref())) {
        Some((_, DeValue::Array(list))) if !list.is_empty() => list,
        None | Some((_, DeValue::Array(_))) => {
            let help = "add one: a line [[wave]], and below it targets = \"test.all\"";
            mistakes.push(PlanDiagnostic::absence("the plan has no wave").help(help));
            return Vec::new();
        }
        Some((value, _)) => {
            mistakes.push(not_a_wave(value));
            return Vec::new();
        }
    };
    let mut tables = Vec::with_capacity(list.len());
    for value in list {
        match value.get_ref().as_table() {
            Some(table) => tables.push(Spanned { value: table, span: value.span() }),
            None => mistakes.push(not_a_wave(value)),
        }
    }
    tables
}

fn not_a_wave(value: &Value<'_>) -> PlanDiagnostic {
    PlanDiagnostic::mistake("`wave` is not a list of waves")
        .at(&value.span(), "expected [[wave]]")
        .help("begin each wave with a line [[wave]], in two pairs of brackets")
}

impl Wave {
    fn read(
        table: &DeTable<'_>,
        header: &Range<usize>,
        defaults: &Settings,
        aliases: &dyn Aliases,
        mistakes: &mut Vec<PlanDiagnostic>,
    ) -> Self {
        let mut keys = Keys::new(table, PlanTable::Wave, mistakes);
        let name = keys
            .read("name", |value, key| value::name(value, key).map(|name| Spanned { value: name, span: value.span() }));
        let settings = Settings::read(&mut keys, defaults);
        let targets = keys.selectors("targets", value::some_texts, aliases);
        let exclude = keys.selectors("exclude", value::texts, aliases);
        if !table.contains_key("targets") {
            let help = "say which hosts it is for, such as targets = \"test.all\"";
            mistakes.push(PlanDiagnostic::absence("the wave has no `targets`").at(header, "this wave").help(help));
        }
        let first = targets.first().map_or("", |selector| &selector.value.text);
        Self {
            name: name.unwrap_or_else(|| Spanned { value: value::slug(first), span: header.clone() }),
            targets,
            exclude,
            settings,
        }
    }
}

impl Settings {
    /// Reads the keys of a table; takes missing ones from `base`.
    fn read(keys: &mut Keys<'_, '_, '_>, base: &Self) -> Self {
        let settings = Self {
            action: keys.setting("action", action, &base.action),
            max_parallel: keys.setting("max_parallel", value::parallel, &base.max_parallel),
            max_failures: keys.setting("max_failures", value::count, &base.max_failures),
            min_hosts: keys.setting("min_hosts", value::count, &base.min_hosts),
            ignore_unreachable: keys.setting("ignore_unreachable", value::boolean, &base.ignore_unreachable),
            accept_timeout: keys.setting("accept_timeout", value::timeout_at, &base.accept_timeout),
            timeout: keys.setting("timeout", value::timeout_at, &base.timeout),
            bake_time: keys.setting("bake_time", value::duration, &base.bake_time),
            check: keys.setting("check", |value, key| value::command(value, key).map(Some), &base.check),
            check_timeout: keys.setting("check_timeout", value::timeout, &base.check_timeout),
            confirm: keys.setting("confirm", value::boolean, &base.confirm),
            retries: keys.setting("retries", value::retries, &base.retries),
            retry_delay: keys.setting("retry_delay", value::duration, &base.retry_delay),
            rollback: keys.setting("rollback", |value, key| value::rollback(value, key).map(Some), &base.rollback),
            confirm_timeout: keys.setting(
                "confirm_timeout",
                |value, key| value::confirm_timeout(value, key).map(Some),
                &base.confirm_timeout,
            ),
        };
        let Self { accept_timeout, timeout, .. } = &settings;
        if accept_timeout.value >= timeout.value {
            let (accept, whole) = [accept_timeout, timeout].map(|at| humantime::format_duration(at.value)).into();
            keys.mistake(
                PlanDiagnostic::mistake(format!("`accept_timeout` ({accept}) is not shorter than `timeout` ({whole})"))
                    .at(&accept_timeout.span, "until the first sign of life")
                    .at(&timeout.span, "until the end of the run")
                    .help("a host that has not begun in time is unreachable: give it seconds, and the run minutes"),
            );
        }
        settings
    }
}

fn names_used_twice(waves: &[Wave]) -> Vec<PlanDiagnostic> {
    let mut first: BTreeMap<&str, &Range<usize>> = BTreeMap::new();
    let mut mistakes = Vec::new();
    // A wave without valid targets may have a placeholder as its name.
    for wave in waves.iter().filter(|wave| !wave.targets.is_empty()) {
        let Spanned { value: name, span } = &wave.name;
        if let Some(first) = first.get(name.as_str()) {
            mistakes.push(
                PlanDiagnostic::mistake(format!("two waves are called `{name}`"))
                    .at(span, "this one")
                    .at(first, "and this one")
                    .help("give one of them another `name`; a wave without one is called after its first target"),
            );
        } else {
            first.insert(name, span);
        }
    }
    mistakes
}

/// Extends a place in the text to whole lines.
fn lines_of(text: &str, span: Option<Range<usize>>) -> Range<usize> {
    let Range { start, end } = span.unwrap_or_default();
    let from = text.get(..start).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let to = text.get(end..).and_then(|after| after.find('\n')).map_or(text.len(), |length| end + length);
    from..to + 1
}

fn not_toml(error: &toml::de::Error, text: &str) -> PlanDiagnostic {
    let mistake = PlanDiagnostic::mistake("this is not TOML").help("https://toml.io shows the format on one page");
    let Some(span) = error.span() else { return mistake };
    // Something that is missing at a place has no width, and could not be pointed at; nor could the end of the text.
    let last = text.trim_end().char_indices().next_back().map_or(0, |(last, _)| last);
    let start = span.start.min(last);
    mistake.at(&(start..span.end.max(start + 1)), error.message())
}

/// The kinds of tables, which have different keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlanTable {
    Top,
    Defaults,
    Wave,
}

/// Reads the keys of a table and collects mistakes.
struct Keys<'t, 'i, 'm> {
    table: &'t DeTable<'i>,
    place: PlanTable,
    mistakes: &'m mut Vec<PlanDiagnostic>,
}

impl<'t, 'i, 'm> Keys<'t, 'i, 'm> {
    /// Begins to read a table. Unknown keys are mistakes.
    fn new(table: &'t DeTable<'i>, place: PlanTable, mistakes: &'m mut Vec<PlanDiagnostic>) -> Self {
        let unknown = table.keys().filter(|key| !place.has(key.get_ref()));
        mistakes.extend(unknown.map(|key| place.refuse(key.get_ref()).at(&key.span(), place.label())));
        Self { table, place, mistakes }
    }

    fn mistake(&mut self, mistake: PlanDiagnostic) {
        self.mistakes.push(mistake);
    }

    /// Returns the value of a key; `None` if the key is absent or its value is wrong, which is recorded as a mistake.
    fn read<T>(&mut self, key: &str, read: impl FnOnce(&'t Value<'i>, &str) -> Result<T, PlanDiagnostic>) -> Option<T> {
        debug_assert!(self.place.has(key), "`{key}` is read, but is in no list of keys and so in no schema");
        read(self.table.get(key)?, key).map_err(|mistake| self.mistakes.push(mistake)).ok()
    }

    /// Returns the value of a key, or `base`.
    fn setting<T: Clone>(
        &mut self,
        key: &str,
        read: impl FnOnce(&'t Value<'i>, &str) -> Result<T, PlanDiagnostic>,
        base: &T,
    ) -> T {
        self.read(key, read).unwrap_or_else(|| base.clone())
    }

    /// Returns the valid selectors of a key.
    fn selectors(
        &mut self,
        key: &str,
        read: impl FnOnce(&'t Value<'i>, &str) -> Result<Vec<Spanned<&'t str>>, PlanDiagnostic>,
        aliases: &dyn Aliases,
    ) -> Vec<Spanned<Selector>> {
        let texts = self.read(key, read).unwrap_or_default();
        let mut selectors = Vec::with_capacity(texts.len());
        for Spanned { value: text, span } in texts {
            match Selector::parse(text, aliases) {
                Ok(value) => selectors.push(Spanned { value, span }),
                Err(mistake) => self.mistakes.push(mistake.at(&span, "this target")),
            }
        }
        selectors
    }
}

impl PlanTable {
    fn keys(self) -> Vec<&'static str> {
        match self {
            Self::Top => names(&TOP_KEYS).collect(),
            Self::Defaults => names(&SETTING_KEYS).collect(),
            Self::Wave => names(&WAVE_KEYS).chain(names(&SETTING_KEYS)).collect(),
        }
    }

    fn has(self, key: &str) -> bool {
        self.keys().contains(&key)
    }

    /// The label for a key in this table.
    const fn label(self) -> &'static str {
        match self {
            Self::Top => "at the top of the file",
            Self::Defaults => "in [defaults]",
            Self::Wave => "in this wave",
        }
    }

    /// Creates the error for an unknown key: names the right table, or a similar key.
    fn refuse(self, key: &str) -> PlanDiagnostic {
        if let Some(home) = home(key) {
            return PlanDiagnostic::mistake(format!("`{key}` does not belong here")).help(format!("it belongs {home}"));
        }
        let unknown = PlanDiagnostic::mistake(format!("unknown key `{key}`"));
        // This table comes first: `nearest` returns the first of equally similar keys.
        let known = [self, Self::Top, Self::Wave].into_iter().flat_map(Self::keys);
        let Some(near) = nearest(key, known) else {
            return unknown.help(format!("the keys here are {}", self.keys().join(", ")));
        };
        match home(near) {
            Some(home) if !self.has(near) => unknown.help(format!("did you mean `{near}`? It belongs {home}")),
            _ => unknown.help(format!("did you mean `{near}`?")),
        }
    }
}

fn names(keys: &[Key]) -> impl Iterator<Item = &'static str> {
    keys.iter().map(|key| key.name)
}

/// Returns the right table of a key, if the key exists.
fn home(key: &str) -> Option<&'static str> {
    let is_of = |keys| names(keys).any(|name| name == key);
    if is_of(&WAVE_KEYS) {
        Some("in a [[wave]]")
    } else if is_of(&SETTING_KEYS) {
        Some("in [defaults], for every wave, or in the [[wave]] that it is for")
    } else if is_of(&TOP_KEYS) {
        Some("at the top of the file, before [defaults] and the first [[wave]]")
    } else {
        None
    }
}
