//! The figures of some runs, for people and for machines.
//!
//! **Invariants.** Goals are judged by medians. A run with a fault is a failure, however fast it was.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::{
    goal::{DatabaseKind, Figures, Goal, shown, spread_of},
    meter,
    run::RunResult,
    scenario::Scenario,
};

/// What is known of the circumstances.
#[derive(Debug, Clone)]
pub struct Circumstances {
    /// The database.
    pub database: DatabaseKind,
    /// What was typed, as far as it says something elsewhere too.
    pub command: String,
    /// The commit of the sources, if they are in a repository.
    pub commit: String,
    /// When, RFC 3339.
    pub at: String,
}

impl Circumstances {
    /// Those of now.
    pub fn now(database: DatabaseKind, command: String) -> Self {
        Self {
            database,
            command,
            commit: commit(),
            at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}

/// The commit of the sources this was built from, as far as one can tell.
pub fn commit() -> String {
    let asked = std::process::Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--abbrev=9"])
        .stderr(std::process::Stdio::null())
        .output();
    let said = asked.ok().filter(|output| output.status.success()).map(|output| output.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    if said.is_empty() { "unknown".to_owned() } else { said }
}

/// Several runs of one scenario.
#[derive(Debug)]
pub struct Report<'s> {
    /// What ran.
    pub scenario: &'s Scenario,
    /// On what.
    pub circumstances: Circumstances,
    /// How often, and what came out.
    pub runs: Vec<RunResult>,
}

/// A goal and how it went.
#[derive(Debug)]
pub struct Verdict<'s> {
    /// The goal.
    pub goal: &'s Goal,
    /// Its value by the medians.
    pub value: Option<f64>,
    /// Whether it is met.
    pub is_met: bool,
}

impl Report<'_> {
    /// Medians.
    pub fn medians(&self) -> Figures {
        let runs: Vec<Figures> = self.runs.iter().map(|run| run.figures.clone()).collect();
        spread_of(&runs).into_iter().map(|(name, spread)| (name, spread.median)).collect()
    }

    /// What must never happen, and did.
    pub fn faults(&self) -> Vec<&str> {
        self.runs.iter().flat_map(|run| run.faults.iter().map(String::as_str)).collect()
    }

    /// The goals that apply, judged. A ratio is judged as the median of the runs' ratios.
    pub fn verdicts(&self) -> Vec<Verdict<'_>> {
        let applies = |goal: &&Goal| goal.database.is_none_or(|database| database == self.circumstances.database);
        let judge = |goal| {
            let values = self.runs.iter().filter_map(|run| {
                let value = Goal::value(goal, &run.figures)?;
                Some(Figures::from([(String::new(), value)]))
            });
            let values: Vec<Figures> = values.collect();
            let value = spread_of(&values).get("").map(|spread| spread.median);
            let is_met = value.is_some_and(|value| goal.is_met_by(value));
            Verdict { goal, value, is_met }
        };
        self.scenario.goals.iter().filter(applies).map(judge).collect()
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        let runs: Vec<Figures> = self.runs.iter().map(|run| run.figures.clone()).collect();
        let figures: serde_json::Map<String, Value> = spread_of(&runs)
            .into_iter()
            .map(|(name, spread)| {
                let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
                let ends = [rounded(spread.least), rounded(spread.most)];
                (name, json!({"median": rounded(spread.median), "spread": ends}))
            })
            .collect();
        let goals: Vec<Value> = self
            .verdicts()
            .iter()
            .map(|verdict| {
                let goal = verdict.goal;
                json!({"says": goal.says, "row": goal.row, "at_most": goal.at_most, "at_least": goal.at_least,
                    "value": verdict.value, "met": verdict.is_met})
            })
            .collect();
        let at = &self.circumstances;
        json!({"scenario": self.scenario.name, "proves": self.scenario.proves, "database": at.database.name(),
            "command": at.command, "commit": at.commit, "at": at.at, "machine": meter::machine(),
            "runs": self.runs.len(), "goals": goals, "figures": figures, "faults": self.faults()})
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        self.write_text(&mut text).ok();
        text
    }

    fn write_text(&self, text: &mut String) -> std::fmt::Result {
        let (scenario, at) = (self.scenario, &self.circumstances);
        let runs = if self.runs.len() == 1 { "one run".to_owned() } else { format!("medians of {}", self.runs.len()) };
        writeln!(text, "{} on {}, {runs}\n{}\n", scenario.name, at.database.name(), scenario.proves)?;
        let medians = self.medians();
        let get = |of: &str, name: &str| medians.get(&format!("{of}.{name}")).copied();
        let floors = ["bare", "hmac", "append"].map(|kind| format!("floor.{kind}"));
        let phases = scenario.phases.iter().map(|phase| phase.name.clone());
        for name in floors.into_iter().chain(phases) {
            let of = name.as_str();
            if let Some(rate) = get(of, "acks_per_s") {
                writeln!(text, "{of}")?;
                if let Some(took) = get(of, "start_ms") {
                    writeln!(text, "  start       served {took:.0} ms after it")?;
                }
                if let Some(count) = get(of, "acks") {
                    write!(text, "  acks        {count:.0} = {rate:.0}/s")?;
                } else {
                    write!(text, "  acks        {rate:.0}/s")?;
                }
                writeln!(text, "; {}", quantiles(&get, of, "ack"))?;
                if let Some(refused) = get(of, "refused").filter(|refused| *refused > 0.0) {
                    let prefix = format!("{of}.refused_");
                    let by_status = medians.iter().filter_map(|(name, count)| {
                        let status = name.strip_prefix(&prefix)?;
                        Some(format!("{status}: {count:.0}"))
                    });
                    let by_status: Vec<String> = by_status.collect();
                    writeln!(text, "  refused     {refused:.0} ({}; 0 is no answer)", by_status.join(", "))?;
                }
                if let (Some(count), Some(rate)) = (get(of, "delivered"), get(of, "deliveries_per_s")) {
                    let drain = get(of, "drain_s").unwrap_or(0.0);
                    writeln!(text, "  deliveries  {count:.0} = {rate:.0}/s; the last {drain:.2} s after the last ack")?;
                    writeln!(text, "  end to end  {}", quantiles(&get, of, "e2e"))?;
                }
                let event = get(of, "cpu_us_per_event").map(|event| format!("{event:.0} µs per event"));
                write!(text, "  CPU         {}", event.unwrap_or_default())?;
                if let (Some(gateway), Some(postgres)) =
                    (get(of, "gateway_cpu_us_per_event"), get(of, "postgres_cpu_us_per_event"))
                {
                    write!(text, " ({gateway:.0} gateway + {postgres:.0} PostgreSQL); ")?;
                }
                if let Some(request) = get(of, "cpu_us_per_request") {
                    write!(text, "{request:.0} µs per request")?;
                }
                writeln!(text)?;
            } else if get(of, "memory_mean_mb").is_some() {
                let start = get(of, "start_ms").map(|took| format!("served {took:.0} ms after its start; "));
                let cpu = get(of, "cpu_percent").unwrap_or(0.0);
                writeln!(text, "{of}\n  idle        {}CPU {cpu:.1} % of a core", start.unwrap_or_default())?;
            }
            if let (Some(peak), Some(mean)) = (get(of, "memory_peak_mb"), get(of, "memory_mean_mb")) {
                writeln!(text, "  memory      {peak:.0} MiB at the most, {mean:.0} in the mean")?;
            }
        }
        let run = |name: &str| get("run", name).unwrap_or(0.0);
        writeln!(
            text,
            "\nledger        {} acknowledged; lost {}, repeated {}, not in the database {} and {} of their deliveries",
            run("acked_events"),
            run("lost"),
            run("repeated"),
            run("missing_rows"),
            run("missing_deliveries")
        )?;
        writeln!(
            text,
            "disk          {:.0} MiB for {:.0} events; an event of {:.0} bytes takes {:.0} in its table (× {:.2}) and {:.0} \
             in that table's indexes; with everything × {:.2}",
            run("database_mb"),
            run("stored_events"),
            run("payload_bytes_per_event"),
            run("event_bytes_per_event"),
            run("disk_ratio"),
            run("event_index_bytes_per_event"),
            run("disk_ratio_with_everything")
        )?;
        writeln!(
            text,
            "memory        {:.0} MiB idle, {:.0} at the most",
            run("memory_idle_mb"),
            run("memory_peak_mb")
        )?;
        for verdict in self.verdicts() {
            let value = verdict.value.map_or_else(|| "not measured".to_owned(), shown);
            let mark = if verdict.is_met { "met    " } else { "NOT MET" };
            writeln!(text, "goal {mark}  {}: {value} ({})", verdict.goal.says, verdict.goal.bounds())?;
        }
        for fault in self.faults() {
            writeln!(text, "FAULT         {fault}")?;
        }
        Ok(())
    }
}

