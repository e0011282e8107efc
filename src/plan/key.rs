//! Every key that a plan can have: what it takes, and what it means.
//!
//! The parser refuses whatever is not here, and the JSON Schema is made of this, so that editors tell the same.

use std::time::Duration;

use serde_json::{Value, json};

use super::{CONFIRM_TIMEOUT, Parallel, Rollback, Settings};

#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) takes: ValueKind,
    /// What holds where the key is absent, as JSON; null where that is nothing, or is said by `meaning`.
    pub(super) default: fn(&Settings) -> Value,
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
        default: nothing,
        meaning: "What the rollout is called: lower-case letters, digits and hyphens. \
                  Without it: the name of the file.",
    },
    Key {
        name: "revision",
        takes: ValueKind::Revision,
        default: nothing,
        meaning: "The branch, tag or commit to deploy. It is looked up once, before the first wave, so that every \
                  host gets the same commit. Required unless --revision is given.",
    },
    ACTION,
    Key {
        name: "flake",
        takes: ValueKind::Flake,
        default: nothing,
        meaning: "The flake in which `revision` is looked up, such as \"git+https://git.example.com/nixos\". \
                  Without it: --flake, else the one that the hosts name, once it was accepted.",
    },
    Key {
        name: "systems",
        takes: ValueKind::File,
        default: nothing,
        meaning: "The file with the systems of the hosts, as `homelab-deploy build` writes it, from where the plan is. \
                  Each host fetches its own, and evaluates and builds nothing.",
    },
    Key {
        name: "stage",
        takes: ValueKind::Boolean,
        default: |_| json!(false),
        meaning: "Whether the hosts of all waves fetch their systems before any of them is changed. One that cannot halts \
                  the rollout.",
    },
    Key {
        name: "on_start",
        takes: ValueKind::Command,
        default: nothing,
        meaning: "A program that is told when the rollout begins, or goes on: the program and its arguments, which no \
                  shell reads. It finds the rollout on its standard input as JSON, has 30 seconds, and changes nothing.",
    },
    Key { name: "on_halt", takes: ValueKind::Command, default: nothing, meaning: "The same for when a wave fails." },
    Key {
        name: "on_finish",
        takes: ValueKind::Command,
        default: nothing,
        meaning: "The same for when the rollout is over, however it ended.",
    },
    Key {
        name: "defaults",
        takes: ValueKind::Defaults,
        default: nothing,
        meaning: "What every wave starts from. A wave that has the same key overrides it as a whole.",
    },
    Key {
        name: "wave",
        takes: ValueKind::Waves,
        default: nothing,
        meaning: "Hosts that are deployed together. A wave begins when every host of the previous wave has finished \
                  and that wave has succeeded; when a wave fails, no later one begins.",
    },
];

pub(super) const WAVE_KEYS: [Key; 3] = [
    Key {
        name: "name",
        takes: ValueKind::Name,
        default: nothing,
        meaning: "What the wave is called: lower-case letters, digits and hyphens, and no other wave's name. \
                  Without it: its first target.",
    },
    Key {
        name: "targets",
        takes: ValueKind::SomeTexts,
        default: nothing,
        meaning: "The hosts, one target or a list: <tier>.<host>, <tier>.role.<role>, <tier>.all, a whole subject, \
                  or an alias. Named hosts are expected; of groups those are taken that answer. A host belongs to \
                  the first wave that matches it.",
    },
    Key {
        name: "exclude",
        takes: ValueKind::Texts,
        default: no_targets,
        meaning: "Hosts that this wave leaves to later ones, written like `targets`.",
    },
];

