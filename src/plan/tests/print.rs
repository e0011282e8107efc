//! Formats a [`Plan`] as TOML with all defaults applied. Parsing that gives the same plan.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::plan::{Parallel, Plan, Selector, Settings, Spanned, Wave};

struct Quoted<'a>(&'a str);

struct List<'a, T>(&'a [T]);

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "name = {}", Quoted(&self.name))?;
        if let Some(revision) = &self.revision {
            writeln!(f, "revision = {}", Quoted(revision.value.as_str()))?;
        }
        if let Some(flake) = &self.flake {
            writeln!(f, "flake = {}", Quoted(flake.as_str()))?;
        }
        if let Some(systems) = &self.systems {
            writeln!(f, "systems = {}", Quoted(systems))?;
        }
        if self.stage {
            writeln!(f, "stage = true")?;
        }
        for (hook, command) in &self.hooks {
            writeln!(f, "{hook} = {}", List(command))?;
        }
        self.waves.iter().try_for_each(|wave| write!(f, "\n{wave}"))
    }
}

impl Display for Wave {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "[[wave]]\nname = {}", Quoted(&self.name.value))?;
        writeln!(f, "targets = {}", List(&self.targets))?;
        if !self.exclude.is_empty() {
            writeln!(f, "exclude = {}", List(&self.exclude))?;
        }
        self.settings.fmt(f)
    }
}

/// Only settings that differ from the defaults get a line.
impl Display for Settings {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let default = Self::default();
        let mut line = |key: &str, changed: bool, value: &dyn Display| {
            if changed { writeln!(f, "{key} = {value}") } else { Ok(()) }
        };
        line("action", self.action != default.action, &Quoted(self.action.as_str()))?;
        line("max_parallel", self.max_parallel != default.max_parallel, &self.max_parallel)?;
        line("max_failures", self.max_failures != default.max_failures, &self.max_failures)?;
        line("min_hosts", self.min_hosts != default.min_hosts, &self.min_hosts)?;
        let ignore = self.ignore_unreachable;
        line("ignore_unreachable", ignore != default.ignore_unreachable, &ignore)?;
        let durations = [
            ("accept_timeout", self.accept_timeout.value, default.accept_timeout.value),
            ("timeout", self.timeout.value, default.timeout.value),
            ("bake_time", self.bake_time, default.bake_time),
            ("check_timeout", self.check_timeout, default.check_timeout),
            ("retry_delay", self.retry_delay, default.retry_delay),
        ];
        for (key, duration, default) in durations {
            line(key, duration != default, &quoted_duration(duration))?;
        }
        let check = self.check.as_deref().unwrap_or_default();
        line("check", self.check != default.check, &List(check))?;
        line("confirm", self.confirm != default.confirm, &self.confirm)?;
        line("retries", self.retries != default.retries, &self.retries)?;
        if let Some(rollback) = &self.rollback {
            line("rollback", true, &Quoted(rollback.value.as_str()))?;
        }
        match self.confirm_timeout {
            Some(timeout) => line("confirm_timeout", true, &quoted_duration(timeout)),
            None => Ok(()),
        }
    }
}

fn quoted_duration(duration: Duration) -> String {
    format!("\"{}\"", humantime::format_duration(duration))
}

impl Display for Parallel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hosts(hosts) => write!(f, "{hosts}"),
            Self::Percent(percent) => write!(f, "\"{percent}%\""),
        }
    }
}

impl AsRef<str> for Spanned<Selector> {
    fn as_ref(&self) -> &str {
        &self.value.text
    }
}

impl<T: AsRef<str>> Display for List<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, text) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", Quoted(text.as_ref()))?;
        }
        f.write_str("]")
    }
}

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                control if control.is_control() => write!(f, "\\u{:04x}", u32::from(control))?,
                other => write!(f, "{other}")?,
            }
        }
        f.write_str("\"")
    }
}
