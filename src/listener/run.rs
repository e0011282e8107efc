//! A run on disk. The listener writes down what to do, the supervisor how far it is and how it ended; neither knows
//! the other in any other way.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Config;
use super::facts::Facts;
use super::output::clean;
use super::rebuild_flag::RebuildFlag;
use super::unit::UnitEnd;
use super::verdict::Verdict;
use crate::protocol::{
    Action, Commit, FlakeAttr, FlakeUrl, Holder, HostName, Phase, ReplySubject, Request, RequestId, Response, Revision,
};

/// The longest that a host waits to be confirmed, whatever it is asked for: it takes no other request meanwhile.
const LONGEST_CONFIRMATION: Duration = Duration::from_hours(1);

/// How much of the output is looked at to tell what went wrong, in bytes.
const TAIL_BYTES: u64 = 64 * 1024;

/// What to run, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// What makes two deliveries the same request.
    pub key: String,
    /// The id of the request, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<RequestId>,
    /// Where the answers go.
    pub reply_to: ReplySubject,
    /// What `nixos-rebuild` is asked to do.
    pub action: Action,
    /// What is deployed.
    pub revision: Revision,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The boot of the machine in which it was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The flake that is deployed.
    pub flake: FlakeUrl,
    /// The host.
    pub host: HostName,
    /// The name of its configuration in the flake, where it is not that of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attr: Option<FlakeAttr>,
    /// What is added to each call of `nixos-rebuild`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rebuild_flags: Vec<RebuildFlag>,
    /// Where the host's file system begins.
    pub root: PathBuf,
    /// How long the host waits to be confirmed once it has activated what was asked for, in milliseconds; then, and when
    /// that fails, it returns to what it ran before. Without it the host stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_timeout_ms: Option<u64>,
    /// Instead of a deployment: what the host is to return to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_to: Option<Box<ReturnTo>>,
    /// How long it may take, in milliseconds.
    pub timeout_ms: u64,
    /// How long it may take to end after it was asked to, in milliseconds.
    pub grace_ms: u64,
}

/// What a host is to return to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnTo {
    /// The run before which it was so.
    pub run: String,
    /// What was so.
    pub facts: Facts,
    /// The commit that ran then, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Commit>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResult {
    /// What that means.
    pub verdict: Verdict,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When it had ended.
    pub ended_at: Timestamp,
    /// What was so on the host at that time.
    pub after: Facts,
}

/// How long a run may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub timeout: Duration,
    /// To end after it was told to.
    pub grace: Duration,
}

impl Spec {
    /// What the request comes down to.
    pub(super) fn new(request: Request, config: &Config, accepted_at: Timestamp) -> Self {
        let confirm_timeout = request.confirm_timeout_s.map(Duration::from_secs);
        let confirm_timeout = confirm_timeout.map(|timeout| timeout.min(LONGEST_CONFIRMATION));
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            key: request.key().to_owned(),
            id: request.id,
            reply_to: request.reply_to,
            action: request.action,
            revision: request.revision,
            // Anyone's text, which is shown to others and logged.
            operator: request.operator.as_deref().map(clean),
            accepted_at,
            boot_id: None,
            flake: config.flake.clone(),
            host: config.hostname.clone(),
            attr: config.flake_attr.clone(),
            rebuild_flags: config.rebuild_flags.clone(),
            root: config.root.clone(),
            confirm_timeout_ms: confirm_timeout.map(milliseconds),
            return_to: None,
            timeout_ms: milliseconds(config.limits.timeout),
            grace_ms: milliseconds(config.limits.grace),
        }
    }

    /// The name of the host's configuration in `nixosConfigurations`.
    pub(super) fn configuration(&self) -> &str {
        self.attr.as_ref().map_or(self.host.as_str(), FlakeAttr::as_str)
    }

    /// The run as the reason why another one is refused.
    pub(super) fn holder(&self) -> Holder {
        Holder { id: self.key.clone(), operator: self.operator.clone(), since: self.accepted_at }
    }
}

