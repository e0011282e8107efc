//! Tests the loop over channels, in paused time. A task of the test is the network.

use std::fs::File;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;

use super::*;
use crate::operator::fleet::FleetEnd;
use crate::operator::journal::Journals;
use crate::operator::testing::rollout;
use crate::plan::{Limits, Rollback};
use crate::protocol::{Response, Sender, Status};
use crate::rollout::{Connection, Dispatch, EventKind, HostOutcome, Machine, Outcome, Rollout};

/// Records events from a reporter and requests from the network, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

struct Recorder(Log);

impl Reporter for Recorder {
    fn event(&mut self, event: &Event, _: &[u8], _: &Summary) -> io::Result<()> {
        match &event.kind {
            EventKind::Dispatched { host, .. } => self.0.add(format!("recorded {host}")),
            EventKind::Final { host, outcome, .. } => self.0.add(format!("{host} {outcome}")),
            EventKind::Ended { outcome } => self.0.add(format!("ended {outcome:?}")),
            _ => {}
        }
        Ok(())
    }

    fn tick(&mut self, _: Timestamp, _: &Summary) -> io::Result<()> {
        Ok(())
    }
}

/// A display whose reader has closed the pipe.
struct Broken;

impl Reporter for Broken {
    fn event(&mut self, _: &Event, _: &[u8], _: &Summary) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn tick(&mut self, _: Timestamp, _: &Summary) -> io::Result<()> {
        panic!("a display that has failed is not asked again")
    }
}

fn answer(dispatch: &Dispatch, rollout: &Rollout, status: Status) -> FleetEvent {
    let host = rollout.plan.hosts().find(|host| host.subject() == dispatch.subject).unwrap();
    let from = Sender { tier: host.tier, host: host.hostname.clone() };
    let request = dispatch.request.id.clone().unwrap();
    let response = Response { id: Some(request.clone()), ..Response::new(host.hostname.clone(), status, "") };
    FleetEvent::Input(Input::Response { from, request, response: Arc::new(response) })
}

/// Waits for the next request.
async fn next_request(end: &mut FleetEnd) -> Option<Dispatch> {
    loop {
        match end.outbound.recv().await? {
            Outbound::Publish(dispatch) => return Some(dispatch),
            Outbound::Prove => end.events.send(FleetEvent::Proved).await.unwrap(),
            Outbound::CallRoll | Outbound::Announce(_) | Outbound::FinishLogs => {}
        }
    }
}

/// Drives a rollout with these waves; `network` is the other end.
async fn drive<N>(
    waves: &[&[&str]],
    log: &Log,
    interrupts: mpsc::Receiver<Interrupt>,
    network: impl FnOnce(FleetEnd, Arc<Rollout>) -> N,
) -> Result<Summary, DriveError>
where
    N: Future<Output = ()> + Send + 'static,
{
    drive_on_record(None, rollout(waves), log, interrupts, network).await
}

/// Drives a rollout; `network` is the other end.
async fn drive_on_record<N>(
    journal: Option<Journal>,
    rollout: Arc<Rollout>,
    log: &Log,
    interrupts: mpsc::Receiver<Interrupt>,
    network: impl FnOnce(FleetEnd, Arc<Rollout>) -> N,
) -> Result<Summary, DriveError>
where
    N: Future<Output = ()> + Send + 'static,
{
    let (fleet, end) = Fleet::channels();
    let mut tasks = JoinSet::new();
    tasks.spawn(network(end, Arc::clone(&rollout)));
    let mut machine = Machine::new(rollout, Timestamp::UNIX_EPOCH, 3);
    let reporters: Vec<Box<dyn Reporter>> = vec![Box::new(Broken), Box::new(Recorder(log.clone()))];
    let confirm: Confirm = Box::new(|_, _| Box::pin(async { Confirmation::Unavailable }));
    Driver::new(fleet, journal, reporters, interrupts, confirm, |_| String::new()).run(&mut machine).await?;
    Ok(machine.state().clone())
}

fn nobody_interrupts() -> mpsc::Receiver<Interrupt> {
    mpsc::channel(1).1
}

