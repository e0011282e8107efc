//! Checks the rules that hold through every failure, by comparing the reports with what the rebuilds recorded.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// How far the times of two programs on one machine may differ, by rounding.
const ROUNDED: SignedDuration = SignedDuration::from_millis(5);

/// An entry that a rebuild recorded, as the scripts of the hosts write it.
#[derive(Debug, PartialEq, Eq)]
pub enum Deed {
    /// A run begins on a host, for the request with this id and this commit.
    Begun { host: String, id: String, commit: String },
    /// A run is done, at this time.
    Done { host: String, id: String, at: Timestamp },
    /// The host rolls back the last run.
    Returned { host: String, id: String },
}

/// The content of a rollout's events: from its journal, or from the output with `--json`.
#[derive(Debug, Default)]
pub struct Told {
    commit: String,
    /// The hosts of each wave, and how many of them may fail.
    waves: Vec<(Vec<String>, usize)>,
    /// The host of each request.
    requests: BTreeMap<String, String>,
    /// The requests reported as completed, each with its host and the time of the report.
    completed: Vec<(String, String, Timestamp)>,
    /// The requests reported as rolled back, each with its host.
    returned: Vec<(String, String)>,
    /// The last outcome of each host.
    outcomes: BTreeMap<String, String>,
    outcome: Option<String>,
}

/// Returns the deeds in a record, in order. Other lines are skipped.
pub fn deeds(record: &[String]) -> Vec<Deed> {
    let mut last = BTreeMap::new();
    let deed = |line: &String| match line.split(' ').collect::<Vec<_>>()[..] {
        [host, "begins", id, commit] => {
            last.insert(host.to_owned(), id.to_owned());
            Some(Deed::Begun { host: host.into(), id: id.into(), commit: commit.into() })
        }
        [host, "did", id, at] => {
            let at = Timestamp::from_millisecond(at.parse().unwrap()).unwrap();
            Some(Deed::Done { host: host.into(), id: id.into(), at })
        }
        [host, "returns"] => Some(Deed::Returned { host: host.into(), id: last.get(host)?.clone() }),
        _ => None,
    };
    record.iter().filter_map(deed).collect()
}

impl Told {
    /// Parses events, one a line. Other lines are skipped, such as one that a crash cut off.
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
                    let request = last.get(&field("host")).cloned().unwrap_or_default();
                    if event["response"]["rolled_back"] == true {
                        told.returned.push((field("host"), request.clone()));
                    }
                    if field("outcome") == "completed" {
                        told.completed.push((field("host"), request, field("at").parse().unwrap()));
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

    /// Returns the violations so far.
    pub fn faults(&self, deeds: &[Deed]) -> Vec<String> {
        [self.asked_for(deeds), self.too_early(deeds), self.made_up(deeds), self.stayed(deeds)].concat()
    }

    /// Returns the violations of a rollout whose command exited with 0.
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

    /// Returns runs of this commit that no recorded request asked of that host.
    fn asked_for(&self, deeds: &[Deed]) -> Vec<String> {
        let stray = self.begun(deeds).filter(|(host, id)| self.requests.get(*id) != Some(*host));
        stray.map(|(host, id)| format!("{host} ran {id}, which was not asked of it")).collect()
    }

    /// Returns runs in a wave before an earlier one had succeeded.
    fn too_early(&self, deeds: &[Deed]) -> Vec<String> {
        let mut done: BTreeSet<&String> = BTreeSet::new();
        let mut faults = Vec::new();
        for deed in deeds {
            match deed {
                Deed::Done { host, id, .. } if self.requests.get(id) == Some(host) => drop(done.insert(host)),
                Deed::Returned { host, id } if self.requests.get(id) == Some(host) => drop(done.remove(host)),
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

    /// Returns reported successes without a run that was done by then and was not rolled back.
    fn made_up(&self, deeds: &[Deed]) -> Vec<String> {
        let ran = |(host, id, said_at): &&(String, String, Timestamp)| {
            let done = |deed: &Deed| match deed {
                Deed::Done { host: at_host, id: ran, at } => at_host == host && ran == id && *at <= *said_at + ROUNDED,
                Deed::Begun { .. } | Deed::Returned { .. } => false,
            };
            let returned = deeds.contains(&Deed::Returned { host: host.clone(), id: id.clone() });
            self.begun(deeds).any(|begun| begun == (host, id)) && deeds.iter().any(done) && !returned
        };
        let made_up = self.completed.iter().filter(|completed| !ran(completed));
        made_up.map(|(host, id, at)| format!("{host} is said at {at} to have completed {id}, and has not")).collect()
    }

    /// Returns reported rollbacks that did not happen.
    fn stayed(&self, deeds: &[Deed]) -> Vec<String> {
        let returned =
            |(host, id): &&(String, String)| deeds.contains(&Deed::Returned { host: host.clone(), id: id.clone() });
        let stayed = self.returned.iter().filter(|told| !returned(told));
        stayed.map(|(host, id)| format!("{host} is said to have returned after {id}, and has not")).collect()
    }

    /// Returns host and id of each run of this commit.
    fn begun<'a>(&self, deeds: &'a [Deed]) -> impl Iterator<Item = (&'a String, &'a String)> {
        deeds.iter().filter_map(|deed| match deed {
            Deed::Begun { host, id, commit } if *commit == self.commit => Some((host, id)),
            _ => None,
        })
    }
}

/// Returns requests that were run more than once.
pub fn run_twice(deeds: &[Deed]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let begun = deeds.iter().filter_map(|deed| match deed {
        Deed::Begun { host, id, .. } => Some((host, id)),
        Deed::Done { .. } | Deed::Returned { .. } => None,
    });
    let twice = begun.filter(|begun| !seen.insert(*begun));
    twice.map(|(host, id)| format!("{host} ran {id} twice")).collect()
}

/// Returns runs of a commit that no rollout deploys.
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

mod tests {
    use super::*;

    /// Two waves without tolerated failures.
    const BEGUN: &str = r#"{"event":"begun","revision":"c","plan":{"waves":[
        {"hosts":[{"host":"a"},{"host":"b"}],"max_failures":0},{"hosts":[{"host":"c"}],"max_failures":0}]}}"#;