/// The directory of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The run in this directory.
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the directory, durably, with what to run in it. The lock that comes back keeps everyone else from it.
    pub(super) fn create(&self, spec: &Spec) -> io::Result<File> {
        private_directory(&self.0)?;
        let lock = self.lock()?;
        self.clear()?;
        write_durably(&self.0.join("request.json"), &to_json(spec)?)?;
        sync_directory(self.0.parent().unwrap_or(&self.0))?;
        Ok(lock)
    }

    /// Removes what a run of the same key may have left that could not be read any more.
    fn clear(&self) -> io::Result<()> {
        let (output, previous) = self.output_files();
        let leftovers =
            ["phase", "commit", "before.json", "confirmed", "result.json", "unit.json", "final.json", "told"];
        let leftovers = leftovers.map(|name| self.0.join(name));
        for file in leftovers.into_iter().chain([output, previous]) {
            remove(&file)?;
        }
        Ok(())
    }

    /// Takes the lock of the run: its supervisor has it as long as the run goes on, and with it all that it starts. An
    /// error of the kind [`io::ErrorKind::WouldBlock`] means that someone else has it.
    pub(super) fn lock(&self) -> io::Result<File> {
        let file = self.lock_file()?;
        file.try_lock()?;
        Ok(file)
    }

    /// The same for the supervisor, which waits: whoever looks whether the run is in anybody's hands has the lock for a
    /// moment.
    pub(super) fn wait_for_lock(&self) -> io::Result<File> {
        let file = self.lock_file()?;
        file.lock()?;
        Ok(file)
    }

    fn lock_file(&self) -> io::Result<File> {
        File::create(self.0.join("lock"))
    }

    /// What to run.
    pub fn spec(&self) -> io::Result<Spec> {
        self.read("request.json")
    }

    /// Writes a file so that nobody reads half of it.
    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let (file, new) = (self.0.join(name), self.0.join(format!("{name}.new")));
        fs::write(&new, to_json(value)?)?;
        fs::rename(new, file)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<T> {
        Ok(serde_json::from_slice(&fs::read(self.0.join(name))?)?)
    }

    /// The file with the environment of the run, where it does not inherit one.
    pub(super) fn environment_file(&self) -> PathBuf {
        self.0.join("environment")
    }

    /// Writes the environment of the run down, for its owner's eyes only.
    pub(super) fn write_environment(&self, environment: &str) -> io::Result<()> {
        let mut file =
            File::options().create(true).write(true).truncate(true).mode(0o600).open(self.environment_file())?;
        file.write_all(environment.as_bytes())
    }

    /// Forgets the environment of a run that is over: it may hold secrets.
    pub(super) fn remove_environment(&self) -> io::Result<()> {
        remove(&self.environment_file())
    }

    /// Where the supervisor's own complaints go.
    pub(super) fn supervisor_log(&self) -> io::Result<File> {
        File::create(self.0.join("supervisor.log"))
    }

    /// The output of the program, and the part of it that was set aside to bound it.
    pub(super) fn output_files(&self) -> (PathBuf, PathBuf) {
        (self.0.join("output.log"), self.0.join("output.log.1"))
    }

    /// The last part of the output.
    pub(super) fn output_tail(&self) -> String {
        let (current, previous) = self.output_files();
        let mut tail = tail_of(&current, TAIL_BYTES);
        let room = TAIL_BYTES.saturating_sub(tail.len() as u64);
        if room > 0 {
            // The output may have been set aside just before the end.
            let mut before = tail_of(&previous, room);
            before.append(&mut tail);
            tail = before;
        }
        String::from_utf8_lossy(&tail).into_owned()
    }

    /// Notes what the run is at. Not durable: after a reboot nobody needs it.
    pub(super) fn write_phase(&self, phase: Phase) -> io::Result<()> {
        self.write("phase", &phase)
    }

    /// What the run is at.
    pub(super) fn phase(&self) -> Phase {
        self.read("phase").unwrap_or(Phase::Resolve)
    }

    /// Notes which commit the revision of the request stands for.
    pub(super) fn write_commit(&self, commit: &Commit) -> io::Result<()> {
        self.write("commit", commit)
    }

    /// The commit that is deployed, once it is known.
    pub(super) fn commit(&self) -> Option<Commit> {
        self.read("commit").ok()
    }

    /// Notes what was so on the host before the run, durably: it is what the host can return to.
    pub(super) fn write_before(&self, facts: &Facts) -> io::Result<()> {
        write_durably(&self.0.join("before.json"), &to_json(facts)?)
    }

    /// What was so on the host before the run; `None` when it did not get so far.
    pub(super) fn before(&self) -> Option<Facts> {
        self.read("before.json").ok()
    }

    /// Notes, durably, that the host was heard from after it activated what was asked for.
    pub(super) fn write_confirmed(&self) -> io::Result<()> {
        write_durably(&self.0.join("confirmed"), b"")
    }

    /// Whether the host was heard from.
    pub(super) fn is_confirmed(&self) -> bool {
        self.0.join("confirmed").exists()
    }

    /// Forgets that the host was heard from: that was before there was anything to confirm.
    pub(super) fn forget_confirmed(&self) -> io::Result<()> {
        remove(&self.0.join("confirmed"))
    }

    /// Notes how the run ended, durably.
    pub(super) fn write_result(&self, result: &RunResult) -> io::Result<()> {
        write_durably(&self.0.join("result.json"), &to_json(result)?)
    }

    /// How the run ended; `None` when it did not get to say so.
    pub(super) fn result(&self) -> Option<RunResult> {
        self.read("result.json").ok()
    }

    /// Notes how the unit of the run ended.
    pub(super) fn write_unit_end(&self, end: &UnitEnd) -> io::Result<()> {
        write_durably(&self.0.join("unit.json"), &to_json(end)?)
    }

    /// How the unit of the run ended; `None` when it has not, or when the run had none.
    pub(super) fn unit_end(&self) -> Option<UnitEnd> {
        self.read("unit.json").ok()
    }

    /// Whether the run, or its unit, has noted how it ended.
    pub(super) fn has_ended(&self) -> bool {
        ["result.json", "unit.json"].iter().any(|file| self.0.join(file).exists())
    }

    /// Whether it has been concluded. Whoever asks should have the lock.
    pub(super) fn is_concluded(&self) -> bool {
        ["result.json", "final.json"].iter().any(|file| self.0.join(file).exists())
    }

    /// Notes that the server has been given what the deployer is told in the end. Not durable: in doubt it is told again.
    pub(super) fn write_told(&self) -> io::Result<()> {
        fs::write(self.0.join("told"), "")
    }

    /// Whether the server has been given what the deployer is told in the end.
    pub(super) fn was_told(&self) -> bool {
        self.0.join("told").exists()
    }

    /// Notes what the deployer is told in the end, durably.
    pub(super) fn write_final(&self, response: &Response) -> io::Result<()> {
        write_durably(&self.0.join("final.json"), &to_json(response)?)
    }

    /// What the deployer is told in the end; `None` when the run was not concluded yet.
    pub(super) fn final_response(&self) -> io::Result<Option<Response>> {
        match self.read("final.json") {
            Ok(response) => Ok(Some(response)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Makes a directory that only its owner can look into: output may tell secrets. One that exists is fine.
pub(super) fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a file that may not be there.
fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a file so that after a power cut it is there whole or not at all.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_directory(path.parent().unwrap_or(path))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn to_json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

/// The last bytes of a file, at most so many; none when it cannot be read.
fn tail_of(path: &Path, bytes: u64) -> Vec<u8> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(bytes);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        file.take(bytes).read_to_end(&mut tail)?;
        Ok(tail)
    };
    read().unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests;
