//! Everything breaks, at moments that one number decides: the server, listeners, supervisors, operators and the network in
//! between. What was reported is then held against what the rebuilds wrote down.
//!
//! `SEED` has a round again, as far as processes allow, and `SECONDS` says for how long rounds follow each other, each with
//! the next seed.

mod oracle;
mod rollout;
mod schedule;
mod site;
mod storm;

use std::ops::AddAssign;
use std::process::Command;
use std::time::{Duration, Instant};

use self::oracle::{Deed, Told};
use self::rollout::{Deployment, Rollout};
use self::schedule::Schedule;
use self::site::Site;
use self::storm::Storm;
use crate::dice;

/// How long rounds follow each other where nobody says: two or three of them.
const SECONDS: u64 = 15;

/// What was done in some rounds, and what became of it.
#[derive(Debug, Default)]
struct Figures {
    rounds: u64,
    runs: u64,
    kills: u64,
    stops: u64,
    ends: u64,
    cuts: u64,
    attempts: u64,
    deployments: u64,
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "a failure can be had again with the number of its round")]
async fn whatever_breaks_no_report_says_what_no_rebuild_did() {
    let time = std::env::var("SECONDS").map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let (first, began) = (dice::seed(), Instant::now());
    let mut all = Figures::default();
    for seed in first.. {
        let figures = round(seed).await;
        eprintln!("SEED={seed}: {figures:?}");
        all += figures;
        if began.elapsed() > Duration::from_secs(time) {
            break;
        }
    }
    eprintln!("{all:?} in {:?}", began.elapsed());
}

/// One rollout from its first request until it has succeeded, and all that breaks meanwhile.
async fn round(seed: u64) -> Figures {
    let schedule = Schedule::of(seed);
    let site = Site::start(&schedule).await;
    let mut storm = Storm::new(&schedule, site);
    let calmed = storm.rage().await;
    let Storm { site, rollout, deployments, mut figures, .. } = storm;

    let deeds = oracle::deeds(&site.lab.fleet.rebuild().record());
    let mut faults = check(&site, &rollout, &deployments, &deeds);
    faults.extend(calmed.err());
    if !faults.is_empty() {
        let kept = keep(&site, seed);
        panic!("SEED={seed}: {faults:#?}\n{schedule:#?}\n{deeds:#?}\nall files are in {kept}");
    }
    figures.rounds = 1;
    figures.attempts = rollout.attempts;
    figures.runs = u64::try_from(deeds.iter().filter(|deed| matches!(deed, Deed::Begun { .. })).count()).unwrap();
    figures
}

/// All that is not as it must be.
fn check(site: &Site, rollout: &Rollout, deployments: &[Deployment], deeds: &[Deed]) -> Vec<String> {
    let commits = deployments.iter().map(|deployment| &deployment.commit).chain([&rollout.commit]);
    let mut faults = oracle::run_twice(deeds);
    faults.extend(oracle::of_no_rollout(deeds, &commits.cloned().collect::<Vec<_>>()));
    faults.extend(site.panics());
    faults.extend(rollout.odd_ends());
    let told = rollout.told(site);
    faults.extend(if rollout.is_done { told.faults_of_success(deeds) } else { told.faults(deeds) });
    for deployment in deployments {
        let told = Told::read(&deployment.running.output());
        faults.extend(told.faults(deeds));
    }
    faults
}

/// Keeps all files of a round, and says where.
fn keep(site: &Site, seed: u64) -> String {
    let kept = format!("{}/chaos-{seed}", env!("CARGO_TARGET_TMPDIR"));
    Command::new("cp").arg("-r").arg(site.lab.folder()).arg(&kept).status().unwrap();
    kept
}

impl AddAssign for Figures {
    fn add_assign(&mut self, more: Self) {
        self.rounds += more.rounds;
        self.runs += more.runs;
        self.kills += more.kills;
        self.stops += more.stops;
        self.ends += more.ends;
        self.cuts += more.cuts;
        self.attempts += more.attempts;
        self.deployments += more.deployments;
    }
}
