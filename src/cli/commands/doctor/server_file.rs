//! Examines a configuration of nats-server: what each key may do there, and what its holder needs.

use std::fs;
use std::path::Path;

use super::findings::Findings;
use crate::nats_config::{Deviation, FleetList, Principal, ServerFile, ServerUser, Strictness};
use crate::text::safe;

const RELOAD: &str = "print the permissions anew with `homelab-deploy nats-config`, and reload the server";

/// Examines the users in a file. The list of a fleet tells who holds each key; without one, the permissions do.
pub(super) fn examine(file: &Path, fleet: Option<&FleetList>) -> Findings {
    let mut findings = Findings::default();
    let users = match read(file) {
        Ok(server) => server.users,
        Err(why) => {
            let next = "nats-server -t --config FILE says more of it";
            findings.problem(file.display(), why, next);
            return findings;
        }
    };
    if users.is_empty() {
        findings.problem(
            file.display(),
            "no user has an NKey, so nobody is told apart",
            "include what `homelab-deploy nats-config` prints",
        );
    }
    let known = |user: &ServerUser| fleet.map(|fleet| fleet.holder(&user.key));
    let holder = |user: &ServerUser| known(user).flatten().or_else(|| Principal::guess(&user.permissions));
    let deviations = |strictness: Strictness| -> Vec<(String, Vec<Deviation>)> {
        let of_user = |user: &ServerUser| {
            let holder = holder(user)?;
            let needed = holder.permissions(strictness).ok()?;
            Some((holder.to_string(), user.permissions.deviations_from(&needed)))
        };
        users.iter().filter_map(of_user).collect()
    };
    let count = |deviations: &[(String, Vec<Deviation>)]| deviations.iter().map(|(_, list)| list.len()).sum::<usize>();
    let (strict, compatible) = (deviations(Strictness::Strict), deviations(Strictness::Compatible));
    let is_compatible = count(&compatible) < count(&strict);
    for (holder, deviations) in if is_compatible { compatible } else { strict } {
        if deviations.is_empty() {
            findings.ok(&holder, "has what it needs, and no more");
        }
        findings.deviations(&holder, "its key", &deviations);
    }
    if is_compatible {
        findings.note(
            file.display(),
            "the permissions are for the predecessor's deployers, too: hosts can answer those for each other",
            "once the predecessor is gone, print them without --compatible",
        );
    }
    for user in users.iter().filter(|user| known(user) == Some(None)) {
        let key = safe(&user.key);
        match Principal::guess(&user.permissions) {
            Some(holder) => {
                findings.problem(key, format!("is not in fleet.toml, and has the permissions of: {holder}"), RELOAD);
            }
            None => {
                findings.note(key, "is not in fleet.toml, and may do nothing here", "none of this program's business");
            }
        }
    }
    for user in fleet.into_iter().flat_map(FleetList::users) {
        if !users.iter().any(|other| other.key == user.key.to_string()) {
            findings.problem(&user.holder, format!("the server does not know its key {}", user.key), RELOAD);
        }
    }
    findings
}

fn read(file: &Path) -> Result<ServerFile, String> {
    let read = |file: &Path| fs::read_to_string(file).map_err(|error| format!("cannot be read: {error}"));
    let include = |name: &str| read(&file.parent().unwrap_or(Path::new("")).join(name));
    ServerFile::parse(&read(file)?, &include).map_err(|error| error.to_string())
}
