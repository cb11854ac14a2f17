//! What processes use, from `/proc` (proc(5)).

use std::fs;
use std::ops::Sub;
use std::time::Duration;

/// Processor time, in steps of 10 ms, and context switches of some processes so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu: Duration,
    pub switches: u64,
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            switches: self.switches.saturating_sub(earlier.switches),
        }
    }
}

/// A process and its children, for programs with workers.
pub fn tree(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    std::iter::once(pid).chain(children.flat_map(tree)).collect()
}

/// What they have used.
pub fn usage(pids: &[u32]) -> Usage {
    let mut usage = Usage::default();
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name, which may hold anything: state, ten numbers, then user and kernel time in ticks of 10 ms.
        let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields
            .skip(11)
            .take(2)
            .filter_map(|n| n.parse::<u64>().ok())
            .sum();
        usage.cpu += Duration::from_millis(10 * ticks);
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten();
        for task in tasks {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            usage.switches += number(&status, "voluntary_ctxt_switches:");
            usage.switches += number(&status, "nonvoluntary_ctxt_switches:");
        }
    }
    usage
}

/// Resident memory in MiB. Pages that processes share count once each: what the machine gives is less.
pub fn resident(pids: &[u32]) -> f64 {
    let kib: u64 = pids
        .iter()
        .map(|pid| {
            number(
                &fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default(),
                "VmRSS:",
            )
        })
        .sum();
    kib as f64 / 1024.0
}

fn number(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next())
        .and_then(|n| n.parse().ok())
        .unwrap_or_default()
}