fn quantiles(get: &impl Fn(&str, &str) -> Option<f64>, of: &str, what: &str) -> String {
    let all = [("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p99_9", "p99.9"), ("max", "max")];
    let shown =
        all.map(|(name, label)| format!("{label} {:.1}", get(of, &format!("{what}_{name}_ms")).unwrap_or(f64::NAN)));
    format!("{} ms", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(cpu: f64, faults: &[&str]) -> RunResult {
        let figures = [("p.acks_per_s", 10.0), ("p.acks", 20.0), ("p.cpu_us_per_event", cpu), ("q.x", 2.0 * cpu)];
        RunResult {
            figures: figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            curves: Vec::new(),
            samples: Vec::new(),
            phases: Vec::new(),
            faults: faults.iter().map(|fault| (*fault).to_owned()).collect(),
        }
    }

    #[test]
    fn goals_are_judged_by_the_middle_run_and_only_where_they_apply() {
        let scenario = Scenario::parse(
            "name = 's'\nproves = 'p'\n[[tenants]]\nname = 'a'\n[[phase]]\nname = 'p'\n[[phase]]\nname = 'q'\n\
             [[goal]]\nsays = 'cheap'\nfigure = 'p.cpu_us_per_event'\nat_most = 50\n\
             [[goal]]\nsays = 'flat'\nfigure = 'q.x'\nover = 'p.cpu_us_per_event'\nat_most = 1.1\n\
             [[goal]]\nsays = 'elsewhere'\nfigure = 'q.x'\nat_most = 1\ndatabase = 'postgres'",
        )
        .expect("a scenario");
        let circumstances = Circumstances::now(DatabaseKind::Sqlite, "run s".into());
        let runs = vec![run(40.0, &[]), run(90.0, &["LOST: 1"]), run(50.0, &[])];
        let report = Report { scenario: &scenario, circumstances, runs };
        let met: Vec<_> = report.verdicts().iter().map(|verdict| (verdict.value, verdict.is_met)).collect();
        assert_eq!(met, [(Some(50.0), true), (Some(2.0), false)]);
        assert_eq!(report.faults(), ["LOST: 1"]);
        let text = report.to_text();
        assert!(text.contains("goal met      cheap: 50 (≤ 50)") && text.contains("NOT MET  flat"), "{text}");
        assert!(text.contains("FAULT") && text.contains("medians of 3"), "{text}");
        assert_eq!(report.to_json()["goals"][0]["met"], true);
    }
}
