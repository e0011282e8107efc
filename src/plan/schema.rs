//! Every key that a plan can have, what it takes and what it means; and the JSON Schema that is made of this, for editors: they
//! complete the keys, show what each means, and underline what is wrong. The parser refuses whatever is not here.
//!
//! The schema refuses nothing that the parser takes. What needs more than one value to be seen is the parser's alone, such as
//! a duration that is too long or a name that two waves have.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::value::MAX_RETRIES;
use super::{CONFIRM_TIMEOUT, Parallel, Rollback, Settings};
use crate::protocol::{Action, MAX_REVISION_BYTES};

#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) takes: ValueKind,
    /// What it means, in sentences for the author of a plan.
    pub(super) meaning: &'static str,
}

/// What a key takes. The functions that read it are those of `value` with the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueKind {
    Action,
    Boolean,
    Command,
    ConfirmTimeout,
    Count,
    Duration,
    File,
    Flake,
    Name,
    Parallel,
    Retries,
    Rollback,
    Revision,
    /// A list of targets that may be empty, or one target.
    Texts,
    /// The same with at least one.
    SomeTexts,
    Timeout,
    Defaults,
    Waves,
}

pub(super) const TOP_KEYS: [Key; 11] = [
    Key {
        name: "name",
        takes: ValueKind::Name,
        meaning: "What the rollout is called: lower-case letters, digits and hyphens. \
                  Without it: the name of the file.",
    },
    Key {
        name: "revision",
        takes: ValueKind::Revision,
        meaning: "The branch, tag or commit to deploy. It is looked up once, before the first wave, so that every \
                  host gets the same commit. Required unless --revision is given.",
    },
    ACTION,
    Key {
        name: "flake",
        takes: ValueKind::Flake,
        meaning: "The flake in which `revision` is looked up, such as \"git+https://git.example.com/nixos\". \
                  Without it: --flake, else the one that the hosts name, once it was accepted.",
    },
    Key {
        name: "systems",
        takes: ValueKind::File,
        meaning: "The file with the systems of the hosts, as `homelab-deploy build` writes it, from where the plan is. \
                  Each host fetches its own, and evaluates and builds nothing.",
    },
    Key {
        name: "stage",
        takes: ValueKind::Boolean,
        meaning: "Whether the hosts of all waves fetch their systems before any of them is changed. One that cannot halts \
                  the rollout.",
    },
    Key {
        name: "on_start",
        takes: ValueKind::Command,
        meaning: "A program that is told when the rollout begins, or goes on: the program and its arguments, which no \
                  shell reads. It finds the rollout on its standard input as JSON, has 30 seconds, and changes nothing.",
    },
    Key { name: "on_halt", takes: ValueKind::Command, meaning: "The same for when a wave fails." },
    Key {
        name: "on_finish",
        takes: ValueKind::Command,
        meaning: "The same for when the rollout is over, however it ended.",
    },
    Key {
        name: "defaults",
        takes: ValueKind::Defaults,
        meaning: "What every wave starts from. A wave that has the same key overrides it as a whole.",
    },
    Key {
        name: "wave",
        takes: ValueKind::Waves,
        meaning: "Hosts that are deployed together. A wave begins when every host of the previous wave has finished \
                  and that wave has succeeded; when a wave fails, no later one begins.",
    },
];

pub(super) const WAVE_KEYS: [Key; 3] = [
    Key {
        name: "name",
        takes: ValueKind::Name,
        meaning: "What the wave is called: lower-case letters, digits and hyphens, and no other wave's name. \
                  Without it: its first target.",
    },
    Key {
        name: "targets",
        takes: ValueKind::SomeTexts,
        meaning: "The hosts, one target or a list: <tier>.<host>, <tier>.role.<role>, <tier>.all, a whole subject, \
                  or an alias. Named hosts are expected; of groups those are taken that answer. A host belongs to \
                  the first wave that matches it.",
    },
    Key {
        name: "exclude",
        takes: ValueKind::Texts,
        meaning: "Hosts that this wave leaves to later ones, written like `targets`.",
    },
];

