//! Starts a prepared rollout, as the flags say: previews it, asks, carries it out, recorded and displayed, and shows how
//! it ended.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use miette::Diagnostic;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::args::{DeployerArgs, OperatorArgs, hooks, switch};
use super::display::{Audience, Display, DisplayArgs, DisplayBarrier};
use super::out::{self, CommandError, CommandResult, Exit, SetupError, Stream};
use crate::bus::Bus;
use crate::clock;
use crate::operator::driver::Confirm;
use crate::operator::flake::Consent;
use crate::operator::journal::Journal;
use crate::operator::{Driver, Fleet, FleetTask, LogError, LogReader, Prepared};
use crate::plan::{Hooks, ResolvedWave};
use crate::protocol::{Action, RequestId, Sender, Tier};
use crate::report::{self, Document, Liveness};
use crate::rollout::summary::{HostProgress, HostState};
use crate::rollout::{
    Confirmation, HostOutcome, Interrupt, MAX_PREPARED, Machine, Outcome, Rollout, Summary, WaveIndex,
};
use crate::text::safe;

// What `apply`, `deploy` and `rollback` take.
#[derive(Debug, Args)]
pub(super) struct RolloutArgs {
    /// Start without asking
    #[arg(long, short, env = "HOMELAB_DEPLOY_YES", value_parser = switch)]
    pub(super) yes: bool,

    /// Start even if another operator's rollout is running; hosts that are busy with it reject this one
    #[arg(long, env = "HOMELAB_DEPLOY_FORCE", value_parser = switch)]
    force: bool,

    /// Deploy even if prod hosts run a later commit
    #[arg(long, env = "HOMELAB_DEPLOY_ALLOW_DOWNGRADE", value_parser = switch)]
    allow_downgrade: bool,

    #[arg(long, hide = true, default_value = "{}", value_parser = hooks)]
    pub(super) hooks: Hooks,

    #[command(flatten)]
    pub(super) display: DisplayArgs,

    #[command(flatten)]
    pub(super) deployer: DeployerArgs,
}

#[derive(Debug, Error, Diagnostic)]
#[error("the rollout has no record")]
#[diagnostic(help("it ended before anything was sent: start a new one"))]
pub(super) struct NothingRecorded;

/// Returns the preview of a rollout, in the style of this stream.
pub(super) fn preview(prepared: &Prepared, on: Stream) -> String {
    let Prepared { rollout, warnings, changes, .. } = prepared;
    report::emphasize(&report::preview(rollout, warnings, changes.as_ref(), out::size().columns), on.style())
}

/// Returns what a hook reads on its standard input: the JSON that `report --format json` prints.
fn for_hooks(summary: &Summary) -> String {
    let liveness = if summary.outcome.is_some() { Liveness::Over } else { Liveness::Running };
    Document::of(summary, liveness, clock::now()).map_or_else(String::new, |document| format!("{}\n", document.json()))
}

fn somebody_can_answer(audience: Audience) -> bool {
    audience == Audience::Person && io::stdin().is_terminal()
}

/// Returns how to ask whether a flake that hosts name may be contacted, or `None` if no person is at the terminal.
pub(super) fn ask_about_flake(audience: Audience) -> Option<Consent> {
    let is_there = somebody_can_answer(audience) && io::stderr().is_terminal();
    is_there.then_some(|question| Box::pin(async move { ask(question).await == Confirmation::Yes }))
}

/// Asks before each wave that needs confirmation, once everything before the question is shown. With JSON on stdout, or
/// without a terminal, nobody can be asked.
fn ask_before_wave(audience: Audience, display: DisplayBarrier) -> Confirm<'static> {
    Box::new(move |summary: &Summary, wave: WaveIndex| {
        if !somebody_can_answer(audience) {
            return Box::pin(async { Confirmation::Unavailable });
        }
        let waves = summary.rollout.iter().flat_map(|rollout| &rollout.plan.waves);
        let name = waves.map(|wave| wave.name.as_str()).nth(wave.0).unwrap_or_default();
        let question = format!("Start wave {wave} {name:?}?");
        let all_shown = display.wait();
        Box::pin(async {
            all_shown.await;
            ask(question).await
        })
    })
}

/// Asks a person. Only `yes` means yes.
async fn ask(question: String) -> Confirmation {
    let answer = spawn_blocking(move || {
        write!(io::stderr(), "{question} Only 'yes' is accepted: ")?;
        io::stderr().flush()?;
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line)?;
        io::Result::Ok((read > 0).then_some(line))
    });
    match answer.await {
        Ok(Ok(Some(line))) if line.trim() == "yes" => Confirmation::Yes,
        Ok(Ok(Some(_))) => Confirmation::No,
        // The terminal is gone or at its end, so nobody has answered.
        Ok(Ok(None) | Err(_)) | Err(_) => Confirmation::Unavailable,
    }
}

