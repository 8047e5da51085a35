//! The binary itself, for a second: load on the gateway that stands beside it.

use std::{
    path::Path,
    process::{Command, Output},
};

const LOADTEST: &str = env!("CARGO_BIN_EXE_signalbox-loadtest");

/// Runs it with the gateway beside it (or the one `SIGNALBOX_TEST_GATEWAY` names); `None`, said aloud, when that was not
/// built: `cargo test --workspace` builds it.
fn run(arguments: &[&str]) -> Option<Output> {
    let beside = Path::new(LOADTEST).with_file_name("signalbox").into_os_string();
    let gateway =
        std::env::vars_os().find(|(name, _)| name == "SIGNALBOX_TEST_GATEWAY").map_or(beside, |(_, path)| path);
    if !Path::new(&gateway).exists() {
        eprintln!("SKIPPED: there is no gateway to load");
        return None;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(LOADTEST);
    command.args(arguments).arg("--binary").arg(gateway).arg("--directory").arg(directory.path());
    Some(command.output().expect("it runs"))
}

#[test]
fn a_short_run_of_all_providers_loses_nothing_and_says_so_to_machines() {
    let arguments =
        ["adhoc", "--seconds", "1", "--connections", "4", "--workspaces", "2", "--json", "-", "--providers"];
    let Some(output) = run(&[&arguments[..], &["github,vercel,linear,sentry"]].concat()) else { return };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let median = |name: &str| said["figures"][name]["median"].as_f64().unwrap_or_else(|| panic!("{name}: {said:#}"));
    assert!(median("posting.acks") > 0.0 && median("posting.cpu_us_per_event") > 0.0, "{said:#}");
    assert!((median("posting.delivered") - 2.0 * median("posting.acks")).abs() < 0.5, "{said:#}");
    for nothing in ["run.lost", "run.repeated", "run.missing_rows", "posting.refused"] {
        assert!(median(nothing).abs() < f64::EPSILON, "{nothing}: {said:#}");
    }
}
