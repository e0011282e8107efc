mod region;

use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::{InMemoryTerm, TermLike};

use super::*;
use crate::protocol::{Phase, Status};
use crate::report::tests::scenario::{Scenario, answer, build_failure, demo, deployment, rollout, wave};
use crate::rollout::{Connection, FailureReason, Outcome, SkipReason, WaveIndex, WaveVerdict};

const HALTED: FailureReason = FailureReason::TooManyFailures { failures: 1, max_failures: 0 };

/// An in-memory terminal that both the bar and the lines above it write to, as they do to standard error.
#[derive(Debug, Clone)]
struct Terminal(InMemoryTerm);

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(bytes).unwrap();
        self.0.write_str(&text.replace('\n', "\r\n"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A rollout displayed on an in-memory terminal.
struct Watched {
    story: Scenario,
    summary: Summary,
    seen: usize,
    terminal: Terminal,
    bars: Bars<Terminal>,
}

impl Watched {
    fn new(story: Scenario) -> Self {
        let terminal = Terminal(InMemoryTerm::new(24, 80));
        let target = ProgressDrawTarget::term_like(Box::new(terminal.0.clone()));
        let bars =
            Bars::new(terminal.clone(), target, Style::Plain, || Size { columns: 80, rows: 24 }, LogView::LastLine);
        Self { story, summary: Summary::default(), seen: 0, terminal, bars }
    }

    /// Continues the scenario, displays its new events, and returns the screen.
    fn after(&mut self, chapter: impl FnOnce(&mut Scenario)) -> String {
        chapter(&mut self.story);
        for event in self.story.events.iter().skip(self.seen) {
            self.summary.apply(event);
            self.bars.event(event, &[], &self.summary).unwrap();
        }
        self.seen = self.story.events.len();
        self.tick()
    }

    fn tick(&mut self) -> String {
        self.bars.tick(self.story.now(), &self.summary).unwrap();
        self.screen()
    }

    fn screen(&self) -> String {
        self.terminal.0.contents()
    }
}

#[test]
fn what_moves_stands_in_place_and_what_must_stay_scrolls_by() {
    let mut watched = Watched::new(Scenario::begin(demo()));
    let first = watched.after(|story| {
        story.wave_starts(0).deploys("test1").sent("test2").at("test2", Phase::Build).wait(3);
    });
    insta::assert_snapshot!(first, @"
    ◌ Rollout demo 01f92b3c begins: main -> 8c1f0e2, 6 hosts in 3 waves
    ◌ 1/3 test    1/2   1 of 6 hosts
        ✔ test1  completed   12s     a91be77 -> 8c1f0e2
        ◌ test2  building    3s      of 45m
    ◷ 2/3 dns     2 hosts
    ◷ 3/3 media   2 hosts
    ");
    let second = watched.after(|story| {
        story.answered(answer("test2", Status::Completed)).wave_ends(0, WaveVerdict::Succeeded).wave_starts(1);
        story.sent("ns1").at("ns1", Phase::Build).wait(80).event(EventKind::Connection { state: Connection::Down });
    });
    insta::assert_snapshot!(second, @"
    ◌ Rollout demo 01f92b3c begins: main -> 8c1f0e2, 6 hosts in 3 waves
    ✔ 1/3 test    2/2   15s
    ⚠ connection lost; deployments on the hosts continue
    ◌ 2/3 dns     0/2   2 of 6 hosts
        ◌ ns1    building    1m20s   of 45m
        ◷ ns2    pending
    ◷ 3/3 media   2 hosts
    ");
    let over = watched.after(|story| {
        story.event(EventKind::Connection { state: Connection::Up }).answered(build_failure("ns1"));
        story.event(EventKind::Draining { wave: WaveIndex(1), cause: HALTED });
        story.skipped(&["ns2"], SkipReason::WaveHalted).wave_ends(1, WaveVerdict::Failed(HALTED));
        story.skipped(&["jelly", "sonos"], SkipReason::EarlierWave).wave_ends(2, WaveVerdict::Skipped);
        story.ends(Outcome::Failed);
    });
    insta::assert_snapshot!(over, @"
    ◌ Rollout demo 01f92b3c begins: main -> 8c1f0e2, 6 hosts in 3 waves
    ✔ 1/3 test    2/2   15s
    ⚠ connection lost; deployments on the hosts continue
    ✔ reconnected
    ✖ 2/3 dns     ns1    failed      1m20s   build: attribute 'unboundd' missing
    ✖ 2/3 dns     halted: 1 failed, 0 may fail; nothing is in flight
    ✖ 2/3 dns     0/2   1m20s   failed: 1 failed, 0 may fail   1 skipped
    ○ 3/3 media   skipped   2 hosts
    ");
    assert_eq!(watched.tick(), over);
}

#[test]
fn nothing_flashes_up_in_the_beginning() {
    let mut watched = Watched::new(Scenario::begin(demo()));
    let begun = watched.after(|story| {
        story.wave_starts(0).sent("test1").sent("test2").at("test1", Phase::Build);
    });
    insta::assert_snapshot!(begun, @"◌ Rollout demo 01f92b3c begins: main -> 8c1f0e2, 6 hosts in 3 waves");
    watched.story.wait(1);
    assert_ne!(watched.tick(), begun);
}

#[test]
fn a_question_is_not_written_over() {
    let mut watched = Watched::new(Scenario::begin(demo()));
    watched.after(|story| {
        story.wave_starts(0).deploys("test1").deploys("test2").wave_ends(0, WaveVerdict::Succeeded);
        story.event(EventKind::AwaitingConfirmation { wave: WaveIndex(1) });
    });
    write!(watched.terminal, "Start wave 2? ").unwrap();
    let asked = watched.screen();
    insta::assert_snapshot!(asked, @"
    ◌ Rollout demo 01f92b3c begins: main -> 8c1f0e2, 6 hosts in 3 waves
    ✔ 1/3 test    2/2   24s
    Start wave 2?
    ");
    let later = watched.after(|story| {
        story.wait(60).event(EventKind::Connection { state: Connection::Down });
    });
    assert_eq!((later, watched.tick()), (asked.clone(), asked));
    writeln!(watched.terminal, "yes").unwrap();
    let answered = watched.after(|story| {
        story.wave_starts(1).sent("ns1");
    });
    insta::assert_snapshot!(answered, @"
    ◌ Rollout demo 01f92b3c begins: main -> 8c1f0e2, 6 hosts in 3 waves
    ✔ 1/3 test    2/2   24s
    Start wave 2? yes
    ⚠ connection lost; deployments on the hosts continue
    ◌ 2/3 dns     0/2   2 of 6 hosts
        ◌ ns1    sent        0s      of 45m
        ◷ ns2    pending
    ◷ 3/3 media   2 hosts
    ");
}

#[test]
fn an_echo_of_ctrl_c_leaves_nothing_behind() {
    let mut watched = Watched::new(Scenario::begin(demo()));
    let before = watched.after(|story| {
        story.wave_starts(0).sent("test1").wait(1).at("test1", Phase::Build);
    });
    write!(watched.terminal, "^C").unwrap();
    assert_eq!(watched.tick(), before);
}

#[test]
fn what_is_too_long_for_a_line_is_broken_between_words() {
    let mut watched = Watched::new(Scenario::begin(demo()));
    let mut failure = build_failure("test1");
    failure.message = "a text that goes on and on, for there is always more to say about what is wrong".to_owned();
    let shown = watched.after(|story| {
        story.wave_starts(0).sent("test1").answered(failure);
    });
    insta::assert_snapshot!(shown, @"
    ◌ Rollout demo 01f92b3c begins: main -> 8c1f0e2, 6 hosts in 3 waves
    ✖ 1/3 test    test1  failed      0s      build: a text that goes on and on, for
      there is always more to say about what is wrong
    ");
}

#[test]
fn a_display_that_is_dropped_leaves_nothing_in_place() {
    let mut watched = Watched::new(Scenario::begin(demo()));
    watched.after(|story| {
        story.wave_starts(0).deploys("test1").sent("test2");
    });
    let Watched { bars, terminal, .. } = watched;
    drop(bars);
    insta::assert_snapshot!(terminal.0.contents(), @"◌ Rollout demo 01f92b3c begins: main -> 8c1f0e2, 6 hosts in 3 waves");
}

#[test]
fn a_deployment_tells_of_each_host() {
    let mut watched = Watched::new(Scenario::begin(deployment("deploy.prod.role.dns", wave("dns", &["ns1", "ns2"]))));
    let shown = watched.after(|story| {
        story.wave_starts(0).sent("ns1").sent("ns2");
        story.wait(20).answered(answer("ns1", Status::Completed)).at("ns2", Phase::Activate);
    });
    insta::assert_snapshot!(shown, @"
    ◌ deploy.prod.role.dns: switch main -> 8c1f0e2
    ✔ ns1  completed   20s     a91be77 -> 8c1f0e2
    ◌ ns2  activating  20s     of 45m
    ");
}

#[test]
fn a_storm_of_events_is_not_laid_out_event_by_event() {
    static LAID_OUT: AtomicUsize = AtomicUsize::new(0);
    let hosts: Vec<String> = (0..1000).map(|number| format!("node{number}")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let mut watched = Watched::new(Scenario::begin(rollout("all", vec![wave("all", &hosts)])));
    watched.after(|_| {});
    watched.bars.size = || {
        LAID_OUT.fetch_add(1, Ordering::Relaxed);
        Size { columns: 80, rows: 24 }
    };
    watched.after(|story| {
        story.wave_starts(0).wait(1);
        for host in &hosts {
            story.sent(host).at(host, Phase::Build);
        }
    });
    assert_eq!(LAID_OUT.load(Ordering::Relaxed), 2, "once after a second, and once at the end");
}
