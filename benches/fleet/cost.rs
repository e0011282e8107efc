//! What a process costs, as the kernel counts it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use homelab_deploy::clock;
use jiff::Timestamp;
use miette::{IntoDiagnostic, Result, WrapErr};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

/// What one process cost from its start to its end.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Cost {
    /// Whether it succeeded.
    pub success: bool,
    /// Its life.
    pub process: Duration,
    /// Its time on a processor, in user and kernel mode.
    pub cpu: Duration,
    /// The most memory that it held, in KiB.
    pub peak_kib: u32,
    /// When it was gone.
    pub ended_at: Timestamp,
}

/// Runs a program and writes what it cost to `report`.
///
/// The kernel sums up the children of a process, so each measured program has a parent of its own; and it counts what the
/// parent held before the child became another program, so that parent is small.
pub fn pay(report: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let began = Instant::now();
    // Outside of any clone: what git takes to tell of commits is not what is measured.
    let status = Command::new(program).args(arguments).current_dir("/").status();
    let status = status.into_diagnostic().wrap_err_with(|| format!("cannot run {program}"))?;
    let (process, ended_at) = (began.elapsed(), clock::now());
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).into_diagnostic()?;
    let cpu = usage.user_time() + usage.system_time();
    let cpu = Duration::from_micros(u64::try_from(cpu.num_microseconds()).into_diagnostic()?);
    let cost = Cost {
        success: status.success(),
        process,
        cpu,
        peak_kib: u32::try_from(usage.max_rss()).into_diagnostic()?,
        ended_at,
    };
    fs::write(report, serde_json::to_vec(&cost).into_diagnostic()?).into_diagnostic()
}
