//! CPU time and memory from `/proc` (proc(5)): of the gateway, and of every PostgreSQL process of the machine, because
//! the work a gateway leaves to its database is work.

use std::fs;

/// `USER_HZ`: 100 on every Linux there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuTime {
    /// By the gateway.
    pub gateway_s: f64,
    /// By all PostgreSQL processes, those that ended not counted.
    pub postgres_s: f64,
}

impl CpuTime {
    /// What has been used until now.
    pub fn now(gateway: u32, with_postgres: bool) -> Self {
        let gateway_s = stat_of(&gateway.to_string()).map_or(0.0, |(_, seconds)| seconds);
        let postgres_s = if with_postgres { of_all_named("postgres") } else { 0.0 };
        Self { gateway_s, postgres_s }
    }

    /// What was used since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            gateway_s: self.gateway_s - earlier.gateway_s,
            postgres_s: (self.postgres_s - earlier.postgres_s).max(0.0),
        }
    }
}

fn of_all_named(name: &str) -> f64 {
    let Ok(processes) = fs::read_dir("/proc") else { return 0.0 };
    processes
        .flatten()
        .filter_map(|entry| stat_of(entry.file_name().to_str()?))
        .filter(|(command, _)| command == name)
        .map(|(_, seconds)| seconds)
        .sum()
}

/// A process's command and the seconds of user and system time it used.
fn stat_of(pid: &str) -> Option<(String, f64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command stands in parentheses and may contain both blanks and parentheses.
    let (head, rest) = stat.rsplit_once(") ")?;
    let command = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split(' ').collect();
    // utime and stime are fields 14 and 15; the state, the first of `rest`, is field 3.
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some((command, ticks / TICKS_PER_SECOND))
}

/// The most memory the process ever held, bytes.
pub fn peak_memory_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}