pub(super) const SETTING_KEYS: [Key; 15] = [
    ACTION,
    Key {
        name: "max_parallel",
        takes: ValueKind::Parallel,
        meaning: "The most hosts at work at the same time: a number, or a share of the wave such as \"25%\", rounded \
                  down, but at least one host.",
    },
    Key {
        name: "max_failures",
        takes: ValueKind::Count,
        meaning: "The wave fails once more hosts than this have failed; then no further host is begun, and those at \
                  work are waited for. Failed is whatever did not complete.",
    },
    Key {
        name: "min_hosts",
        takes: ValueKind::Count,
        meaning: "With fewer hosts the plan is refused, and when fewer complete the wave has failed. \
                  0 allows an empty wave.",
    },
    Key {
        name: "ignore_unreachable",
        takes: ValueKind::Boolean,
        meaning: "Whether a host that never answers is told of without being counted as a failure. A host that began \
                  and fell silent is always counted.",
    },
    Key {
        name: "accept_timeout",
        takes: ValueKind::Timeout,
        meaning: "How long a host may take to give a first sign; then it is unreachable. Shorter than `timeout`.",
    },
    Key {
        name: "timeout",
        takes: ValueKind::Timeout,
        meaning: "How long a host may take from the request to its end; then it has timed out.",
    },
    Key {
        name: "bake_time",
        takes: ValueKind::Duration,
        meaning: "How long the hosts run the new system, from the end of the last one, before the wave counts as \
                  good. After the last wave only when it has a `check`.",
    },
    Key {
        name: "check",
        takes: ValueKind::Command,
        meaning: "A program and its arguments, run after the bake on the machine of the operator, without a shell. \
                  An exit code other than 0 fails the wave. It finds HOMELAB_DEPLOY_ROLLOUT, HOMELAB_DEPLOY_WAVE, \
                  HOMELAB_DEPLOY_REVISION and HOMELAB_DEPLOY_HOSTS in its environment.",
    },
    Key {
        name: "check_timeout",
        takes: ValueKind::Timeout,
        meaning: "How long `check` may take; then it is killed and the wave has failed.",
    },
    Key {
        name: "confirm",
        takes: ValueKind::Boolean,
        meaning: "Whether to ask before the first host of the wave; only `yes` goes on.",
    },
    Key {
        name: "retries",
        takes: ValueKind::Retries,
        meaning: "How often a host is asked again that was unreachable, or busy with another deployment. \
                  A deployment that failed is never repeated.",
    },
    Key { name: "retry_delay", takes: ValueKind::Duration, meaning: "How long to wait before a host is asked again." },
    Key {
        name: "rollback",
        takes: ValueKind::Rollback,
        meaning: "When a host returns to what it ran before: never; \"auto\": when its deployment fails, or when it \
                  cannot be reached any more after its activation; \"wave\": then, and when its wave fails, newest \
                  first. After `boot` a host is not waited for, and `dry-activate` leaves nothing to return from.",
    },
    Key {
        name: "confirm_timeout",
        takes: ValueKind::ConfirmTimeout,
        meaning: "With `rollback`: how long a host that was activated may take to be reached again, from 5 seconds to \
                  an hour. Then it returns.",
    },
];

/// The one key that stands at the top as well, where it is the default of every wave.
const ACTION: Key = Key {
    name: "action",
    takes: ValueKind::Action,
    meaning: "What nixos-rebuild does on each host: switch to the new system now, boot it next time, test it until \
              the next boot, or only show what it would do.",
};

/// A number with its unit, once or more: what `humantime` reads, less the units that are too long for a plan.
const DURATION: &str = r"^\s*([0-9]+(\.[0-9]+)?\s*(nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|wks?|w)\s*)+$|^0$";

/// An alias, or tokens with dots between them.
const TARGET: &str = r"^([A-Za-z0-9_-]+|[^.*>\s]+(\.[^.*>\s]+)+)$";

/// A scheme and the rest, which names no output of the flake.
const FLAKE: &str = r"^[a-z+]+:[^\s#]+$";

/// The JSON Schema of a plan (draft 7, which all editors know), as text that ends with a newline.
pub fn schema() -> String {
    let about = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Plan of homelab-deploy",
        "description": "A rollout in waves: what to deploy, and to whom first.",
    });
    format!("{:#}\n", both(about, table(&TOP_KEYS, &["wave"])))
}

