//! Looks at a run once a second, tells how it goes, and keeps what it saw for the plot.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering};

use tokio::{
    task::JoinHandle,
    time::{Duration, Instant, MissedTickBehavior, interval},
};

use crate::{
    ledger::Ledger,
    meter::{Memory, Meter},
};

/// What a second was like.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Seconds since the run began.
    pub at_s: f64,
    /// Answers 200 per second.
    pub acked: f64,
    /// Deliveries per second.
    pub delivered: f64,
    /// Memory at its end.
    pub memory: Memory,
}

#[derive(Debug, Default)]
struct Seen {
    samples: Vec<Sample>,
    phases: Vec<(f64, String)>,
}

/// A running sampler.
#[derive(Debug)]
pub struct Sampler {
    origin: Instant,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sampler {
    /// Starts looking.
    pub fn start(ledger: Arc<Ledger>, meter: Meter) -> Self {
        let (origin, seen) = (Instant::now(), Arc::new(Mutex::new(Seen::default())));
        let task = tokio::spawn(watch(origin, Arc::clone(&seen), ledger, meter));
        Self { origin, seen, task }
    }

    /// A phase begins.
    pub fn begin_phase(&self, name: &str) {
        let at = self.origin.elapsed().as_secs_f64();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).phases.push((at, name.to_owned()));
    }

    /// The most memory since a moment, and the mean.
    pub fn memory_since(&self, at: Instant) -> (f64, f64) {
        let from = at.saturating_duration_since(self.origin).as_secs_f64();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let of_phase: Vec<f64> = seen
            .samples
            .iter()
            .filter(|sample| sample.at_s >= from)
            .map(|sample| sample.memory.gateway as f64)
            .collect();
        let most = of_phase.iter().copied().fold(0.0, f64::max);
        (most, of_phase.iter().sum::<f64>() / of_phase.len().max(1) as f64)
    }

    /// Everything seen: samples, and when phases began.
    pub fn seen(&self) -> (Vec<Sample>, Vec<(f64, String)>) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.samples.clone(), seen.phases.clone())
    }
}

async fn watch(origin: Instant, seen: Arc<Mutex<Seen>>, ledger: Arc<Ledger>, meter: Meter) {
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seconds.tick().await;
    let counts = || {
        [&ledger.counts.acked, &ledger.counts.delivered, &ledger.counts.refused]
            .map(|count| count.load(Ordering::Relaxed) as f64)
    };
    let (mut before, mut then, mut cpu_before) = (counts(), Instant::now(), meter.cpu());
    loop {
        seconds.tick().await;
        let (now, cpu, memory, took) = (counts(), meter.cpu(), meter.memory(), then.elapsed().as_secs_f64());
        then = Instant::now();
        let rate = |at: usize| (now.get(at).unwrap_or(&0.0) - before.get(at).unwrap_or(&0.0)) / took;
        let sample = Sample { at_s: origin.elapsed().as_secs_f64(), acked: rate(0), delivered: rate(1), memory };
        let used = cpu.since(&cpu_before);
        let phase = {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.samples.push(sample);
            seen.phases.last().map(|(_, name)| name.clone()).unwrap_or_default()
        };
        if rate(0) + rate(1) + rate(2) > 0.0 {
            eprintln!(
                "  {:>5.0} s {phase}: {:.0} acked/s, {:.0} delivered/s, {:.0} refused/s; CPU {:.0} + {:.0} %; {} MiB",
                sample.at_s,
                rate(0),
                rate(1),
                rate(2),
                used.gateway_s / took * 100.0,
                used.postgres_s / took * 100.0,
                memory.gateway >> 20,
            );
        }
        before = now;
        cpu_before = cpu;
    }
}
