//! One run of a scenario: its phases in order, and the figures they leave.
//!
//! **Invariants.** Nothing is prepared while a clock runs. CPU of a phase is counted from its first event until the
//! last of its deliveries, so that work put off is still work.

use std::{
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    beside,
    floor::FloorKind,
    gateway::Server,
    generator::{Generator, Nodes, Posted},
    goal::Figures,
    ledger::Book,
    meter::{CpuTime, Meter},
    pool::{Pool, PoolOf},
    sampler::{Sample, Sampler},
    scenario::{Beside, Destination, Ending, Floors, Phase, Scenario},
    stage::{Options, Stage},
};

const MIB: f64 = 1024.0 * 1024.0;
/// Requests to sign beforehand in a closed loop, by the second; what comes after is signed late.
const CLOSED_LOOP_PER_SECOND: f64 = 20_000.0;
/// Events each group is warmed up with.
const WARM_UP: Duration = Duration::from_millis(500);

/// What a run leaves.
#[derive(Debug)]
pub struct RunResult {
    /// Its figures.
    pub figures: Figures,
    /// Latencies by name, microseconds.
    pub curves: Vec<(String, Histogram<u64>)>,
    /// Its seconds.
    pub samples: Vec<Sample>,
    /// When its phases began, seconds.
    pub phases: Vec<(f64, String)>,
    /// What must never happen, and did.
    pub faults: Vec<String>,
}

struct Run<'s> {
    scenario: &'s Scenario,
    stage: Stage,
    sampler: Sampler,
    figures: Figures,
    curves: Vec<(String, Histogram<u64>)>,
    faults: Vec<String>,
}

/// A stream on its way.
struct Stream {
    generator: Generator,
    connections: usize,
}

/// Runs a scenario once.
pub async fn run_once(scenario: &Scenario, options: &Options) -> anyhow::Result<RunResult> {
    if scenario.postgres_only && options.postgres.is_none() {
        bail!("{} needs --postgres", scenario.name);
    }
    let (stage, took) = Stage::set(scenario, options).await?;
    let sampler = Sampler::start(Arc::clone(&stage.ledger), stage.meter.clone());
    let mut run = Run { scenario, stage, sampler, figures: Figures::new(), curves: Vec::new(), faults: Vec::new() };
    run.set("run", "first_start_ms", took.as_secs_f64() * 1000.0);
    run.set("run", "memory_idle_mb", run.stage.meter.memory().gateway as f64 / MIB);
    if let Some(floors) = &scenario.floors {
        for kind in &floors.kinds {
            run.floor(*kind, floors).await?;
        }
    }
    run.warm_up().await?;
    for phase in &scenario.phases {
        run.phase(phase).await.with_context(|| format!("phase {}; {}", phase.name, run.stage.last_words()))?;
    }
    run.close().await?;
    let (seconds, phases) = run.sampler.seen();
    let Run { stage, figures, curves, faults, .. } = run;
    stage.strike().await?;
    Ok(RunResult { figures, curves, samples: seconds, phases, faults })
}

