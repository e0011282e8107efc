//! Remembers the hosts that answered a roll call of this machine, so that the next one ends once all of them have.
//!
//! A known host makes a roll call shorter and never longer. Nothing depends on the record, so a file that is damaged,
//! or that other users can write to, is ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::private_dir::PrivateDir;
use crate::protocol::{HostAnswer, HostName, Role, Tier};

const FILE: &str = "hosts.json";

const KNOWN_FOR_DAYS: i64 = 30;

/// The most hosts remembered for a tier. With wide permissions, a host can invent any number of names.
const MAX_HOSTS: usize = 50_000;

const SECONDS_A_DAY: i64 = 24 * 60 * 60;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHosts {
    folder: PathBuf,
    fleet: String,
}

/// The known hosts of each tier. A tier is in the map after a roll call that lasted its whole window.
pub type HostsByTier = BTreeMap<Tier, BTreeMap<HostName, KnownHost>>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownHost {
    /// The day of the last answer, in days since the Unix epoch.
    seen: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// Returns the name of a fleet, made of the URLs of its servers, which have no credentials.
pub fn fleet_name(servers: impl IntoIterator<Item = String>) -> String {
    let mut servers: Vec<String> = servers.into_iter().collect();
    servers.sort();
    servers.dedup();
    servers.join(",")
}

impl KnownHosts {
    /// Returns the known hosts of the fleet of these servers. `folder` is the operator's state folder.
    pub fn of(folder: PathBuf, servers: impl IntoIterator<Item = String>) -> Self {
        Self { folder, fleet: fleet_name(servers) }
    }

    /// Returns the known hosts of all fleets in this state folder, with their roles.
    pub fn of_any_fleet(folder: PathBuf) -> impl Iterator<Item = ((Tier, HostName), Option<Role>)> {
        let fleets = Self { folder, fleet: String::new() }.read();
        fleets
            .into_values()
            .flatten()
            .flat_map(|(tier, hosts)| hosts.into_iter().map(move |(host, known)| ((tier, host), known.role)))
    }

    /// Returns the hosts of the other fleets in this state folder that are not hosts of this fleet.
    pub fn of_others(&self) -> BTreeSet<HostName> {
        let mut fleets = self.read();
        let ours = fleets.remove(&self.fleet).unwrap_or_default();
        let is_ours = |host: &HostName| ours.values().any(|hosts| hosts.contains_key(host));
        fleets.into_values().flatten().flat_map(|(_, hosts)| hosts.into_keys()).filter(|host| !is_ours(host)).collect()
    }

    pub(super) fn recall(&self) -> HostsByTier {
        self.read().remove(&self.fleet).unwrap_or_default()
    }

    /// Records the hosts that answered. `whole` are the tiers in which every host had time to answer.
    pub(in crate::operator) fn record(&self, answers: &[HostAnswer], whole: impl IntoIterator<Item = Tier>) {
        let mut fleets = self.read();
        if !update(fleets.entry(self.fleet.clone()).or_default(), answers, whole) {
            return;
        }
        let text = serde_json::to_vec(&fleets).expect("names can be written as JSON");
        let written = PrivateDir::create(&self.folder).and_then(|folder| folder.replace(FILE, &text));
        if let Err(error) = written {
            tracing::debug!("cannot record which hosts answer: {error}");
        }
    }

    /// Reads the hosts of all fleets, except those that expired.
    fn read(&self) -> BTreeMap<String, HostsByTier> {
        let text = match PrivateDir::open(&self.folder).and_then(|folder| folder.read(FILE)) {
            Ok(text) => text.unwrap_or_default(),
            Err(error) => {
                if !error.is_missing() {
                    tracing::warn!("cannot read which hosts answered before: {error}");
                }
                return BTreeMap::new();
            }
        };
        let mut fleets: BTreeMap<String, HostsByTier> = serde_json::from_slice(&text).unwrap_or_default();
        let today = today();
        for hosts in fleets.values_mut().flat_map(BTreeMap::values_mut) {
            // A clock that was wrong may have recorded days in the future.
            hosts.retain(|_, known| (known.seen - today).abs() <= KNOWN_FOR_DAYS);
        }
        fleets.retain(|_, tiers| tiers.values().any(|hosts| !hosts.is_empty()));
        fleets
    }
}

/// Adds the hosts that answered to those of a fleet. Returns whether this changes anything.
pub(super) fn update(tiers: &mut HostsByTier, answers: &[HostAnswer], whole: impl IntoIterator<Item = Tier>) -> bool {
    let (mut is_news, today) = (false, today());
    for tier in whole {
        tiers.entry(tier).or_insert_with(|| {
            is_news = true;
            BTreeMap::new()
        });
    }
    // Any key may have sent an answer in the old form.
    for HostAnswer { report, .. } in answers.iter().filter(|answer| answer.proved) {
        let Some(hosts) = tiers.get_mut(&report.tier) else { continue };
        let before = hosts.get(&report.hostname);
        let is_same = before.is_some_and(|before| before.seen == today && before.role == report.role);
        if !is_same && (before.is_some() || hosts.len() < MAX_HOSTS) {
            is_news = true;
            hosts.insert(report.hostname.clone(), KnownHost { seen: today, role: report.role.clone() });
        }
    }
    is_news
}

fn today() -> i64 {
    clock::now().as_second().div_euclid(SECONDS_A_DAY)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn known(state: &Path) -> KnownHosts {
        KnownHosts::of(state.to_owned(), ["nats://b:4222", "nats://a:4222"].map(str::to_owned))
    }

    fn answer(tier: Tier, host: &str, proved: bool) -> HostAnswer {
        let report = format!(r#"{{"hostname":"{host}","tier":"{tier}","role":"dns"}}"#);
        HostAnswer { report: Box::new(serde_json::from_str(&report).unwrap()), proved }
    }

    fn recalled(hosts: &KnownHosts) -> String {
        let tier = |(tier, hosts): (Tier, BTreeMap<HostName, KnownHost>)| {
            let hosts: Vec<String> = hosts.into_keys().map(|host| host.to_string()).collect();
            format!("{tier}: {}", hosts.join(" "))
        };
        hosts.recall().into_iter().map(tier).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn who_answered_is_known_for_this_fleet_and_a_tier_once_it_was_heard_out() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let hosts = known(&state);
        hosts.record(&[answer(Tier::Test, "test1", true)], []);
        assert_eq!(recalled(&hosts), "");
        let answers = [answer(Tier::Test, "test1", true), answer(Tier::Prod, "ns1", true)];
        hosts.record(&answers, [Tier::Test]);
        assert_eq!(recalled(&hosts), "test: test1");
        hosts.record(&[answer(Tier::Test, "test2", true), answer(Tier::Test, "forged", false)], []);
        assert_eq!(recalled(&hosts), "test: test1 test2");
        assert_eq!(hosts.recall()[&Tier::Test].values().next().unwrap().role, Some("dns".parse().unwrap()));
        let another = KnownHosts::of(state, ["nats://a:4222".to_owned()]);
        assert_eq!(recalled(&another), "");
    }

    #[test]
    fn what_was_recalled_says_whether_there_is_anything_to_take_note_of() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = known(folder.path());
        let answers = [answer(Tier::Test, "test1", true), answer(Tier::Test, "forged", false)];
        hosts.record(&answers, [Tier::Test]);
        let mut known = hosts.recall();
        let is_known = |known: &HostsByTier, answers: &[HostAnswer]| !update(&mut known.clone(), answers, []);
        assert!(is_known(&known, &answers));
        assert!(!update(&mut known.clone(), &answers, [Tier::Test]));
        assert!(update(&mut known.clone(), &answers, [Tier::Prod]));
        assert!(!is_known(&known, &[answer(Tier::Test, "test2", true)]));
        assert!(is_known(&known, &[answer(Tier::Prod, "test1", true)]), "prod was not heard out");
        let mut renamed = answers.clone();
        renamed[0].report.role = None;
        assert!(!is_known(&known, &renamed));
        for host in known.values_mut().flat_map(BTreeMap::values_mut) {
            host.seen -= 1;
        }
        assert!(!is_known(&known, &answers), "seen on another day");
    }

    #[test]
    fn the_file_is_written_where_something_is_new_and_a_host_is_forgotten_after_a_month() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = known(folder.path());
        let (file, answers) = (folder.path().join(FILE), [answer(Tier::Test, "test1", true)]);
        hosts.record(&answers, [Tier::Test]);
        let text = fs::read_to_string(&file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        hosts.record(&answers, [Tier::Test]);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o400, "the same file");
        let now = today();
        for (seen, is_known) in [(now - 29, true), (now - 31, false), (now + 31, false)] {
            fs::remove_file(&file).unwrap();
            fs::write(&file, text.replace(&now.to_string(), &seen.to_string())).unwrap();
            assert_eq!(!recalled(&hosts).is_empty(), is_known, "{seen}");
        }
    }

    #[test]
    fn a_record_that_is_damaged_or_not_ours_is_none_and_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = known(folder.path());
        let (file, answers) = (folder.path().join(FILE), [answer(Tier::Test, "test1", true)]);
        hosts.record(&answers, [Tier::Test]);
        let text = fs::read_to_string(&file).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, &text).unwrap();
        for damage in ["", "[]", "\0", &text.replace("test1", "a.b"), &text.replace("test\"", "tset\"")] {
            fs::write(&file, damage).unwrap();
            assert_eq!(recalled(&hosts), "", "{damage}");
            hosts.record(&answers, [Tier::Test]);
            assert_eq!(recalled(&hosts), "test: test1");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o606)).unwrap();
        assert_eq!(recalled(&hosts), "", "others can write it");
        hosts.record(&answers, [Tier::Test]);
        assert_eq!(recalled(&hosts), "test: test1");
        fs::remove_file(&file).unwrap();
        symlink(&elsewhere, &file).unwrap();
        assert_eq!(recalled(&hosts), "", "a link");
    }

    #[test]
    fn made_up_names_are_not_remembered_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = known(folder.path());
        let flood: Vec<_> = (0..MAX_HOSTS + 10).map(|number| answer(Tier::Test, &format!("h{number}"), true)).collect();
        hosts.record(&flood, [Tier::Test]);
        assert_eq!(hosts.recall()[&Tier::Test].len(), MAX_HOSTS);
    }
}