    const GOOD: [&str; 6] =
        ["a begins 1 c", "b begins 2 c", "a did 1 100", "b did 2 100", "c begins 3 c", "c did 3 200"];

    fn told(events: &[&str]) -> Told {
        let words = |event: &&str| match event.split(' ').collect::<Vec<_>>()[..] {
            [host, "asked", id] => format!(r#"{{"event":"dispatched","host":"{host}","request":"{id}"}}"#),
            [host, outcome] => {
                format!(r#"{{"event":"final","at":"1970-01-01T00:00:00.2Z","host":"{host}","outcome":"{outcome}"}}"#)
            }
            [outcome] => format!(r#"{{"event":"ended","outcome":"{outcome}"}}"#),
            _ => panic!("{event}"),
        };
        let events: Vec<String> = events.iter().map(words).collect();
        Told::read(&[&[BEGUN.replace('\n', "")], &events[..]].concat().join("\n"))
    }

    fn happened(record: &[&str]) -> Vec<Deed> {
        deeds(&record.iter().map(|&line| line.to_owned()).collect::<Vec<_>>())
    }

    fn all() -> Told {
        told(&["a asked 1", "b asked 2", "a completed", "b completed", "c asked 3", "c completed", "succeeded"])
    }

    #[test]
    fn a_rollout_that_did_what_it_says_is_in_order() {
        assert_eq!(all().faults_of_success(&happened(&GOOD)), [""; 0]);
        assert!(run_twice(&happened(&GOOD)).is_empty() && of_no_rollout(&happened(&GOOD), &["c".into()]).is_empty());
    }

    #[test]
    fn each_fault_is_seen() {
        let not_c = "c is said at 1970-01-01T00:00:00.2Z to have completed 3, and has not";
        let mut early = GOOD;
        early.swap(3, 4);
        assert_eq!(all().faults(&happened(&early)), [r#"c ran before ["b"], of which 0 may fail"#]);
        assert_eq!(all().faults(&happened(&GOOD[..5])), [not_c]);
        let late = [&GOOD[..5], &["c did 3 1000"]].concat();
        assert_eq!(all().faults(&happened(&late)), [not_c]);
        let back = [&GOOD[..], &["c returns"]].concat();
        assert_eq!(all().faults(&happened(&back)), [not_c]);
        let stray = [&GOOD[..], &["d begins 4 c", "a begins 3 c"]].concat();
        assert_eq!(
            all().asked_for(&happened(&stray)),
            ["d ran 4, which was not asked of it", "a ran 3, which was not asked of it"]
        );
        let twice = [&GOOD[..], &["a begins 1 c"]].concat();
        assert_eq!(run_twice(&happened(&twice)), ["a ran 1 twice"]);
        assert_eq!(of_no_rollout(&happened(&["a begins 9 x"]), &["c".into()]), ["a ran x"]);
        let without = told(&["a asked 1", "b asked 2", "a completed", "b failed", "failed"]);
        assert_eq!(
            without.faults_of_success(&happened(&GOOD[..4])),
            [
                r#"it ended with 0, and the journal says Some("failed")"#,
                r#"it succeeded without ["b"], of which 0 may fail"#,
                r#"it succeeded without ["c"], of which 0 may fail"#,
            ]
        );
    }
}
