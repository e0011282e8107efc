//! The keys of a plan with their kinds of values and meanings, and the JSON Schema made of them. Editors use it to
//! complete and explain keys and to underline mistakes. The parser refuses keys that are not here.
//!
//! The schema accepts all that the parser accepts. Only the parser finds some mistakes, such as a duration that is too
//! long or a name that two waves have.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::value::MAX_RETRIES;
use super::{CONFIRM_TIMEOUT, Parallel, Rollback, Settings};
use crate::protocol::{Action, MAX_REVISION_BYTES};

#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) takes: ValueKind,
    /// The description for the author of a plan, in whole sentences.
    pub(super) meaning: &'static str,
}

/// The kind of value of a key. The functions of `value` with the same names parse them.
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
    /// One target or a list of them, which may be empty.
    Texts,
    /// One target or a list of at least one.
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

/// This key is also allowed at the top of the file, where it sets the default of all waves.
const ACTION: Key = Key {
    name: "action",
    takes: ValueKind::Action,
    meaning: "What nixos-rebuild does on each host: switch to the new system now, boot it next time, test it until \
              the next boot, or only show what it would do.",
};

/// Numbers with units, as `humantime` parses them, without the units that are too long for a plan.
const DURATION: &str = r"^\s*([0-9]+(\.[0-9]+)?\s*(nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|wks?|w)\s*)+$|^0$";

/// An alias, or tokens with dots between them.
const TARGET: &str = r"^([A-Za-z0-9_-]+|[^.*>\s]+(\.[^.*>\s]+)+)$";

/// A URL with a scheme and without an output of the flake.
const FLAKE: &str = r"^[a-z+]+:[^\s#]+$";

/// Returns the JSON Schema of a plan (draft 7, which all editors support), ending with a newline.
pub fn schema() -> String {
    let about = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Plan of homelab-deploy",
        "description": "A rollout in waves: what to deploy, and to whom first.",
    });
    format!("{:#}\n", both(about, table(&TOP_KEYS, &["wave"])))
}

/// Returns the schema of a table with exactly these keys.
fn table<'a>(keys: impl IntoIterator<Item = &'a Key>, required: &[&str]) -> Value {
    let defaults = defaults();
    let property =
        |key: &Key| both(json!({ "description": key.meaning, "default": defaults.get(key.name) }), values(key.takes));
    let properties: Map<_, _> = keys.into_iter().map(|key| (key.name.to_owned(), property(key))).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

/// Returns the defaults of absent keys. A key that is not in the map has no default, or its `meaning` describes it.
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

/// Merges two objects and drops null values.
fn both(one: Value, other: Value) -> Value {
    let fields = [one, other].into_iter().filter_map(|object| match object {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    fields.flatten().filter(|(_, value)| !value.is_null()).collect()
}

/// Returns the schema of a kind of value.
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
        // One digit must not be 0: a timeout is not empty.
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

/// Returns the schema of one target, or a list of at least `least`.
fn targets(least: usize) -> Value {
    let target = json!({ "type": "string", "pattern": TARGET });
    json!({ "anyOf": [target, { "type": "array", "items": target, "minItems": least }] })
}