impl RolloutArgs {
    pub(super) const fn operator(&self) -> &OperatorArgs {
        &self.deployer.operator
    }

    pub(super) fn is_for_a_person(&self) -> bool {
        self.display.audience() == Audience::Person
    }

    /// Refuses to start while another operator's rollout runs, unless a flag allows it.
    pub(super) fn check_no_other_rollout(&self, prepared: &Prepared) -> Result<(), CommandError> {
        if self.force { Ok(()) } else { Ok(prepared.check_no_other_rollout()?) }
    }

    /// Refuses also to downgrade prod hosts, unless a flag allows it.
    pub(super) fn check(&self, prepared: &Prepared) -> Result<(), CommandError> {
        self.check_no_other_rollout(prepared)?;
        // Test hosts may be downgraded: they exist to try branches and go back.
        if self.allow_downgrade { Ok(()) } else { Ok(prepared.check_not_downgrade(&[Tier::Prod])?) }
    }

    /// Checks that somebody can be asked, if that will be needed, before any host is asked anything.
    pub(super) fn check_somebody_can_answer(&self) -> Result<(), CommandError> {
        if self.yes || somebody_can_answer(self.display.audience()) {
            return Ok(());
        }
        let help = "add --yes: with --json, and without a terminal, no question can be answered";
        Err(Exit::Usage.error("nobody can be asked whether to start", help))
    }

    /// Shows a rollout and these remarks on it, and asks whether to start it.
    pub(super) async fn may_start(&self, prepared: &Prepared, remarks: &str) -> bool {
        if self.is_for_a_person() {
            out::note(&format!("{}{remarks}", preview(prepared, Stream::Stderr)));
        }
        let may_start = self.yes || ask("Start this rollout?".to_owned()).await == Confirmation::Yes;
        if !may_start {
            out::note("Nothing was deployed.");
        }
        may_start
    }

    /// Starts a rollout and carries it out to its end. Nothing is sent that could not be recorded.
    pub(super) async fn begin(&self, bus: Bus, rollout: Rollout) -> Result<Machine, CommandError> {
        let journal = self.operator().state.journals().create(rollout.id)?;
        let machine = Machine::new(Arc::new(rollout), clock::now(), MAX_PREPARED);
        self.carry_out(bus, machine, Summary::default(), journal).await
    }

    /// Resumes a rollout where its journal ends, carries it out to its end, and shows how it ended.
    pub(super) async fn resume(&self, bus: Bus, recorded: Summary, journal: Journal) -> CommandResult {
        let machine = Machine::resume(recorded.clone(), clock::now(), MAX_PREPARED).ok_or(NothingRecorded)?;
        Ok(self.conclude(self.carry_out(bus, machine, recorded, journal).await?).await)
    }

    /// Carries the rollout out. `recorded` is its state before this process.
    async fn carry_out(
        &self,
        bus: Bus,
        mut machine: Machine,
        recorded: Summary,
        journal: Journal,
    ) -> Result<Machine, CommandError> {
        let (rollout, logs) = (machine.rollout(), self.display.logs_to_read());
        let fleet_task = FleetTask::subscribe(bus, rollout, self.operator().discovery(), logs).await?;
        let (interrupts, _listening) = listen_for_interrupts(self.operator().state.journals().stop_file(rollout.id))?;
        let (fleet, end) = Fleet::channels();
        let mut messages = JoinSet::new();
        messages.spawn(fleet_task.serve(end));
        let display = Display::start(&self.display, recorded);
        let confirm = ask_before_wave(self.display.audience(), display.barrier());
        let driver = Driver::new(fleet, Some(journal), vec![Box::new(display)], interrupts, confirm, for_hooks);
        let ended = driver.watching(logs).run(&mut machine).await;
        // The driver has dropped its channels, so the fleet task ends. It flushes the last messages before that.
        messages.join_all().await;
        let Err(error) = ended else { return Ok(machine) };
        if machine.state().hosts.iter().all(|host| host.request.is_none()) {
            return Err(error.into());
        }
        // Requests may have reached hosts.
        self.recap(machine.state());
        Err(Exit::Failed.with(error))
    }

    /// Shows how a rollout ended and what to do next, and returns the exit code.
    pub(super) async fn conclude(&self, ended: Machine) -> Exit {
        let state = ended.state();
        self.recap(state);
        if self.is_for_a_person() && ended.rollout().source.is_none() {
            // The process has caught its signals since the rollout began, so they would not end it now.
            let stop_file = self.operator().state.journals().stop_file(ended.rollout().id);
            if let Ok((mut interrupts, _listening)) = listen_for_interrupts(stop_file) {
                tokio::select! {
                    () = self.tell_what_would_be_done(state) => {}
                    _ = interrupts.recv() => {}
                    () = sleep(READ_LOGS_WITHIN) => {}
                }
            }
        }
        let exit = state.outcome.map_or(Exit::Failed, Exit::from);
        // The process exits now: dropping the state of a large fleet would only delay that.
        std::mem::forget(ended);
        exit
    }

