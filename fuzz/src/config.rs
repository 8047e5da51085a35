//! Configuration: any file and any environment is a configuration or a list of mistakes, and no mistake repeats a value.

use std::{io::Write as _, sync::OnceLock};

use signalbox::{config::Config, model::provider::ProviderSpec, providers::Registry};
use tempfile::TempDir;

/// What separates the file from the environment.
const ENVIRONMENT: &[u8] = b"\n%%\n";
/// Stands for a secret: a value that holds it and nothing else does must not be repeated.
const CANARY: &str = "c4n4ry";

/// A TOML file, a line `%%`, lines of `NAME=value`.
pub fn run(data: &[u8]) {
    static SPECS: OnceLock<(Vec<ProviderSpec>, TempDir)> = OnceLock::new();
    let (specs, folder) = SPECS.get_or_init(|| {
        // In memory where there is such a place: the file is written for each run.
        let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        (Registry::built_in().iter().map(|listed| listed.spec).collect(), memory.expect("a folder"))
    });
    let split = data.windows(ENVIRONMENT.len()).position(|window| window == ENVIRONMENT);
    let (toml, environment) = split.map_or((data, &b""[..]), |at| (&data[..at], &data[at + ENVIRONMENT.len()..]));
    // `…_file` settings name files of the operator's machine; some never end.
    if String::from_utf8_lossy(data).to_lowercase().replace("config_files", "").contains("_file") {
        return;
    }
    let environment: Vec<(String, String)> = environment
        .split(|byte| *byte == b'\n')
        .map(|line| {
            let line = String::from_utf8_lossy(line);
            let (name, value) = line.split_once('=').unwrap_or((&line, ""));
            (name.to_owned(), value.to_owned())
        })
        .collect();
    // Each thread of the test runner has its own.
    let path = folder.path().join(format!("{:?}.toml", std::thread::current().id()));
    let mut file = std::fs::File::create(&path).expect("a file");
    file.write_all(toml).expect("room for it");
    drop(file);

    let examined = Config::examine(Some(&path), environment.clone(), specs);
    assert!(examined.config.is_some() || !examined.mistakes.is_empty(), "nothing was read, and nothing is wrong");
    let told: Vec<String> = examined.mistakes.iter().map(|mistake| format!("{mistake} {mistake:?}")).collect();
    let told = told.concat();
    // A name in capitals is told in small letters.
    let is_only_value =
        data.windows(CANARY.len()).filter(|window| window.eq_ignore_ascii_case(CANARY.as_bytes())).count() == 1
            && environment.iter().any(|(name, value)| value.contains(CANARY) && !name.contains(CANARY));
    assert!(!is_only_value || !told.contains(CANARY), "a mistake repeats a value: {told}");
    // Serving asks the same question again, at the same price: every eighth time is often enough.
    if !data.len().is_multiple_of(8) {
        return;
    }
    match Config::load(Some(&path), environment, specs) {
        Ok(_) => assert!(examined.mistakes.is_empty(), "served from in spite of mistakes"),
        Err(error) => {
            assert_eq!(error.mistakes.len(), examined.mistakes.len());
            assert!(!error.code().is_empty());
        }
    }
}
