//! Reading the tables of a plan file, and what to say of a key that is somewhere else or nowhere.

use toml::de::DeTable;

use super::diagnostic::PlanDiagnostic;
use super::key::{Key, SETTING_KEYS, TOP_KEYS, WAVE_KEYS};
use super::target::Aliases;
use super::value::Value;
use super::{Selector, Spanned};
use crate::text::nearest;

/// A table of the file: each has keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlanTable {
    Top,
    Defaults,
    Wave,
}

/// A table that is being read, and the mistakes that were found on the way.
pub(super) struct Keys<'t, 'i, 'm> {
    table: &'t DeTable<'i>,
    place: PlanTable,
    mistakes: &'m mut Vec<PlanDiagnostic>,
}

impl<'t, 'i, 'm> Keys<'t, 'i, 'm> {
    /// Begins to read a table; keys that it cannot have are mistakes.
    pub(super) fn new(table: &'t DeTable<'i>, place: PlanTable, mistakes: &'m mut Vec<PlanDiagnostic>) -> Self {
        let unknown = table.keys().filter(|key| !place.has(key.get_ref()));
        mistakes.extend(unknown.map(|key| place.refuse(key.get_ref()).at(&key.span(), place.label())));
        Self { table, place, mistakes }
    }

    pub(super) fn mistake(&mut self, mistake: PlanDiagnostic) {
        self.mistakes.push(mistake);
    }

    /// The value of a key; `None` when it is absent, or wrong, which is then on record.
    pub(super) fn read<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&'t Value<'i>, &str) -> Result<T, PlanDiagnostic>,
    ) -> Option<T> {
        debug_assert!(self.place.has(key), "`{key}` is read, but is in no list of keys and so in no schema");
        read(self.table.get(key)?, key).map_err(|mistake| self.mistakes.push(mistake)).ok()
    }

    /// The value of a key, or the one of the table that stands behind this one.
    pub(super) fn setting<T: Clone>(
        &mut self,
        key: &str,
        read: impl FnOnce(&'t Value<'i>, &str) -> Result<T, PlanDiagnostic>,
        base: &T,
    ) -> T {
        self.read(key, read).unwrap_or_else(|| base.clone())
    }

    /// The selectors of a key that are right; none when it is absent.
    pub(super) fn selectors(
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

    /// How a key here is pointed at.
    const fn label(self) -> &'static str {
        match self {
            Self::Top => "at the top of the file",
            Self::Defaults => "in [defaults]",
            Self::Wave => "in this wave",
        }
    }

    /// What to say of a key that this table does not have: where it belongs, or what its author may have meant.
    fn refuse(self, key: &str) -> PlanDiagnostic {
        if let Some(home) = home(key) {
            return PlanDiagnostic::mistake(format!("`{key}` does not belong here")).help(format!("it belongs {home}"));
        }
        let unknown = PlanDiagnostic::mistake(format!("unknown key `{key}`"));
        // Of two keys that are equally near the later one is taken, and that shall be one of this table.
        let known = [Self::Top, Self::Wave, self].into_iter().flat_map(Self::keys);
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

/// Where a key belongs, when it is one.
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
