//! CPU time and memory from `/proc` (proc(5)): of the processes under test, and of a PostgreSQL server on this machine,
//! because the work a gateway leaves to its database is work.
//!
//! **Invariants.** What a process used until it was last looked at counts after it has ended.

use std::{
    collections::{HashMap, HashSet},
    fs,
    sync::{Arc, Mutex, PoisonError},
};

/// `USER_HZ`: 100 on every Linux there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuTime {
    /// By the processes under test.
    pub gateway_s: f64,
    /// By the server's processes.
    pub postgres_s: f64,
}

impl CpuTime {
    /// What was used since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self { gateway_s: self.gateway_s - earlier.gateway_s, postgres_s: self.postgres_s - earlier.postgres_s }
    }

    /// Both.
    pub fn sum(&self) -> f64 {
        self.gateway_s + self.postgres_s
    }
}

/// Bytes held now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Resident, of the largest process under test.
    pub gateway: u64,
    /// The server's own, of all its processes, and what they share once.
    pub postgres: u64,
}

/// Looks at processes.
#[derive(Debug, Clone)]
pub struct Meter(Arc<Mutex<Watched>>);

#[derive(Debug, Default)]
struct Watched {
    gateways: HashSet<u32>,
    postmaster: Option<u32>,
    gateway_s: HashMap<u32, f64>,
    postgres_s: HashMap<u32, f64>,
}

impl Meter {
    /// Watches the server whose first process that is, besides those named later.
    pub fn new(postmaster: Option<u32>) -> Self {
        Self(Arc::new(Mutex::new(Watched { postmaster, ..Watched::default() })))
    }

    /// Watches a process under test too.
    pub fn watch(&self, pid: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).gateways.insert(pid);
    }

    /// What has been used until now.
    pub fn cpu(&self) -> CpuTime {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = &mut *watched;
        for pid in &watched.gateways {
            if let Some(stat) = Stat::of(*pid) {
                watched.gateway_s.insert(*pid, stat.cpu_s);
            }
        }
        for pid in watched.postmaster.map(family).unwrap_or_default() {
            if let Some(stat) = Stat::of(pid) {
                watched.postgres_s.insert(pid, stat.cpu_s);
            }
        }
        CpuTime { gateway_s: watched.gateway_s.values().sum(), postgres_s: watched.postgres_s.values().sum() }
    }

    /// What is held now.
    pub fn memory(&self) -> Memory {
        let watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gateway = watched.gateways.iter().map(|pid| status_bytes(*pid, "VmRSS:")).max().unwrap_or(0);
        let family = watched.postmaster.map(family).unwrap_or_default();
        let own: u64 = family.iter().map(|pid| status_bytes(*pid, "RssAnon:")).sum();
        let shared = family.iter().map(|pid| status_bytes(*pid, "RssShmem:")).max().unwrap_or(0);
        Memory { gateway, postgres: own + shared }
    }
}

/// A process and its children.
fn family(parent: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid == parent || Stat::of(*pid).is_some_and(|stat| stat.parent == parent)).collect()
}

/// The parent of a process of that command; `None` if there is none of that id and command here.
pub fn parent_of(pid: u32, command: &str) -> Option<u32> {
    Stat::of(pid).filter(|stat| stat.command == command).map(|stat| stat.parent)
}

#[derive(Debug, PartialEq)]
struct Stat {
    command: String,
    parent: u32,
    cpu_s: f64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The command stands in parentheses and may contain both blanks and parentheses.
        let (head, rest) = stat.rsplit_once(") ")?;
        let command = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split(' ').collect();
        // The state, the first of `rest`, is field 3; ppid is 4, utime and stime are 14 and 15.
        let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        Some(Self { command, parent: fields.get(1)?.parse().ok()?, cpu_s: ticks / TICKS_PER_SECOND })
    }
}

/// A line of `/proc/<pid>/status` that counts kB, in bytes.
fn status_bytes(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// What this machine is, in a line.
pub fn machine() -> String {
    let read = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
        line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1_048_576.0;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, {}, {memory:.0} GiB, Linux {}", read("/proc/cpuinfo", "model name"), kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_blanks_and_parentheses_is_no_trouble() {
        let stat = "77 (a (b) c) S 5 77 77 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 100 1000 10 0";
        assert_eq!(Stat::parse(stat), Some(Stat { command: "a (b) c".into(), parent: 5, cpu_s: 2.0 }));
        assert_eq!(Stat::parse("77 (a"), None);
    }

    #[test]
    fn this_process_is_seen_and_stays_counted() {
        let meter = Meter::new(None);
        meter.watch(std::process::id());
        assert!(meter.memory().gateway > 1 << 20);
        let before = meter.cpu();
        assert!(meter.cpu().since(&before).sum() >= 0.0);
        assert!(before.gateway_s >= 0.0 && before.postgres_s.abs() < f64::EPSILON);
    }
}
