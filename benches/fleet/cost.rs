//! Measures the cost of a process, as counted by the kernel.

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

/// The cost of a process from its start to its exit.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Cost {
    pub success: bool,
    /// Wall-clock time.
    pub process: Duration,
    /// Processor time, in user and kernel mode.
    pub cpu: Duration,
    /// The peak of its memory, in KiB.
    pub peak_kib: u32,
    /// When the process had exited.
    pub ended_at: Timestamp,
}

/// Runs a program and writes its cost to `report`.
///
/// The kernel sums up all children of a process, so each measured program has its own parent. It also counts the memory
/// of the parent before the child calls `exec`, so the parent is small.
pub fn pay(report: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let began = Instant::now();
    // Outside of any clone: the time of git is not to be measured.
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
