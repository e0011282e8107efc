//! Parses TOML to a [`Plan`].
//!
//! Reads each key on its own and continues after a mistake, to report all mistakes of a file at once with their places.

use std::ops::Range;

use miette::MietteDiagnostic;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Place, PlanErrors};
use super::schema::Table;
use super::target::Aliases;
use super::value::{Entry, slug};
use super::{Hook, Plan, Settings, Spanned, Wave};

#[derive(Default)]
struct Mistakes {
    wrong: Vec<MietteDiagnostic>,
    /// What the file lacks, unless it is on a line that cannot be read.
    missing: Vec<MietteDiagnostic>,
}

impl Plan {
    /// Parses a plan. `default_name`, the stem of its file, names a plan without `name`.
    pub fn parse(text: &str, default_name: &str, aliases: &dyn Aliases) -> Result<Self, PlanErrors> {
        let (document, errors) = DeTable::parse_recoverable(text);
        let mut mistakes = Mistakes::default();
        let plan = Self::read(document.get_ref(), default_name, aliases, &mut mistakes);
        let Mistakes { mut wrong, missing } = mistakes;
        if errors.is_empty() {
            wrong.extend(missing);
        } else {
            // The content of a broken line is unknown.
            let broken: Vec<_> = errors.iter().map(|error| lines_of(text, error.span())).collect();
            let is_known =
                |span: Range<usize>| !broken.iter().any(|lines| span.start < lines.end && lines.start <= span.end);
            // A mistake without a place is about a value that the line lacks.
            wrong.retain(|mistake| mistake.span().is_some_and(is_known));
            wrong.extend(errors.iter().map(|error| not_toml(error, text)));
        }
        PlanErrors::unless_none(wrong).map(|()| plan)
    }

    fn read(document: &DeTable<'_>, default_name: &str, aliases: &dyn Aliases, mistakes: &mut Mistakes) -> Self {
        let mut plan = Self::unwritten(slug(default_name), Vec::new());
        let mut settings = Settings::default();
        let mut defaults = None;
        read_keys(document, Table::Top, mistakes, |entry| {
            match entry.key {
                "name" => plan.name = entry.name()?,
                "revision" => plan.revision = Some(entry.spanned(entry.parsed("main")?)),
                "action" => settings.set(entry)?,
                "flake" => plan.flake = Some(entry.parsed("git+https://git.example.com/nixos")?),
                "systems" => plan.systems = Some(entry.file()?),
                "stage" => plan.stage = entry.boolean()?,
                "defaults" => defaults = Some(entry.table()?),
                key => {
                    if let Some(hook) = Hook::ALL.into_iter().find(|hook| hook.as_str() == key) {
                        plan.hooks.insert(hook, entry.command()?);
                    }
                }
            }
            Ok(())
        });
        if let Some(defaults) = defaults {
            read_keys(defaults, Table::Defaults, mistakes, |entry| settings.set(entry));
            mistakes.wrong.extend(settings.mismatch());
        }
        let tables = wave_tables(document, mistakes);
        plan.waves = tables.iter().map(|table| Wave::read(table, &settings, aliases, mistakes)).collect();
        mistakes.wrong.extend(names_used_twice(&plan.waves));
        plan
    }
}

/// Calls `set` with each entry of a table, and collects its errors. Keys that are not of this table are mistakes.
fn read_keys<'a, 'i>(
    table: &'a DeTable<'i>,
    kind: Table,
    mistakes: &mut Mistakes,
    mut set: impl FnMut(Entry<'a, 'i>) -> Result<(), PlanErrors>,
) {
    for (key, value) in table {
        if !kind.has(key.get_ref()) {
            mistakes.wrong.push(kind.refuse(key.get_ref()).at(&key.span(), kind.label()));
        } else if let Err(errors) = set(Entry { key: key.get_ref(), value }) {
            mistakes.wrong.extend(errors.mistakes);
        }
    }
}

/// Returns the tables of the waves, with the places of their headers.
fn wave_tables<'a, 'i>(document: &'a DeTable<'i>, mistakes: &mut Mistakes) -> Vec<Spanned<&'a DeTable<'i>>> {
    let values = match document.get("wave").map(|value| (value, value.get_ref())) {
        None => Vec::new(),
        Some((_, DeValue::Array(list))) => list.iter().collect(),
        Some((value, _)) => {
            mistakes.wrong.push(not_a_wave(&value.span()));
            return Vec::new();
        }
    };
    if values.is_empty() {
        let help = "add one: a line [[wave]], and below it targets = \"test.all\"";
        mistakes.missing.push(MietteDiagnostic::new("the plan has no wave").with_help(help));
    }
    let table = |value: &'a toml::Spanned<DeValue<'i>>| {
        let table = value.get_ref().as_table().map(|table| Spanned { value: table, span: value.span() });
        mistakes.wrong.extend(table.is_none().then(|| not_a_wave(&value.span())));
        table
    };
    values.into_iter().filter_map(table).collect()
}

