//! The figures of a run, for people and for machines.

use std::{fmt::Write, time::Duration};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{Args, cpu::CpuTime, generator::Posted};

/// A run's figures.
#[derive(Debug)]
pub struct Report {
    /// What was posted and how it was answered.
    pub posted: Posted,
    /// Requests that repeated an earlier body.
    pub reused_bodies: u64,
    /// From the start to the last answer.
    pub posting_took: Duration,
    /// CPU used by then.
    pub posting_cpu: CpuTime,
    /// Deliveries the acknowledged events should become; 0 when nothing is sent.
    pub due: u64,
    /// Whether they all arrived in time.
    pub drained: bool,
    /// From the start to the last delivery.
    pub delivering_took: Duration,
    /// Deliveries that arrived.
    pub delivered: u64,
    /// Arrivals of a delivery that had arrived before.
    pub repeated: u64,
    /// Deliveries of acknowledged events that did not arrive.
    pub lost: u64,
    /// Microseconds from due or sent to the arrival at the sink.
    pub end_to_end: Option<Histogram<u64>>,
    /// CPU used by the time everything was delivered.
    pub whole_cpu: CpuTime,
    /// The most memory the gateway held, bytes.
    pub peak_memory_bytes: u64,
    /// Size of the SQLite database with its log at the end, bytes.
    pub database_bytes: u64,
}

impl Report {
    /// Whether every acknowledged event reached everybody it should.
    pub fn nothing_lost(&self) -> bool {
        self.lost == 0 && self.posted.acked > 0
    }

    fn acks_per_s(&self) -> f64 {
        self.posted.acked as f64 / self.posting_took.as_secs_f64().max(0.001)
    }

    fn deliveries_per_s(&self) -> f64 {
        self.delivered as f64 / self.delivering_took.as_secs_f64().max(0.001)
    }

    fn cpu_s_per_1000_events(&self, cpu: CpuTime) -> f64 {
        (cpu.gateway_s + cpu.postgres_s) * 1000.0 / (self.posted.acked.max(1) as f64)
    }

    /// For machines; times in milliseconds.
    pub fn to_json(&self, args: &Args) -> Value {
        json!({
            "settings": {
                "loop": args.rate.map_or_else(|| json!("closed"), |rate| json!({"open_per_s": rate})),
                "connections": args.connections, "seconds": args.seconds, "body_bytes": args.body,
                "workspaces": args.workspaces, "ack_only": args.ack_only,
                "database": if args.postgres.is_some() { "postgres" } else { "sqlite" },
                "gateway_settings": args.settings,
                "cores": std::thread::available_parallelism().map_or(0, usize::from),
            },
            "acks": {
                "count": self.posted.acked, "per_s": self.acks_per_s(), "latency_ms": quantiles(&self.posted.latency_us),
                "refused": self.posted.refused, "reused_bodies": self.reused_bodies,
            },
            "deliveries": {
                "due": self.due, "count": self.delivered, "per_s": self.deliveries_per_s(), "lost": self.lost,
                "repeated": self.repeated, "all_in_time": self.drained,
                "end_to_end_ms": self.end_to_end.as_ref().map(quantiles),
                "drain_s": self.delivering_took.saturating_sub(self.posting_took).as_secs_f64(),
            },
            "cpu": {
                "gateway_s": self.whole_cpu.gateway_s, "postgres_s": self.whole_cpu.postgres_s,
                "s_per_1000_events": self.cpu_s_per_1000_events(self.whole_cpu),
                "s_per_1000_events_while_posting": self.cpu_s_per_1000_events(self.posting_cpu),
            },
            "peak_memory_bytes": self.peak_memory_bytes,
            "database_bytes": self.database_bytes,
        })
    }

    /// For people.
    pub fn to_text(&self, args: &Args) -> String {
        let mut text = String::new();
        let mode = args.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("open loop, {rate}/s"));
        let database = if args.postgres.is_some() { "PostgreSQL" } else { "SQLite" };
        let mut line = |name: &str, value: String| {
            // Writing to a string does not fail.
            writeln!(text, "{name:<12}{value}").ok();
        };
        line(
            "run",
            format!(
                "{mode}, {} connections, {} s, {} byte bodies, {database}",
                args.connections, args.seconds, args.body
            ),
        );
        line("acks", format!("{} = {:.0}/s; {}", self.posted.acked, self.acks_per_s(), shown(&self.posted.latency_us)));
        if !self.posted.refused.is_empty() {
            line("refused", format!("{:?} (status: count; 0 is no answer)", self.posted.refused));
        }
        if self.reused_bodies > 0 {
            line("", format!("{} requests repeated an earlier body (raise --pool-megabytes)", self.reused_bodies));
        }
        if !args.ack_only {
            let drain = self.delivering_took.saturating_sub(self.posting_took).as_secs_f64();
            line(
                "deliveries",
                format!(
                    "{} of {} = {:.0}/s; the last {drain:.2} s after the last ack",
                    self.delivered,
                    self.due,
                    self.deliveries_per_s()
                ),
            );
            if let Some(end_to_end) = &self.end_to_end {
                line("end to end", shown(end_to_end));
            }
            let verdict = if self.lost == 0 { "acknowledged = delivered" } else { "LOST" };
            line("ledger", format!("{verdict}; lost {}, repeated {}", self.lost, self.repeated));
        }
        line(
            "CPU",
            format!(
                "{:.2} s gateway + {:.2} s PostgreSQL = {:.0} µs per event ({:.0} µs while posting)",
                self.whole_cpu.gateway_s,
                self.whole_cpu.postgres_s,
                self.cpu_s_per_1000_events(self.whole_cpu) * 1000.0,
                self.cpu_s_per_1000_events(self.posting_cpu) * 1000.0,
            ),
        );
        let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
        line("memory", format!("{:.0} MiB at the most", mib(self.peak_memory_bytes)));
        if args.postgres.is_none() {
            let share = self.database_bytes as f64 / (self.posted.acked.max(1) as f64 * args.body.max(1) as f64);
            line("disk", format!("{:.0} MiB = {share:.2} × the bodies", mib(self.database_bytes)));
        }
        text
    }
}

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

fn quantiles(histogram: &Histogram<u64>) -> Value {
    let of = |us: u64| json!(us as f64 / 1000.0);
    let mut all: serde_json::Map<String, Value> = QUANTILES
        .iter()
        .map(|(name, quantile)| ((*name).to_owned(), of(histogram.value_at_quantile(*quantile))))
        .collect();
    all.insert("max".to_owned(), of(histogram.max()));
    Value::Object(all)
}

fn shown(histogram: &Histogram<u64>) -> String {
    let ms = |us: u64| us as f64 / 1000.0;
    let quantiles =
        QUANTILES.map(|(name, quantile)| format!("{name} {:.1}", ms(histogram.value_at_quantile(quantile))));
    format!("{}, max {:.1} ms", quantiles.join(", "), ms(histogram.max()))
}
