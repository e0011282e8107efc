//! What must be so whatever went wrong: what was reported, held against what the rebuilds wrote down.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What a rebuild wrote down while it was at it, as the orders of the hosts have it.
#[derive(Debug, PartialEq, Eq)]
pub enum Deed {
    /// It begins on a host, for the request with this id and with this commit.
    Begun { host: String, id: String, commit: String },
    /// It is through.
    Done { host: String, id: String },
}

/// What the events of a rollout say: its journal, or what was printed with `--json`.
#[derive(Debug, Default)]
pub struct Told {
    commit: String,
    /// The hosts of each wave, and how many of them may fail.
    waves: Vec<(Vec<String>, usize)>,
    /// The host of each request.
    requests: BTreeMap<String, String>,
    /// The requests that a host is said to have completed, each with its host.
    completed: Vec<(String, String)>,
    /// What became of each host at last.
    outcomes: BTreeMap<String, String>,
    outcome: Option<String>,
}

/// The deeds in a record, in order; other lines are passed over.
pub fn deeds(record: &[String]) -> Vec<Deed> {
    let deed = |line: &String| match line.split(' ').collect::<Vec<_>>()[..] {
        [host, "begins", id, commit] => Some(Deed::Begun { host: host.into(), id: id.into(), commit: commit.into() }),
        [host, "did", id] => Some(Deed::Done { host: host.into(), id: id.into() }),
        _ => None,
    };
    record.iter().filter_map(deed).collect()
}

impl Told {
    /// Reads events, one a line; lines that are none are passed over, such as one that a crash has torn.
    pub fn read(text: &str) -> Self {
        let mut told = Self::default();
        let mut last = BTreeMap::new();
        for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let field = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            match event["event"].as_str().unwrap_or_default() {
                "begun" => {
                    told.commit = field("revision");
                    told.waves = event["plan"]["waves"].as_array().into_iter().flatten().map(wave).collect();
                }
                "dispatched" => {
                    last.insert(field("host"), field("request"));
                    told.requests.insert(field("request"), field("host"));
                }
                "final" => {
                    if field("outcome") == "completed" {
                        told.completed.push((field("host"), last.get(&field("host")).cloned().unwrap_or_default()));
                    }
                    told.outcomes.insert(field("host"), field("outcome"));
                }
                "ended" => told.outcome = Some(field("outcome")),
                _ => {}
            }
        }
        told
    }

    pub fn is_of(&self, commit: &str) -> bool {
        self.commit == commit
    }

    /// All that is not as it must be, so far.
    pub fn faults(&self, deeds: &[Deed]) -> Vec<String> {
        [self.asked_for(deeds), self.too_early(deeds), self.made_up(deeds)].concat()
    }

    /// All that is not as it must be of a rollout whose command ended with 0.
    pub fn faults_of_success(&self, deeds: &[Deed]) -> Vec<String> {
        let mut faults = self.faults(deeds);
        if self.outcome.as_deref() != Some("succeeded") {
            faults.push(format!("it ended with 0, and the journal says {:?}", self.outcome));
        }
        for (hosts, may_fail) in &self.waves {
            let failed = hosts.iter().filter(|host| self.outcomes.get(*host).is_none_or(|come| come != "completed"));
            let failed: Vec<&String> = failed.collect();
            if failed.len() > *may_fail {
                faults.push(format!("it succeeded without {failed:?}, of which {may_fail} may fail"));
            }
        }
        let planned: BTreeSet<&String> = self.waves.iter().flat_map(|(hosts, _)| hosts).collect();
        if !self.outcomes.keys().all(|host| planned.contains(host)) {
            faults.push(format!("there are hosts in {:?} that are not in the plan", self.outcomes));
        }
        faults
    }

    /// Runs of this commit that nobody is on record to have asked for, or somewhere else.
    fn asked_for(&self, deeds: &[Deed]) -> Vec<String> {
        let stray = self.begun(deeds).filter(|(host, id)| self.requests.get(*id) != Some(*host));
        stray.map(|(host, id)| format!("{host} ran {id}, which was not asked of it")).collect()
    }

    /// Runs in a wave while one before had not succeeded.
    fn too_early(&self, deeds: &[Deed]) -> Vec<String> {
        let mut done: BTreeSet<&String> = BTreeSet::new();
        let mut faults = Vec::new();
        for deed in deeds {
            match deed {
                Deed::Done { host, id } if self.requests.get(id) == Some(host) => drop(done.insert(host)),
                Deed::Begun { host, commit, .. } if *commit == self.commit => {
                    let before = self.waves.iter().take_while(|(hosts, _)| !hosts.contains(host));
                    for (hosts, may_fail) in before {
                        let missing: Vec<_> = hosts.iter().filter(|host| !done.contains(host)).collect();
                        if missing.len() > *may_fail {
                            faults.push(format!("{host} ran before {missing:?}, of which {may_fail} may fail"));
                        }
                    }
                }
                _ => {}
            }
        }
        faults
    }

    /// Successes without a run.
    fn made_up(&self, deeds: &[Deed]) -> Vec<String> {
        let ran = |(host, id): &&(String, String)| {
            let begun = self.begun(deeds).any(|begun| begun == (host, id));
            begun && deeds.contains(&Deed::Done { host: host.clone(), id: id.clone() })
        };
        let made_up = self.completed.iter().filter(|completed| !ran(completed));
        made_up.map(|(host, id)| format!("{host} is said to have completed {id}, and did not run it")).collect()
    }

    /// The runs of this commit: host and id.
    fn begun<'a>(&self, deeds: &'a [Deed]) -> impl Iterator<Item = (&'a String, &'a String)> {
        deeds.iter().filter_map(|deed| match deed {
            Deed::Begun { host, id, commit } if *commit == self.commit => Some((host, id)),
            _ => None,
        })
    }
}

/// Requests that were run more than once, whoever made them.
pub fn run_twice(deeds: &[Deed]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let begun = deeds.iter().filter_map(|deed| match deed {
        Deed::Begun { host, id, .. } => Some((host, id)),
        Deed::Done { .. } => None,
    });
    let twice = begun.filter(|begun| !seen.insert(*begun));
    twice.map(|(host, id)| format!("{host} ran {id} twice")).collect()
}

/// Runs of a commit that is nobody's.
pub fn of_no_rollout(deeds: &[Deed], commits: &[String]) -> Vec<String> {
    let stray = deeds.iter().filter_map(|deed| match deed {
        Deed::Begun { host, commit, .. } if !commits.contains(commit) => Some(format!("{host} ran {commit}")),
        _ => None,
    });
    stray.collect()
}

fn wave(wave: &Value) -> (Vec<String>, usize) {
    let hosts = wave["hosts"].as_array().into_iter().flatten().filter_map(|host| host["host"].as_str());
    let may_fail = wave["max_failures"].as_u64().unwrap_or_default();
    (hosts.map(str::to_owned).collect(), usize::try_from(may_fail).unwrap())
}