/// A table that has these keys and no others.
fn table<'a>(keys: impl IntoIterator<Item = &'a Key>, required: &[&str]) -> Value {
    let defaults = defaults();
    let property =
        |key: &Key| both(json!({ "description": key.meaning, "default": defaults.get(key.name) }), values(key.takes));
    let properties: Map<_, _> = keys.into_iter().map(|key| (key.name.to_owned(), property(key))).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

/// What holds where a key is absent. For one that is not here that is nothing, or its `meaning` says it.
pub(super) fn defaults() -> Value {
    let settings = Settings::default();
    let duration = |duration: Duration| humantime::format_duration(duration).to_string();
    json!({
        "stage": false,
        "exclude": [],
        "action": settings.action,
        "max_parallel": match settings.max_parallel {
            Parallel::Hosts(hosts) => json!(hosts),
            Parallel::Percent(percent) => json!(format!("{percent}%")),
        },
        "max_failures": settings.max_failures,
        "min_hosts": settings.min_hosts,
        "ignore_unreachable": settings.ignore_unreachable,
        "accept_timeout": duration(settings.accept_timeout.value),
        "timeout": duration(settings.timeout.value),
        "bake_time": duration(settings.bake_time),
        "check": settings.check,
        "check_timeout": duration(settings.check_timeout),
        "confirm": settings.confirm,
        "retries": settings.retries,
        "retry_delay": duration(settings.retry_delay),
        "rollback": settings.rollback.map_or(Rollback::None, |at| at.value),
        "confirm_timeout": duration(settings.confirm_timeout.unwrap_or(CONFIRM_TIMEOUT)),
    })
}

/// What two objects say, less what is null.
fn both(one: Value, other: Value) -> Value {
    let fields = [one, other].into_iter().filter_map(|object| match object {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    fields.flatten().filter(|(_, value)| !value.is_null()).collect()
}

/// The values that a key can have.
fn values(takes: ValueKind) -> Value {
    match takes {
        ValueKind::Action => json!({ "enum": Action::ALL.map(Action::as_str) }),
        ValueKind::Boolean => json!({ "type": "boolean" }),
        ValueKind::Command => json!({
            "type": "array",
            "minItems": 1,
            "items": [{ "type": "string", "minLength": 1 }],
            "additionalItems": { "type": "string" },
        }),
        ValueKind::Count => json!({ "type": "integer", "minimum": 0 }),
        ValueKind::Duration => json!({ "type": "string", "pattern": DURATION }),
        ValueKind::File => json!({ "type": "string", "minLength": 1 }),
        ValueKind::Flake => json!({ "type": "string", "pattern": FLAKE }),
        ValueKind::Name => json!({ "type": "string", "pattern": "^[a-z0-9-]+$" }),
        ValueKind::Parallel => json!({
            "anyOf": [{ "type": "integer", "minimum": 1 }, { "type": "string", "pattern": "^0*(100|[1-9][0-9]?)%$" }],
        }),
        ValueKind::Retries => json!({ "type": "integer", "minimum": 0, "maximum": MAX_RETRIES }),
        ValueKind::Rollback => json!({ "enum": Rollback::ALL.map(Rollback::as_str) }),
        ValueKind::Revision => json!({
            "type": "string",
            "pattern": "^[A-Za-z0-9][A-Za-z0-9._/+-]*$",
            "maxLength": MAX_REVISION_BYTES,
        }),
        ValueKind::Texts => targets(0),
        ValueKind::SomeTexts => targets(1),
        // Some digit is not 0, so that there is time at all.
        ValueKind::ConfirmTimeout | ValueKind::Timeout => {
            json!({ "type": "string", "allOf": [{ "pattern": DURATION }, { "pattern": "[1-9]" }] })
        }
        ValueKind::Defaults => table(&SETTING_KEYS, &[]),
        ValueKind::Waves => json!({
            "type": "array",
            "minItems": 1,
            "items": table(WAVE_KEYS.iter().chain(&SETTING_KEYS), &["targets"]),
        }),
    }
}

/// One target, or a list of at least so many.
fn targets(least: usize) -> Value {
    let target = json!({ "type": "string", "pattern": TARGET });
    json!({ "anyOf": [target, { "type": "array", "items": target, "minItems": least }] })
}
