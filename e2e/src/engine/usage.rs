//! What a process has used of CPU and memory, as the kernel counts it.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// A running process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    pid: i32,
}

impl Process {
    pub(super) fn of(pid: i32) -> Self {
        Self { pid }
    }

    /// CPU time of all its threads so far.
    pub(super) fn cpu(self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).context("the process has ended")?;
        let (_, fields) = stat.rsplit_once(')').context("a process has a name")?;
        // Fields 14 and 15 of the whole line, that of the state being the third.
        let mut ticks = fields.split_whitespace().skip(11);
        let mut tick =
            || ticks.next().and_then(|field| field.parse::<u64>().ok()).context("a process counts its ticks");
        let used = tick()? + tick()?;
        Ok(Duration::from_secs(1) * u32::try_from(used)? / u32::try_from(rustix::param::clock_ticks_per_second())?)
    }

    /// MiB that are in memory now.
    pub(super) fn memory_mib(self) -> Result<f64> {
        self.status("VmRSS:")
    }

    /// MiB that were in memory at most, since the start or since [`Self::forget_peak`].
    pub(super) fn peak_mib(self) -> Result<f64> {
        self.status("VmHWM:")
    }

    /// Measures the peak from here.
    pub(super) fn forget_peak(self) -> Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.pid), "5").context("the peak of memory cannot be reset")
    }

    fn status(self, field: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).context("the process has ended")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("a process counts its memory")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }
}
