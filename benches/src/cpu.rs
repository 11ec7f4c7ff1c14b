//! CPU time of a process, and pinning.

use std::fs;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Ticks of `/proc/<pid>/stat` in a second; Linux has 100 on every machine of today (`getconf CLK_TCK`).
const TICKS: u64 = 100;

/// User and system time of a process, all of its threads together.
pub(crate) fn time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name in parentheses, which may hold spaces: utime and stime are fields 14 and 15.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).unwrap().parse::<u64>().unwrap();
    Duration::from_millis((ticks(11) + ticks(12)) * 1000 / TICKS)
}

/// Keeps the calling thread, and threads that it starts, on one core, if the machine has it.
pub(crate) fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    // On a machine with one core the figures are still right, only slower to come.
    let _pinned = sched_setaffinity(None, &set);
}