fn not_a_wave(span: &Range<usize>) -> MietteDiagnostic {
    MietteDiagnostic::new("`wave` is not a list of waves")
        .at(span, "expected [[wave]]")
        .with_help("begin each wave with a line [[wave]], in two pairs of brackets")
}

impl Wave {
    fn read(
        table: &Spanned<&DeTable<'_>>,
        defaults: &Settings,
        aliases: &dyn Aliases,
        mistakes: &mut Mistakes,
    ) -> Self {
        let Spanned { value: table, span: header } = table;
        let mut wave = Self::unwritten(String::new(), Vec::new(), defaults.clone());
        read_keys(table, Table::Wave, mistakes, |entry| match entry.key {
            "name" => {
                wave.name = entry.spanned(entry.name()?);
                Ok(())
            }
            "targets" => entry.selectors(1, aliases, &mut wave.targets),
            "exclude" => entry.selectors(0, aliases, &mut wave.exclude),
            _ => wave.settings.set(entry),
        });
        mistakes.wrong.extend(wave.settings.mismatch());
        if !table.contains_key("targets") {
            let help = "say which hosts it is for, such as targets = \"test.all\"";
            mistakes
                .missing
                .push(MietteDiagnostic::new("the wave has no `targets`").at(header, "this wave").with_help(help));
        }
        if wave.name.value.is_empty() {
            let first = wave.targets.first().map_or("", |selector| &selector.value.text);
            wave.name = Spanned { value: slug(first), span: header.clone() };
        }
        wave
    }
}

impl Settings {
    fn set(&mut self, entry: Entry<'_, '_>) -> Result<(), PlanErrors> {
        match entry.key {
            "action" => self.action = entry.parsed("switch")?,
            "max_parallel" => self.max_parallel = entry.parallel()?,
            "max_failures" => self.max_failures = entry.count()?,
            "min_hosts" => self.min_hosts = entry.count()?,
            "ignore_unreachable" => self.ignore_unreachable = entry.boolean()?,
            "accept_timeout" => self.accept_timeout = entry.spanned(entry.timeout()?),
            "timeout" => self.timeout = entry.spanned(entry.timeout()?),
            "bake_time" => self.bake_time = entry.duration()?,
            "check" => self.check = Some(entry.command()?),
            "check_timeout" => self.check_timeout = entry.timeout()?,
            "confirm" => self.confirm = entry.boolean()?,
            "retries" => self.retries = entry.retries()?,
            "retry_delay" => self.retry_delay = entry.duration()?,
            "rollback" => self.rollback = Some(entry.spanned(entry.parsed("auto")?)),
            "confirm_timeout" => self.confirm_timeout = Some(entry.confirm_timeout()?),
            _ => {}
        }
        Ok(())
    }

    /// Returns the mistake of timeouts that do not fit together.
    fn mismatch(&self) -> Option<MietteDiagnostic> {
        let Self { accept_timeout, timeout, .. } = self;
        if accept_timeout.value < timeout.value {
            return None;
        }
        let (accept, whole) = [accept_timeout, timeout].map(|at| humantime::format_duration(at.value)).into();
        let mistake =
            MietteDiagnostic::new(format!("`accept_timeout` ({accept}) is not shorter than `timeout` ({whole})"))
                .at(&accept_timeout.span, "until the first sign of life")
                .at(&timeout.span, "until the end of the run")
                .with_help("a host that has not begun in time is unreachable: give it seconds, and the run minutes");
        Some(mistake)
    }
}

fn names_used_twice(waves: &[Wave]) -> Vec<MietteDiagnostic> {
    // A wave without valid targets may have a placeholder as its name.
    let names: Vec<_> = waves.iter().filter(|wave| !wave.targets.is_empty()).map(|wave| &wave.name).collect();
    let twice = names.iter().enumerate().filter_map(|(index, name)| {
        let first = names.iter().take(index).find(|first| first.value == name.value)?;
        let mistake = MietteDiagnostic::new(format!("two waves are called `{}`", name.value))
            .at(&name.span, "this one")
            .at(&first.span, "and this one")
            .with_help("give one of them another `name`; a wave without one is called after its first target");
        Some(mistake)
    });
    twice.collect()
}

/// Extends a place in the text to whole lines.
fn lines_of(text: &str, span: Option<Range<usize>>) -> Range<usize> {
    let Range { start, end } = span.unwrap_or_default();
    let from = text.get(..start).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let to = text.get(end..).and_then(|after| after.find('\n')).map_or(text.len(), |length| end + length);
    from..to + 1
}

fn not_toml(error: &toml::de::Error, text: &str) -> MietteDiagnostic {
    let mistake = MietteDiagnostic::new("this is not TOML").with_help("https://toml.io shows the format on one page");
    let Some(span) = error.span() else { return mistake };
    // The place of something missing is empty and could not be shown, and neither could the end of the text.
    let last = text.trim_end().char_indices().next_back().map_or(0, |(last, _)| last);
    let start = span.start.min(last);
    mistake.at(&(start..span.end.max(start + 1)), error.message())
}