pub(super) const SETTING_KEYS: [Key; 15] = [
    ACTION,
    Key {
        name: "max_parallel",
        takes: ValueKind::Parallel,
        default: |settings| match settings.max_parallel {
            Parallel::Hosts(hosts) => json!(hosts),
            Parallel::Percent(percent) => json!(format!("{percent}%")),
        },
        meaning: "The most hosts at work at the same time: a number, or a share of the wave such as \"25%\", rounded \
                  down, but at least one host.",
    },
    Key {
        name: "max_failures",
        takes: ValueKind::Count,
        default: |settings| json!(settings.max_failures),
        meaning: "The wave fails once more hosts than this have failed; then no further host is begun, and those at \
                  work are waited for. Failed is whatever did not complete.",
    },
    Key {
        name: "min_hosts",
        takes: ValueKind::Count,
        default: |settings| json!(settings.min_hosts),
        meaning: "With fewer hosts the plan is refused, and when fewer complete the wave has failed. \
                  0 allows an empty wave.",
    },
    Key {
        name: "ignore_unreachable",
        takes: ValueKind::Boolean,
        default: |settings| json!(settings.ignore_unreachable),
        meaning: "Whether a host that never answers is told of without being counted as a failure. A host that began \
                  and fell silent is always counted.",
    },
    Key {
        name: "accept_timeout",
        takes: ValueKind::Timeout,
        default: |settings| duration(settings.accept_timeout.value),
        meaning: "How long a host may take to give a first sign; then it is unreachable. Shorter than `timeout`.",
    },
    Key {
        name: "timeout",
        takes: ValueKind::Timeout,
        default: |settings| duration(settings.timeout.value),
        meaning: "How long a host may take from the request to its end; then it has timed out.",
    },
    Key {
        name: "bake_time",
        takes: ValueKind::Duration,
        default: |settings| duration(settings.bake_time),
        meaning: "How long the hosts run the new system, from the end of the last one, before the wave counts as \
                  good. After the last wave only when it has a `check`.",
    },
    Key {
        name: "check",
        takes: ValueKind::Command,
        default: |settings| json!(settings.check),
        meaning: "A program and its arguments, run after the bake on the machine of the operator, without a shell. \
                  An exit code other than 0 fails the wave. It finds HOMELAB_DEPLOY_ROLLOUT, HOMELAB_DEPLOY_WAVE, \
                  HOMELAB_DEPLOY_REVISION and HOMELAB_DEPLOY_HOSTS in its environment.",
    },
    Key {
        name: "check_timeout",
        takes: ValueKind::Timeout,
        default: |settings| duration(settings.check_timeout),
        meaning: "How long `check` may take; then it is killed and the wave has failed.",
    },
    Key {
        name: "confirm",
        takes: ValueKind::Boolean,
        default: |settings| json!(settings.confirm),
        meaning: "Whether to ask before the first host of the wave; only `yes` goes on.",
    },
    Key {
        name: "retries",
        takes: ValueKind::Retries,
        default: |settings| json!(settings.retries),
        meaning: "How often a host is asked again that was unreachable, or busy with another deployment. \
                  A deployment that failed is never repeated.",
    },
    Key {
        name: "retry_delay",
        takes: ValueKind::Duration,
        default: |settings| duration(settings.retry_delay),
        meaning: "How long to wait before a host is asked again.",
    },
    Key {
        name: "rollback",
        takes: ValueKind::Rollback,
        default: |settings| json!(settings.rollback.as_ref().map_or(Rollback::None, |at| at.value).as_str()),
        meaning: "When a host returns to what it ran before: never; \"auto\": when its deployment fails, or when it \
                  cannot be reached any more after its activation; \"wave\": then, and when its wave fails, newest \
                  first. After `boot` a host is not waited for, and `dry-activate` leaves nothing to return from.",
    },
    Key {
        name: "confirm_timeout",
        takes: ValueKind::ConfirmTimeout,
        default: |settings| duration(settings.confirm_timeout.unwrap_or(CONFIRM_TIMEOUT)),
        meaning: "With `rollback`: how long a host that was activated may take to be reached again, from 5 seconds to \
                  an hour. Then it returns.",
    },
];

/// The one key that stands at the top as well, where it is the default of every wave.
const ACTION: Key = Key {
    name: "action",
    takes: ValueKind::Action,
    default: |settings| json!(settings.action.as_str()),
    meaning: "What nixos-rebuild does on each host: switch to the new system now, boot it next time, test it until \
              the next boot, or only show what it would do.",
};

fn nothing(_: &Settings) -> Value {
    Value::Null
}

fn no_targets(_: &Settings) -> Value {
    json!([])
}

fn duration(duration: Duration) -> Value {
    json!(humantime::format_duration(duration).to_string())
}