impl Run<'_> {
    fn set(&mut self, of: &str, figure: &str, value: f64) {
        self.figures.insert(format!("{of}.{figure}"), value);
    }

    /// A floor, measured as the gateway is.
    async fn floor(&mut self, kind: FloorKind, floors: &Floors) -> anyhow::Result<()> {
        let name = format!("floor.{}", kind.name());
        self.sampler.begin_phase(&name);
        let server: Server = kind.start(self.stage.directory())?;
        let meter = Meter::new(None);
        meter.watch(server.pid());
        let phase = self.scenario.phases.first().context("no phase")?;
        let nodes = Arc::new(Nodes::new(vec![server.address]));
        let group = phase.tenants.as_deref().or(self.scenario.tenants.first().map(|group| group.name.as_str()));
        let stream = self.stream(&nodes, group.unwrap_or_default(), phase, floors.seconds, None, false)?;
        let stream = Stream { connections: floors.connections, ..stream };
        let (before, began) = (meter.cpu(), Instant::now());
        let book = Arc::clone(&stream.generator.book);
        let posted = stream.generator.starting_now(floors.seconds).run(stream.connections).await?;
        let took = began.elapsed().as_secs_f64();
        let used = meter.cpu().since(&before);
        self.set(&name, "acks_per_s", posted.acked as f64 / took);
        self.set(&name, "cpu_us_per_event", used.sum() * 1e6 / posted.acked.max(1) as f64);
        self.latencies(&name, "ack", &posted.latency_us);
        self.curves.push((name, posted.latency_us));
        // What a floor acknowledged is in no database.
        book.forget();
        server.stop(Ending::Kill).await?;
        std::fs::remove_file(self.stage.directory().join("floor.log")).ok();
        Ok(())
    }

    /// A stream of events of a group, ready to run.
    fn stream(
        &self,
        nodes: &Arc<Nodes>,
        group: &str,
        phase: &Phase,
        seconds: f64,
        rate: Option<f64>,
        bad_signatures: bool,
    ) -> anyhow::Result<Stream> {
        let tenants = self.scenario.group(group).context("no such tenants")?;
        let is_delivered = tenants.1.destination == Destination::Good;
        let book = self.stage.ledger.open(tenants.1.workspaces, is_delivered && !bad_signatures)?;
        let of = PoolOf {
            address: nodes.first().context("no node")?,
            stream: book.stream,
            events: &self.scenario.events,
            sizes: phase.sizes.as_deref().unwrap_or(&self.scenario.events.sizes),
            tenants,
            zipf: phase.zipf.unwrap_or(tenants.1.zipf),
            bad_signatures,
        };
        let copies = phase.copies as f64;
        let pool = Pool::prepare(of, (rate.unwrap_or(CLOSED_LOOP_PER_SECOND) * seconds / copies).ceil() as usize)?;
        let generator = Generator {
            nodes: Arc::clone(nodes),
            pool: Arc::new(pool),
            ledger: Arc::clone(&self.stage.ledger),
            book,
            start: Instant::now(),
            rate,
            until: Instant::now(),
            stop: Arc::new(AtomicBool::new(false)),
            copies: phase.copies as u64,
        };
        Ok(Stream { generator, connections: phase.connections })
    }

    /// A few events of everybody, so that no phase pays for what happens once.
    async fn warm_up(&mut self) -> anyhow::Result<()> {
        self.sampler.begin_phase("warm-up");
        let phase = self.scenario.phases.first().context("no phase")?.clone();
        let nodes = Arc::new(self.stage.nodes());
        for tenants in &self.scenario.tenants {
            let mut stream = self.stream(&nodes, &tenants.name, &phase, 0.0, None, false)?;
            stream.generator.copies = 1;
            let book = Arc::clone(&stream.generator.book);
            let posted = stream.generator.starting_now(WARM_UP.as_secs_f64()).run(4).await?;
            if posted.acked == 0 {
                bail!("{} is not served: {:?}; {}", tenants.name, posted.refused, self.stage.last_words());
            }
            if book.is_delivered() {
                book.wait_for_all(Duration::from_mins(1)).await;
            }
        }
        Ok(())
    }

    /// What has to be done to the store before a phase.
    async fn prepare(&mut self, phase: &Phase) -> anyhow::Result<()> {
        let seeds = phase.stored_events.is_some() || phase.open_deliveries.is_some();
        let store = phase.store.as_deref();
        let stays = self.stage.store() == store;
        if stays && !seeds && phase.restart.is_none() {
            return Ok(());
        }
        self.stage.stop(phase.restart.unwrap_or(Ending::Term)).await?;
        if !stays && self.stage.change_store(self.scenario, store).await? {
            self.stage.start(1).await?;
            self.warm_up().await?;
            self.stage.stop(Ending::Term).await?;
        }
        if let Some(count) = phase.stored_events {
            self.stage.database_mut().seed_events(count).await?;
        }
        if let Some(count) = phase.open_deliveries {
            self.stage.database_mut().seed_open_deliveries(count).await?;
        }
        let took = self.stage.start(self.scenario.nodes).await?;
        self.set(&phase.name, "start_ms", took.as_secs_f64() * 1000.0);
        Ok(())
    }

    async fn phase(&mut self, phase: &Phase) -> anyhow::Result<()> {
        self.prepare(phase).await?;
        let rate = match &phase.rate_of {
            None => phase.rate,
            Some(of) => {
                let reached = self.figures.get(&format!("{}.acks_per_s", of.phase)).context("no rate was reached")?;
                Some(reached * of.times)
            }
        };
        let nodes = Arc::new(self.stage.nodes());
        let main = phase.tenants.as_deref();
        let main = main.map(|name| self.stream(&nodes, name, phase, phase.seconds, rate, phase.bad_signatures));
        let main = main.transpose()?;
        let (mut burdens, mut others, stop) = (Vec::new(), JoinSet::new(), Arc::new(AtomicBool::new(false)));
        let mut other_books = Vec::new();
        let address = nodes.first().context("no node")?;
        for beside in &phase.beside {
            match beside {
                Beside::Events { tenants, rate, connections }
                | Beside::BadSignatures { tenants, rate, connections } => {
                    let is_bad = matches!(beside, Beside::BadSignatures { .. });
                    let mut stream = self.stream(&nodes, tenants, phase, phase.seconds, Some(*rate), is_bad)?;
                    stream.generator.copies = 1;
                    stream.generator.stop = Arc::clone(&stop);
                    other_books.push(Arc::clone(&stream.generator.book));
                    others.spawn(stream.generator.starting_now(phase.seconds).run(*connections));
                }
                Beside::Slowloris { connections, part } => burdens.push(beside::slow(address, *connections, *part)),
                Beside::Idle { connections } => burdens.push(beside::idle(address, *connections).await),
            }
        }
        self.sampler.begin_phase(&phase.name);
        let (before, began) = (self.stage.meter.cpu(), Instant::now());
        if let Some(stream) = main {
            let book = Arc::clone(&stream.generator.book);
            let body_bytes = stream.generator.pool.body_bytes();
            let pool = Arc::clone(&stream.generator.pool);
            let posting = tokio::spawn(stream.generator.starting_now(phase.seconds).run(stream.connections));
            if let Some(kill) = &phase.kill {
                tokio::time::sleep(Duration::from_secs_f64(phase.seconds * kill.at)).await;
                self.stage.kill(kill.node).await?;
            }
            let posted = posting.await??;
            let posting_took = began.elapsed();
            let posting_cpu = self.stage.meter.cpu().since(&before);
            stop.store(true, Ordering::Relaxed);
            let drained = !book.is_delivered() || book.wait_for_all(Duration::from_secs_f64(phase.drain_seconds)).await;
            let cpu = self.stage.meter.cpu().since(&before);
            self.set(&phase.name, "body_bytes", body_bytes);
            self.set(&phase.name, "signed_late", pool.signed_late() as f64);
            let took = (posting_took, began.elapsed());
            self.figures_of_posting(phase, &book, posted, took, (posting_cpu, cpu), drained);
        } else {
            tokio::time::sleep(Duration::from_secs_f64(phase.seconds)).await;
            let used = self.stage.meter.cpu().since(&before);
            self.set(&phase.name, "cpu_percent", used.sum() * 100.0 / phase.seconds.max(0.001));
        }
        stop.store(true, Ordering::Relaxed);
        while let Some(posted) = others.join_next().await {
            posted??;
        }
        drop(burdens);
        for book in other_books.iter().filter(|book| book.is_delivered()) {
            book.wait_for_all(Duration::from_secs_f64(phase.drain_seconds)).await;
        }
        let now = self.stage.meter.memory();
        let (most, mean) = self.sampler.memory_since(began);
        self.set(&phase.name, "memory_peak_mb", most.max(now.gateway as f64) / MIB);
        self.set(&phase.name, "memory_mean_mb", if mean > 0.0 { mean } else { now.gateway as f64 } / MIB);
        self.set(&phase.name, "memory_postgres_mb", now.postgres as f64 / MIB);
        Ok(())
    }

    fn figures_of_posting(
        &mut self,
        phase: &Phase,
        book: &Book,
        posted: Posted,
        (posting_took, whole_took): (Duration, Duration),
        (posting_cpu, cpu): (CpuTime, CpuTime),
        drained: bool,
    ) {
        let name = phase.name.as_str();
        let acked = book.acked().max(1) as f64;
        let requests = posted.acked + posted.refused_in_all();
        if requests == 0 || (posted.acked == 0 && !phase.bad_signatures) {
            self.faults.push(format!("{name}: nothing was acknowledged: {:?}", posted.refused));
        }
        if phase.bad_signatures && posted.acked > 0 {
            self.faults.push(format!("{name}: {} wrongly signed webhooks were accepted", posted.acked));
        }
        let seconds = posting_took.as_secs_f64();
        self.set(name, "acks", posted.acked as f64);
        self.set(name, "acks_per_s", posted.acked as f64 / seconds);
        self.set(name, "requests_per_s", requests as f64 / seconds);
        self.set(name, "refused", posted.refused_in_all() as f64);
        for (status, count) in &posted.refused {
            self.set(name, &format!("refused_{status}"), *count as f64);
        }
        self.set(name, "failed_over", posted.failed_over as f64);
        self.latencies(name, "ack", &posted.latency_us);
        for (figure, seconds) in [
            ("cpu_us_per_event", cpu.sum()),
            ("gateway_cpu_us_per_event", cpu.gateway_s),
            ("postgres_cpu_us_per_event", cpu.postgres_s),
            ("cpu_us_per_event_while_posting", posting_cpu.sum()),
        ] {
            // Where nothing is accepted there is no event to divide by.
            if posted.acked > 0 {
                self.set(name, figure, seconds * 1e6 / acked);
            }
        }
        self.set(name, "cpu_s_per_1000_requests", cpu.sum() * 1e3 / requests.max(1) as f64);
        self.set(name, "cpu_us_per_request", cpu.sum() * 1e6 / requests.max(1) as f64);
        self.curves.push((format!("{name}: ack"), posted.latency_us));
        if book.is_delivered() {
            let end_to_end = book.end_to_end();
            self.set(name, "delivered", book.delivered() as f64);
            self.set(name, "deliveries_per_s", book.delivered() as f64 / whole_took.as_secs_f64());
            self.set(name, "drain_s", whole_took.saturating_sub(posting_took).as_secs_f64());
            self.set(name, "drained", f64::from(u8::from(drained)));
            self.latencies(name, "e2e", &end_to_end);
            self.curves.push((format!("{name}: end to end"), end_to_end));
        }
    }

    fn latencies(&mut self, of: &str, what: &str, histogram: &Histogram<u64>) {
        for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999)] {
            self.set(of, &format!("{what}_{name}_ms"), histogram.value_at_quantile(quantile) as f64 / 1000.0);
        }
        self.set(of, &format!("{what}_max_ms"), histogram.max() as f64 / 1000.0);
    }

    /// What can be said only of the whole run.
    async fn close(&mut self) -> anyhow::Result<()> {
        let memory = self.sampler.seen().0.iter().map(|sample| sample.memory.gateway).max().unwrap_or(0);
        self.set("run", "memory_peak_mb", memory as f64 / MIB);
        self.stage.stop(Ending::Kill).await?;
        let books = self.stage.ledger.books();
        let sum = |of: fn(&Book) -> u64| books.iter().map(|book| of(book)).sum::<u64>();
        let (acked, lost, repeated, renamed) =
            (sum(Book::acked), sum(Book::lost), sum(Book::repeated), sum(Book::renamed));
        let sizes = self.stage.sizes().await?;
        let missing = acked.saturating_sub(sizes.count as u64);
        // A slow destination's too: the last of them arrive long after anybody would wait for them.
        let unserved = self.scenario.tenants.iter().filter(|tenants| tenants.destination != Destination::Good);
        let unserved: Vec<&str> = unserved.map(|tenants| tenants.name.as_str()).collect();
        let in_rows = self.stage.count_deliveries_of(&unserved).await?;
        let missing_deliveries = self.stage.ledger.due_in_rows().saturating_sub(in_rows);
        for (figure, value) in [
            ("acked_events", acked as f64),
            ("lost", lost as f64),
            ("repeated", repeated as f64),
            ("missing_rows", missing as f64),
            ("missing_deliveries", missing_deliveries as f64),
            ("stored_events", sizes.count),
            ("database_mb", sizes.all / MIB),
            ("disk_ratio", sizes.events / sizes.payloads.max(1.0)),
            ("disk_ratio_with_everything", sizes.all / sizes.payloads.max(1.0)),
            ("payload_bytes_per_event", sizes.payloads / sizes.count.max(1.0)),
            ("event_bytes_per_event", sizes.events / sizes.count.max(1.0)),
            ("event_index_bytes_per_event", sizes.event_indexes / sizes.count.max(1.0)),
            ("index_bytes_per_event", sizes.indexes / sizes.count.max(1.0)),
        ] {
            self.set("run", figure, value);
        }
        if lost > 0 {
            self.faults.push(format!("LOST: {lost} deliveries of acknowledged events did not arrive"));
        }
        if missing > 0 {
            self.faults.push(format!("LOST: {missing} acknowledged events are not in the database"));
        }
        if missing_deliveries > 0 {
            let text = "deliveries of acknowledged events are not in the database";
            self.faults.push(format!("LOST: {missing_deliveries} {text}"));
        }
        if renamed > 0 {
            self.faults.push(format!("{renamed} repeated deliveries came under another webhook-id"));
        }
        Ok(())
    }
}
