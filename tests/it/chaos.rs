//! Breaks the server, listeners, supervisors, operators and the network at random moments, which one seed decides. Then
//! the test compares what was reported with what the rebuilds recorded.
//!
//! `SEED` repeats a round as far as processes allow. `SECONDS` says for how long to start rounds, each with the next
//! seed.

mod oracle;
mod rollout;
mod schedule;
mod site;
mod storm;

use std::ops::AddAssign;
use std::process::Command;
use std::time::{Duration, Instant};

use self::oracle::Deed;
use self::rollout::{Deployment, Rollout};
use self::schedule::Schedule;
use self::site::Site;
use self::storm::Storm;
use crate::dice;

/// The default of `SECONDS`: two or three rounds.
const SECONDS: u64 = 15;

/// Counts of what some rounds did, and of the results.
#[derive(Debug, Default)]
struct Figures {
    rounds: u64,
    rollouts: u64,
    runs: u64,
    kills: u64,
    stops: u64,
    ends: u64,
    cuts: u64,
    attempts: u64,
    deployments: u64,
}

#[tokio::test]
async fn whatever_breaks_no_report_says_what_no_rebuild_did() {
    let time = Duration::from_secs(dice::wanted("SECONDS").unwrap_or(SECONDS));
    let (first, began) = (dice::seed(), Instant::now());
    let mut all = Figures::default();
    for seed in first.. {
        let figures = round(seed).await;
        eprintln!("SEED={seed}: {figures:?}");
        all += figures;
        if began.elapsed() > time {
            break;
        }
    }
    eprintln!("{all:?} in {:?}", began.elapsed());
}

/// Runs one rollout after another while things break, and then the last one in calm.
async fn round(seed: u64) -> Figures {
    let schedule = Schedule::of(seed);
    let site = Site::start(&schedule).await;
    let mut storm = Storm::new(&schedule, site);
    let calmed = storm.rage().await;
    let Storm { site, rollouts, deployments, mut figures, .. } = storm;

    let deeds = oracle::deeds(&site.lab.fleet.rebuild().record());
    let mut faults = check(&site, &rollouts, &deployments, &deeds);
    faults.extend(calmed.err());
    if !faults.is_empty() {
        let kept = keep(&site, seed);
        panic!("SEED={seed}: {faults:#?}\n{schedule:#?}\n{deeds:#?}\nall files are in {kept}");
    }
    figures.rounds = 1;
    figures.rollouts = u64::try_from(rollouts.len()).unwrap();
    figures.attempts = rollouts.iter().map(|rollout| rollout.attempts).sum();
    figures.runs = u64::try_from(deeds.iter().filter(|deed| matches!(deed, Deed::Begun { .. })).count()).unwrap();
    figures
}

/// Returns all violations of the rules.
fn check(site: &Site, rollouts: &[Rollout], deployments: &[Deployment], deeds: &[Deed]) -> Vec<String> {
    let commits = rollouts.iter().map(|rollout| &rollout.commit);
    let commits = commits.chain(deployments.iter().map(|deployment| &deployment.commit));
    let mut faults = oracle::run_twice(deeds);
    faults.extend(oracle::of_no_rollout(deeds, &commits.cloned().collect::<Vec<_>>()));
    faults.extend(site.panics());
    for rollout in rollouts {
        let told = rollout.told(site);
        faults.extend(rollout.odd_ends());
        faults.extend(if rollout.is_done { told.faults_of_success(deeds) } else { told.faults(deeds) });
    }
    faults.extend(deployments.iter().flat_map(|deployment| deployment.told(site).faults(deeds)));
    faults
}

/// Keeps all files of a round, and returns their path.
fn keep(site: &Site, seed: u64) -> String {
    let kept = format!("{}/chaos-{seed}", env!("CARGO_TARGET_TMPDIR"));
    Command::new("cp").arg("-r").arg(site.lab.folder()).arg(&kept).status().unwrap();
    kept
}

impl AddAssign for Figures {
    fn add_assign(&mut self, more: Self) {
        self.rounds += more.rounds;
        self.rollouts += more.rollouts;
        self.runs += more.runs;
        self.kills += more.kills;
        self.stops += more.stops;
        self.ends += more.ends;
        self.cuts += more.cuts;
        self.attempts += more.attempts;
        self.deployments += more.deployments;
    }
}
