//! Tests that `apply` can be killed at any moment, and that a resumed rollout is correct.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::sleep;

use super::crowd::{Course, Crowd, Happened};
use super::stage::{self, expect_recap};
use super::{fake, resume};
use crate::dice::{self, Dice};
use crate::operator;

/// How often the rollout is killed.
const KILLS: usize = 5;

/// The longest time that a process lives once it is seen to work, in milliseconds. All five together are shorter than a
/// rollout.
const AT_MOST: u64 = 320;

const WAVES: [(&str, usize); 3] = [("test", 4), ("prod", 8), ("prod", 8)];

const WINDOW: usize = 2;

/// Returns the names of each wave's hosts.
fn waves() -> [Vec<String>; 3] {
    let mut number = 0;
    WAVES.map(|(_, size)| {
        let wave = (number..number + size).map(|host| format!("host{host:02}")).collect();
        number += size;
        wave
    })
}

fn plan() -> String {
    let waves = WAVES.iter().zip(waves()).enumerate().map(|(index, ((tier, _), hosts))| {
        let targets: Vec<String> = hosts.iter().map(|host| format!("{tier}.{host}")).collect();
        format!("[[wave]]\nname = 'wave{index}'\ntargets = {targets:?}\n")
    });
    let defaults = format!("revision = 'main'\n[defaults]\nmax_parallel = {WINDOW}\n");
    defaults + &waves.collect::<String>()
}

#[tokio::test]
async fn killed_at_five_random_moments_it_asks_every_host_once_and_none_in_vain() {
    let mut dice = Dice::new(dice::seed());
    let lab = stage::empty(&[]).await;
    let tiers = WAVES.iter().zip(waves());
    let reports = tiers.flat_map(|((tier, _), hosts)| hosts.into_iter().map(move |host| (*tier, host)));
    let reports = reports.map(|(tier, host)| fake::modern(tier, &host, &lab)).collect();
    let mut lengths = Dice::new(dice.below(u64::MAX));
    let course = move |_: &str| Course { takes: Duration::from_millis(100 + lengths.below(200)), status: "completed" };
    let mut crowd = Crowd::start(&lab, reports, course).await;

    let mut operator = stage::apply(&lab, &plan());
    // Before this event there is nothing to resume.
    crowd.next().await;
    for _ in 0..KILLS {
        sleep(Duration::from_millis(dice.below(AT_MOST))).await;
        operator.signal(Signal::KILL).unwrap();
        assert_eq!(operator.ended().await.unwrap().code, None, "it was killed before it was done");
        operator = operator::start(&lab, &["apply", "--resume"]).unwrap();
    }
    expect_recap(&operator.ended().await.unwrap().expect(0), "20 hosts completed in 3 waves");

    let all: Vec<String> = waves().concat();
    let mut ran = crowd.ran();
    ran.sort();
    assert_eq!(ran, all, "each ran once");
    let ids = crowd.ids();
    assert!(ids.keys().eq(&all), "none was missed, and no other was asked: {ids:?}");
    assert!(ids.values().all(|ids| ids.len() == 1), "none was asked again under a new id: {ids:?}");
    assert_waves_apart(crowd.story());
    let listed = resume::listed(&lab).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(listed[0].contains("succeeded") && listed[0].contains("20 completed"), "{listed:?}");
}

/// Asserts that no host is asked before all hosts of earlier waves have ended, and that no more run than allowed.
fn assert_waves_apart(story: &[Happened]) {
    let waves = waves();
    let wave_of = |host: &String| waves.iter().position(|wave| wave.contains(host)).unwrap();
    let mut ended = BTreeSet::new();
    let mut under_way = 0;
    for (index, happened) in story.iter().enumerate() {
        match happened {
            Happened::Asked { host, .. } => {
                let before = waves[..wave_of(host)].concat();
                assert!(before.iter().all(|host| ended.contains(host)), "{host} is early: {:?}", &story[..=index]);
            }
            Happened::Began { .. } => under_way += 1,
            Happened::Ended { host } => {
                under_way -= 1;
                ended.insert(host.clone());
            }
        }
        assert!(under_way <= WINDOW, "{under_way} at once: {:?}", &story[..=index]);
    }
}
