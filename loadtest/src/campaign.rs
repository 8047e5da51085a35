//! All scenarios in order, on one or both databases, and a table of the goals.
//!
//! **Owns** the form of a results folder: `<date>-<commit>/<scenario>-<database>.{txt,json,svg}` and `summary.md`.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    goal::{DatabaseKind, shown},
    meter, plot,
    report::{Circumstances, Report},
    run::run_once,
    scenario::Scenario,
    stage::Options,
};

/// The order in which they run: the short ones first.
const SCENARIOS: [&str; 18] = [
    "steady",
    "bad-signatures",
    "fan-out",
    "idle",
    "start",
    "disk",
    "growth-workspaces",
    "growth-tenants",
    "burst",
    "duplicate-storm",
    "slow-destination",
    "big-bodies",
    "slowloris",
    "idle-connections",
    "many-tenants",
    "node-loss",
    "dead-destination",
    "deep-history",
];

/// How often a scenario runs, and how large.
#[derive(Debug, Clone)]
pub struct Repeats {
    /// Runs of each.
    pub runs: usize,
    /// Small.
    pub quick: bool,
    /// Seconds of the longest phase, if not the scenario's own.
    pub seconds: Option<f64>,
}

/// The command that runs a scenario like this again, wherever there are a server and a binary.
pub fn command_of(name: &str, options: &Options, repeats: &Repeats) -> String {
    format!(
        "signalbox-loadtest run {name} --runs {}{}{}{}",
        repeats.runs,
        repeats.seconds.map(|seconds| format!(" --seconds {seconds}")).unwrap_or_default(),
        if repeats.quick { " --quick" } else { "" },
        words_of(options)
    )
}

/// The options that are the same for every command; no URL, which has a password, and no path.
pub fn words_of(options: &Options) -> String {
    let settings = options.settings.iter().map(|(name, value)| format!(" --set '{name}={value}'"));
    options.postgres.iter().map(|_| " --postgres URL".to_owned()).chain(settings).collect()
}

/// Runs one scenario as often as asked for.
pub async fn run_scenario<'s>(
    scenario: &'s Scenario,
    options: &Options,
    runs: usize,
    command: String,
) -> anyhow::Result<Report<'s>> {
    let database = if options.postgres.is_some() { DatabaseKind::Postgres } else { DatabaseKind::Sqlite };
    let circumstances = Circumstances::now(database, command);
    let mut results = Vec::new();
    for number in 1..=runs {
        eprintln!("{} on {}, run {number} of {runs}", scenario.name, database.name());
        results.push(run_once(scenario, options).await?);
    }
    Ok(Report { scenario, circumstances, runs: results })
}

/// Writes a report's files into a folder.
pub fn file(report: &Report<'_>, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let database = report.circumstances.database.name().to_lowercase();
    let path = |ending: &str| folder.join(format!("{}-{database}.{ending}", report.scenario.name));
    let mut text = String::new();
    let at = &report.circumstances;
    // Writing to a string does not fail.
    writeln!(text, "{}\n{}\ncommit {}, {}\n", at.command, meter::machine(), at.commit, at.at).ok();
    std::fs::write(path("txt"), text + &report.to_text())?;
    std::fs::write(path("json"), serde_json::to_string_pretty(&report.to_json())? + "\n")?;
    if let Some(run) = report.runs.last() {
        let title = format!("{} on {}, {}", report.scenario.name, at.database.name(), at.commit);
        std::fs::write(path("svg"), plot::draw(&title, run))?;
    }
    Ok(())
}

/// `<date>-<commit>` in `results`.
pub fn folder(results: &Path) -> PathBuf {
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    results.join(format!("{date}-{}", crate::report::commit()))
}

/// A row of the table: what a goal says, its bounds, and how it went on each database.
type Row = (String, String, BTreeMap<DatabaseKind, (String, bool)>);