    fn recap(&self, state: &Summary) {
        self.display.recap(state);
        let is_shown = self.is_for_a_person() && state.outcome != Some(Outcome::Succeeded);
        if let Some(rollout) = state.rollout.as_deref().filter(|_| is_shown) {
            out::note(&format!("  details:  homelab-deploy status {}", rollout.id.short()));
        }
    }

    /// Prints what each host would do, by its log. Unreadable logs are skipped, since the rollout itself succeeded.
    async fn tell_what_would_be_done(&self, state: &Summary) {
        let waves = state.rollout.iter().flat_map(|rollout| &rollout.plan.waves).enumerate();
        let runs = waves.filter(|(_, wave)| wave.action == Action::DryActivate).flat_map(|(index, wave)| {
            let hosts = state.hosts.iter().filter(move |host| host.wave.0 == index);
            hosts.filter_map(|view| run_to_read(view, wave))
        });
        let mut runs = runs.peekable();
        if runs.peek().is_none() {
            return;
        }
        let Ok(mut bus) = Bus::connect(&self.operator().settings()).await else { return };
        for (host, id) in runs {
            let name = host.host.clone();
            let log = match read(&mut bus, host, id).await {
                Ok(log) => log,
                Err(LogError::Unknown(..) | LogError::NotKept(..)) => continue,
                // The next host would be waited for just as long.
                Err(LogError::Silent(_) | LogError::Refused(_)) => return,
            };
            let lines = log.lines().filter(|line| line.starts_with(WOULD)).map(safe);
            let lines: Vec<String> = lines.map(|line| format!("  {name}  {line}")).collect();
            let nothing = || format!("  {name}  would change no unit");
            out::note(&if lines.is_empty() { nothing() } else { lines.join("\n") });
        }
    }
}

/// The beginning of each line in which `switch-to-configuration` says what it would do.
const WOULD: &str = "would ";

/// How long the logs of all hosts may take to read. A host decides how slowly it sends its own.
const READ_LOGS_WITHIN: Duration = Duration::from_mins(2);

/// A log is not read further once it has more bytes than this.
const MAX_LOG_BYTES: usize = 16 * 1024 * 1024;

/// Returns the run of a host that completed, if its listener serves logs.
fn run_to_read(view: &HostProgress, wave: &ResolvedWave) -> Option<(Sender, RequestId)> {
    let host = wave.hosts.get(view.index_in_wave).filter(|host| host.supports_log)?;
    let completed = view.state == HostState::Final(HostOutcome::Completed);
    let id = view.request.clone().filter(|_| completed)?;
    Some((Sender { tier: host.tier, host: host.hostname.clone() }, id))
}

async fn read(bus: &mut Bus, host: Sender, id: RequestId) -> Result<String, LogError> {
    let mut reader = LogReader::open(bus, host, id).await?;
    let (mut log, mut offset) = (String::new(), 0);
    loop {
        let page = reader.page(offset).await?;
        offset = page.next;
        log.push_str(&page.data);
        if page.end || page.data.is_empty() || log.len() > MAX_LOG_BYTES {
            return Ok(log);
        }
    }
}

/// How often to look for the stop file, by which another process stops this rollout.
const STOP_FILE_EVERY: Duration = Duration::from_secs(1);

/// Listens for what stops a rollout, until the tasks are dropped: signals, and a file that another process creates.
fn listen_for_interrupts(stop_file: PathBuf) -> Result<(mpsc::Receiver<Interrupt>, JoinSet<()>), SetupError> {
    let (sender, interrupts) = mpsc::channel(4);
    let mut tasks = JoinSet::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        tasks.spawn(forward_signal(kind, signal(kind).map_err(SetupError)?, sender.clone()));
    }
    tasks.spawn(forward_stop_file(stop_file, sender));
    Ok((interrupts, tasks))
}

/// Forwards a signal as an interrupt: the first Ctrl-C waits for the hosts in flight, the second leaves at once.
/// SIGTERM and SIGHUP wait as well: hosts whose activation nobody confirms would roll back, although they are healthy.
async fn forward_signal(kind: SignalKind, mut signal: Signal, interrupts: mpsc::Sender<Interrupt>) {
    let mut how = Interrupt::Drain;
    while signal.recv().await.is_some() && interrupts.send(how).await.is_ok() {
        if kind == SignalKind::interrupt() {
            how = Interrupt::Abort;
        }
    }
}

/// Forwards the stop file of `homelab-deploy abort`, which may run in another session or after this terminal is gone.
async fn forward_stop_file(stop_file: PathBuf, interrupts: mpsc::Sender<Interrupt>) {
    let mut looks = interval(STOP_FILE_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if std::fs::remove_file(&stop_file).is_ok() && interrupts.send(Interrupt::Drain).await.is_err() {
            return;
        }
    }
}
