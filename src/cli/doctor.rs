//! `signalbox doctor`: the checks of a start, and a few more, without starting.
//!
//! **Invariants**: every mistake in one report, on standard output; exit code 1 if there is any. It prints no secret.

use std::{path::Path, process::ExitCode};

use crate::{
    app::registry_of,
    config::{Config, process_environment},
    doctor::{
        DatabaseFile, Finding, Report, Verdict, check_connecting, check_database_file, check_sealed, check_settings,
        check_store,
    },
};

/// Checks everything and prints what it found.
pub(super) async fn run(path: Option<&Path>) -> anyhow::Result<ExitCode> {
    let examination = Config::examine(path, process_environment(), &super::provider_specs());
    let mut report = Report::default();
    for mistake in &examination.mistakes {
        report.mistake("configuration", mistake);
    }
    if examination.mistakes.is_empty() {
        report.fine("configuration", path.map_or("defaults and environment".to_owned(), |p| p.display().to_string()));
    }
    if let Some(config) = &examination.config {
        check_settings(config, &config.server.public_url, &examination.mistakes, &mut report);
        match registry_of(config) {
            Ok(registry) => check_connecting(&registry, &mut report),
            Err(error) => report.mistake("providers", format!("{error:#}")),
        }
        let is_sound = !examination.mistakes.iter().any(|mistake| mistake.concerns("database"));
        if is_sound && check_database_file(config, &mut report) == DatabaseFile::MayBeOpened {
            match super::open_store(config).await {
                Ok(store) => {
                    check_store(store.as_ref(), config.database.migrate, &mut report).await;
                    check_sealed(config, store.as_ref(), &mut report).await;
                    store.close().await;
                }
                Err(error) => report.mistake("database", format!("{error:#}")),
            }
        }
    }
    Ok(print(&report))
}

fn print(report: &Report) -> ExitCode {
    for Finding { verdict, subject, finding } in &report.findings {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "-",
            Verdict::Warning => "WARNING",
            Verdict::Mistake => "MISTAKE",
        };
        println!("{verdict:<8} {subject}: {finding}");
    }
    let (mistakes, warnings) = (report.count(Verdict::Mistake), report.count(Verdict::Warning));
    println!("\n{mistakes} mistake(s), {warnings} warning(s)");
    if mistakes == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
