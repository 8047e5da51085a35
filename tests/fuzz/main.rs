//! The fuzz targets without libFuzzer: every seed, every input that ever broke a promise, and some thousand mutations of
//! them, in seconds. `fuzz/README.md` says how they are run ten million times each.

#[path = "../../fuzz/src/lib.rs"]
mod targets;

mod mutation;
mod seeds;

use std::{collections::BTreeSet, fs, path::Path};

use mutation::Mutator;

/// Mutations of each target, unless `SIGNALBOX_FUZZ_MUTATIONS` says otherwise.
const MUTATIONS: usize = 1500;
/// A request crosses a socket, a queue and a database.
const MUTATIONS_OF_REQUESTS: usize = 300;
/// Larger ones are replayed, not mutated: their mutations would be of one kind and slow.
const LARGEST_MUTATED: usize = 16 * 1024;

fn mutations_of(target: &str) -> usize {
    let usual = if target == "requests" { MUTATIONS_OF_REQUESTS } else { MUTATIONS };
    std::env::var_os("SIGNALBOX_FUZZ_MUTATIONS")
        .map_or(usual, |count| count.to_str().and_then(|count| count.parse().ok()).expect("a number of mutations"))
}

/// Runs a target and says which input it was that broke a promise: put it into `fuzz/regressions/<target>`.
fn attempt(target: &str, input: &[u8]) {
    let run = targets::find(target).run;
    let outcome = std::panic::catch_unwind(|| run(input));
    assert!(outcome.is_ok(), "{target} breaks with these {} bytes:\n{}", input.len(), input.escape_ascii());
}

fn replay_and_mutate(target: &str) {
    let mut inputs = seeds::of(target);
    assert!(!inputs.is_empty(), "{target} has no seeds");
    inputs.extend(seeds::regressions(target));
    for input in &inputs {
        attempt(target, input);
    }
    let small: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).filter(|input| input.len() <= LARGEST_MUTATED).collect();
    let mut mutator = Mutator::new(target);
    for _ in 0..mutations_of(target) {
        attempt(target, &mutator.mutate(&small));
    }
}

macro_rules! targets {
    ($($target:ident)*) => {
        mod no_seed_no_regression_and_no_mutation_of_them_breaks_a_promise_of {
            $(#[test]
            fn $target() {
                super::replay_and_mutate(stringify!($target));
            })*
        }

        /// The targets that are replayed here.
        const REPLAYED: &[&str] = &[$(stringify!($target)),*];
    };
}

targets! {
    verify extract_github extract_vercel extract_linear extract_sentry form envelope headers config destination plan
    secrets times yaml requests
}

#[test]
fn every_target_is_replayed_here_and_is_a_binary_of_libfuzzers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("the manifest");
    let named: BTreeSet<&str> = targets::TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(named, REPLAYED.iter().copied().collect());
    let binaries: BTreeSet<String> = fs::read_dir(folder.join("fuzz_targets"))
        .expect("a folder")
        .map(|file| file.expect("a file").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    assert_eq!(named, binaries.iter().map(String::as_str).collect());
    for name in named {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not built");
        let entry = fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).expect("an entry");
        assert!(entry.contains(&format!("signalbox_fuzz::{name}(")), "{name} enters another target");
    }
    for known in fs::read_dir(folder.join("regressions")).expect("a folder") {
        let known = known.expect("an entry").file_name().to_string_lossy().into_owned();
        assert!(REPLAYED.contains(&known.as_str()), "nobody replays the regressions of {known}");
    }
}

/// `cargo test --test fuzz -- --ignored` writes the seeds for libFuzzer into `fuzz/corpus`, which is not checked in.
#[test]
#[ignore = "writes files: what libFuzzer starts from"]
fn write_the_corpora() {
    for target in REPLAYED {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        fs::create_dir_all(&folder).expect("a folder");
        let inputs = seeds::of(target).into_iter().chain(seeds::regressions(target));
        for (number, input) in inputs.filter(|input| input.len() <= LARGEST_MUTATED).enumerate() {
            fs::write(folder.join(format!("seed-{number:04}")), input).expect("writes");
        }
    }
}