/// A network that accepts every request at once and completes it after ten seconds.
fn obliging(log: &Log) -> impl FnOnce(FleetEnd, Arc<Rollout>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let log = log.clone();
    move |mut end, rollout| {
        Box::pin(async move {
            while let Some(dispatch) = next_request(&mut end).await {
                log.add(format!("sent to {}", dispatch.subject));
                end.events.send(answer(&dispatch, &rollout, Status::Accepted)).await.ok();
                tokio::time::sleep(Duration::from_secs(10)).await;
                end.events.send(answer(&dispatch, &rollout, Status::Completed)).await.ok();
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn hosts_are_recorded_before_they_are_asked_and_waves_follow_each_other() {
    let log = Log::default();
    let progress = drive(&[&["a", "b"], &["c"]], &log, nobody_interrupts(), obliging(&log)).await.unwrap();
    assert_eq!(progress.outcome, Some(Outcome::Succeeded));
    assert_eq!(progress.counts().completed, 3);
    insta::assert_snapshot!(log.text(), @r"
    recorded a
    sent to deploy.test.a
    a completed
    recorded b
    sent to deploy.test.b
    b completed
    recorded c
    sent to deploy.test.c
    c completed
    ended Succeeded
    ");
}

#[tokio::test(start_paused = true)]
async fn what_leaves_is_in_the_journal() {
    let (folder, log) = (tempfile::tempdir().unwrap(), Log::default());
    let (journals, rollout) = (Journals::below(folder.path()), rollout(&[&["a", "b"], &["c"]]));
    let journal = journals.create(rollout.id).unwrap();
    let id = rollout.id.to_string();
    let (seen, record) = (log.clone(), journals.clone());
    let network = |mut end: FleetEnd, rollout: Arc<Rollout>| async move {
        while let Some(dispatch) = next_request(&mut end).await {
            let known = record.read(&rollout.id.to_string()).unwrap().summary.counts();
            seen.add(format!("sent to {}, {} in flight", dispatch.subject, known.in_flight));
            end.events.send(answer(&dispatch, &rollout, Status::Completed)).await.ok();
        }
    };
    let ended = drive_on_record(Some(journal), rollout, &log, nobody_interrupts(), network).await.unwrap();
    assert_eq!(journals.read(&id).unwrap().summary, ended);
    insta::assert_snapshot!(log.text(), @r"
    recorded a
    sent to deploy.test.a, 1 in flight
    a completed
    recorded b
    sent to deploy.test.b, 1 in flight
    b completed
    recorded c
    sent to deploy.test.c, 1 in flight
    c completed
    ended Succeeded
    ");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_recorded_does_not_leave() {
    // `/dev/full` cannot be written to, `/dev/null` cannot be synced.
    for file in ["/dev/full", "/dev/null"] {
        let log = Log::default();
        let journal = Journal::on(File::options().append(true).open(file).unwrap());
        // More hosts than are prepared at once.
        let waves = rollout(&[&["a", "b", "c", "d", "e", "f", "g", "h"]]);
        let ended = drive_on_record(Some(journal), waves, &log, nobody_interrupts(), obliging(&log)).await;
        assert!(matches!(ended, Err(DriveError::Journal(_))), "{file}: {ended:?}");
        assert!(!log.text().contains("sent"), "{file}: {}", log.text());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_recorded_does_not_leave_as_a_question_either() {
    let log = Log::default();
    let journal = Journal::on(File::options().append(true).open("/dev/full").unwrap());
    let sent = log.clone();
    let back_at_once = |mut end: FleetEnd, _| async move {
        for state in [Connection::Down, Connection::Up] {
            end.events.send(FleetEvent::Input(Input::Connection(state))).await.ok();
        }
        while let Some(dispatch) = next_request(&mut end).await {
            sent.add(format!("sent to {}", dispatch.subject));
        }
    };
    let ended = drive_on_record(Some(journal), rollout(&[&["a"]]), &log, nobody_interrupts(), back_at_once).await;
    assert!(matches!(ended, Err(DriveError::Journal(_))), "{ended:?}");
    assert!(!log.text().contains("sent"), "{}", log.text());
}

/// Drives a rollout to a silent host; `proof` answers the request for a proof. Returns the seconds it took.
async fn silence(log: &Log, proof: &'static [FleetEvent]) -> (Summary, u64) {
    let began = Instant::now();
    let silent = move |mut end: FleetEnd, _| async move {
        // Keeps both ends open.
        while let Some(order) = end.outbound.recv().await {
            if order == Outbound::Prove {
                for event in proof {
                    end.events.send(event.clone()).await.unwrap();
                }
            }
        }
    };
    let summary = drive(&[&["a"], &["b"]], log, nobody_interrupts(), silent).await.unwrap();
    (summary, began.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn silence_ends_by_the_deadline() {
    let log = Log::default();
    let (summary, seconds) = silence(&log, &[FleetEvent::Proved]).await;
    assert_eq!((summary.outcome, seconds), (Some(Outcome::Failed), 15));
    insta::assert_snapshot!(log.text(), @r"
    recorded a
    a unreachable
    b skipped
    ended Failed
    ");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_proves_nothing_holds_up_a_rollout_for_a_moment_only() {
    let (summary, seconds) = silence(&Log::default(), &[]).await;
    assert_eq!((summary.outcome, seconds), (Some(Outcome::Failed), 25));
}

#[tokio::test(start_paused = true)]
async fn silence_of_the_connection_is_not_the_hosts() {
    let log = Log::default();
    let began = Instant::now();
    let breaks_once = |mut end: FleetEnd, rollout: Arc<Rollout>| async move {
        while let Some(order) = end.outbound.recv().await {
            // A reconnect comes instead of the proof. Asked again after it, the host responds that it is done.
            if order == Outbound::Prove {
                for state in [Connection::Down, Connection::Up] {
                    end.events.send(FleetEvent::Input(Input::Connection(state))).await.unwrap();
                }
            } else if let Outbound::Publish(dispatch) = order
                && began.elapsed().as_secs() >= 15
            {
                end.events.send(answer(&dispatch, &rollout, Status::Completed)).await.unwrap();
            }
        }
    };
    let summary = drive(&[&["a"]], &log, nobody_interrupts(), breaks_once).await.unwrap();
    assert_eq!((summary.outcome, began.elapsed().as_secs()), (Some(Outcome::Succeeded), 15), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_large_wave_are_prepared_as_they_are_taken() {
    let log = Log::default();
    let seen = log.clone();
    let busy = move |mut end: FleetEnd, rollout: Arc<Rollout>| async move {
        tokio::time::sleep(Duration::from_millis(900)).await;
        seen.add("nothing was taken so far");
        let mut taken = Vec::new();
        while taken.len() < 8 {
            taken.extend(next_request(&mut end).await);
        }
        seen.add("all were taken before the first answer");
        for dispatch in taken {
            end.events.send(answer(&dispatch, &rollout, Status::Completed)).await.unwrap();
        }
        while end.outbound.recv().await.is_some() {}
    };
    let mut rollout = rollout(&[&["a", "b", "c", "d", "e", "f", "g", "h"]]);
    Arc::make_mut(&mut rollout).plan.waves[0].limits.max_parallel = 8;
    let progress = drive_on_record(None, rollout, &log, nobody_interrupts(), busy).await.unwrap();
    assert_eq!(progress.outcome, Some(Outcome::Succeeded));
    insta::assert_snapshot!(log.text(), @r"
    recorded a
    nothing was taken so far
    recorded b
    recorded c
    recorded d
    recorded e
    recorded f
    recorded g
    recorded h
    all were taken before the first answer
    a completed
    b completed
    c completed
    d completed
    e completed
    f completed
    g completed
    h completed
    ended Succeeded
    ");
}

#[tokio::test(start_paused = true)]
async fn hosts_that_are_given_up_without_a_request_hold_nothing_up() {
    let log = Log::default();
    let hosts: Vec<String> = (0..50).map(|number| format!("h{number}")).collect();
    let mut rollout = rollout(&[&hosts.iter().map(String::as_str).collect::<Vec<_>>()]);
    let wave = &mut Arc::make_mut(&mut rollout).plan.waves[0];
    wave.limits = Limits { rollback: Rollback::Auto, max_parallel: 50, max_failures: 50, ..wave.limits.clone() };
    for host in &mut wave.hosts {
        (host.present, host.supports_rollback) = (false, false);
    }
    let began = Instant::now();
    drive_on_record(None, rollout, &log, nobody_interrupts(), obliging(&log)).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(log.text().matches("unreachable").count(), 50);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_waits_for_what_is_in_flight() {
    let log = Log::default();
    let (sender, interrupts) = mpsc::channel(1);
    sender.send(Interrupt::Drain).await.unwrap();
    let progress = drive(&[&["a", "b"]], &log, interrupts, obliging(&log)).await.unwrap();
    assert_eq!(progress.outcome, Some(Outcome::Interrupted));
    insta::assert_snapshot!(log.text(), @r"
    recorded a
    sent to deploy.test.a
    a completed
    b skipped
    ended Interrupted
    ");
}

#[tokio::test(start_paused = true)]
async fn a_second_interrupt_leaves_at_once() {
    let log = Log::default();
    let (sender, interrupts) = mpsc::channel(2);
    sender.send(Interrupt::Drain).await.unwrap();
    sender.send(Interrupt::Abort).await.unwrap();
    let began = Instant::now();
    let progress = drive(&[&["a", "b"]], &log, interrupts, obliging(&log)).await.unwrap();
    assert_eq!(progress.outcome, Some(Outcome::Interrupted));
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(progress.counts().in_flight, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_publish_ends_the_rollout_as_what_it_is() {
    let violation = Violation { operation: crate::bus::Operation::Publish, subject: "deploy.test.a".to_owned() };
    let refusing = |mut end: FleetEnd, _| async move {
        next_request(&mut end).await;
        end.events.send(FleetEvent::Refused(violation)).await.ok();
    };
    let error = drive(&[&["a"]], &Log::default(), nobody_interrupts(), refusing).await.unwrap_err();
    assert_eq!(error.to_string(), "this credential may not publish to deploy.test.a");
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_hosts_in_flight_are_asked_and_nobody_is_hurried() {
    let log = Log::default();
    let seen = log.clone();
    let network = move |mut end: FleetEnd, rollout: Arc<Rollout>| async move {
        let Some(first) = next_request(&mut end).await else { return };
        end.events.send(answer(&first, &rollout, Status::Started)).await.ok();
        end.events.send(FleetEvent::Input(Input::Connection(Connection::Down))).await.ok();
        // Nearly the whole timeout of a host.
        tokio::time::sleep(Duration::from_mins(29)).await;
        end.events.send(FleetEvent::Input(Input::Connection(Connection::Up))).await.ok();
        let Some(again) = next_request(&mut end).await else { return };
        seen.add(format!("asked again: {}", again.request.id == first.request.id));
        tokio::time::sleep(Duration::from_mins(29)).await;
        end.events.send(answer(&again, &rollout, Status::Completed)).await.ok();
    };
    let progress = drive(&[&["a"]], &log, nobody_interrupts(), network).await.unwrap();
    assert_eq!(
        progress.host(&"a".parse().unwrap()).unwrap().state,
        crate::rollout::summary::HostState::Final(HostOutcome::Completed)
    );
    insta::assert_snapshot!(log.text(), @r"
    recorded a
    asked again: true
    a completed
    ended Succeeded
    ");
}

#[tokio::test(start_paused = true)]
async fn what_was_said_while_the_process_was_stopped_counts() {
    let log = Log::default();
    let network = |mut end: FleetEnd, rollout: Arc<Rollout>| async move {
        let dispatch = next_request(&mut end).await.unwrap();
        // Like Ctrl-Z: the deadline passes, and a response that arrived before it is read only afterwards.
        tokio::time::advance(Duration::from_mins(1)).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        end.events.send(answer(&dispatch, &rollout, Status::Completed)).await.unwrap();
        while end.outbound.recv().await.is_some() {}
    };
    let progress = drive(&[&["a"]], &log, nobody_interrupts(), network).await.unwrap();
    assert_eq!(progress.outcome, Some(Outcome::Succeeded), "{}", log.text());
}