/// Runs everything; whether no run had a fault.
pub async fn run_all(options: &Options, repeats: &Repeats, only: &[String], results: &Path) -> anyhow::Result<bool> {
    let folder = folder(results);
    let mut rows: BTreeMap<(u32, usize), Row> = BTreeMap::new();
    let (mut troubles, mut is_sound) = (Vec::new(), true);
    let databases: Vec<Option<String>> = std::iter::once(None).chain(options.postgres.clone().map(Some)).collect();
    let mut place = 0;
    for name in SCENARIOS {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let mut scenario = Scenario::load(Path::new(name))?;
        if let Some(seconds) = repeats.seconds {
            scenario.set_seconds(seconds);
        }
        if repeats.quick {
            scenario.make_quick();
        }
        // What takes an hour is not repeated.
        let is_long = matches!(name, "deep-history" | "dead-destination");
        let runs = if is_long { 1 } else { repeats.runs };
        for postgres in &databases {
            if scenario.postgres_only && postgres.is_none() {
                continue;
            }
            let options = Options { postgres: postgres.clone(), ..options.clone() };
            let command = command_of(name, &options, &Repeats { runs, ..repeats.clone() });
            let report = match run_scenario(&scenario, &options, runs, command).await {
                Ok(report) => report,
                Err(error) => {
                    is_sound = false;
                    eprintln!("{name} failed: {error:#}");
                    troubles.push(format!("{name}: did not finish: {error:#}"));
                    continue;
                }
            };
            print!("{}\n\n", report.to_text());
            file(&report, &folder)?;
            is_sound &= report.faults().is_empty();
            troubles.extend(report.faults().iter().map(|fault| format!("{name}: {fault}")));
            let database = report.circumstances.database;
            for verdict in report.verdicts() {
                let goal = verdict.goal;
                let says = format!("{} ({name})", goal.says);
                let row = goal.row.unwrap_or(u32::MAX);
                let known =
                    rows.iter_mut().find(|(key, known)| key.0 == row && known.0 == says && known.1 == goal.bounds());
                let value = (verdict.value.map_or_else(|| "–".to_owned(), shown), verdict.is_met);
                if let Some((_, known)) = known {
                    known.2.insert(database, value);
                } else {
                    place += 1;
                    rows.insert((row, place), (says, goal.bounds(), BTreeMap::from([(database, value)])));
                }
            }
            std::fs::write(folder.join("summary.md"), summary(&rows, &troubles, repeats))?;
        }
    }
    eprintln!("written to {}", folder.display());
    Ok(is_sound)
}

fn summary(rows: &BTreeMap<(u32, usize), Row>, troubles: &[String], repeats: &Repeats) -> String {
    let mut text = String::new();
    let size = if repeats.quick { ", quick: too small to learn a figure from" } else { "" };
    // Writing to a string does not fail.
    write!(
        text,
        "# {}\n\n{}; commit {}; medians of {} runs (one of deep-history and dead-destination){size}.\n\n\
         | # | figure | goal | SQLite | PostgreSQL | met? |\n|---|---|---|---|---|---|\n",
        jiff::Timestamp::now().strftime("%Y-%m-%d"),
        meter::machine(),
        crate::report::commit(),
        repeats.runs,
    )
    .ok();
    for ((row, _), (says, bounds, values)) in rows {
        let row = if *row == u32::MAX { String::new() } else { row.to_string() };
        let of = |database| values.get(&database).map_or("", |(value, _)| value.as_str());
        let met = if values.values().all(|(_, is_met)| *is_met) { "yes" } else { "**no**" };
        let (sqlite, postgres) = (of(DatabaseKind::Sqlite), of(DatabaseKind::Postgres));
        writeln!(text, "| {row} | {says} | {bounds} | {sqlite} | {postgres} | {met} |").ok();
    }
    for trouble in troubles {
        writeln!(text, "\n**{trouble}**").ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_campaign_runs_every_scenario_there_is() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .expect("a folder")
            .flatten()
            .filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned()))
            .collect();
        let mut named = SCENARIOS.map(str::to_owned).to_vec();
        files.sort();
        named.sort();
        assert_eq!(files, named);
    }

    #[test]
    fn the_command_that_is_written_down_has_all_that_changes_figures_and_no_url() {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let options = Options {
            postgres: Some("postgres://user:password@host/db".to_owned()),
            settings: vec![set("SIGNALBOX_A__B", "c d"), set("SIGNALBOX_E__F", "1")],
            ..Options::default()
        };
        let repeats = Repeats { runs: 5, quick: true, seconds: Some(2.5) };
        assert_eq!(
            command_of("steady", &options, &repeats),
            "signalbox-loadtest run steady --runs 5 --seconds 2.5 --quick --postgres URL \
             --set 'SIGNALBOX_A__B=c d' --set 'SIGNALBOX_E__F=1'"
        );
        let repeats = Repeats { runs: 1, quick: false, seconds: None };
        assert_eq!(command_of("idle", &Options::default(), &repeats), "signalbox-loadtest run idle --runs 1");
    }

    #[test]
    fn a_summary_has_a_row_for_each_goal_and_says_what_was_missed() {
        let values = BTreeMap::from([
            (DatabaseKind::Sqlite, ("80".to_owned(), true)),
            (DatabaseKind::Postgres, ("140".to_owned(), false)),
        ]);
        let rows = BTreeMap::from([((1, 1), ("cheap (steady)".to_owned(), "≤ 85".to_owned(), values))]);
        let repeats = Repeats { runs: 5, quick: false, seconds: None };
        let text = summary(&rows, &["steady: LOST: 1".to_owned()], &repeats);
        assert!(text.contains("| 1 | cheap (steady) | ≤ 85 | 80 | 140 | **no** |"), "{text}");
        assert!(text.contains("**steady: LOST: 1**"), "{text}");
    }
}
