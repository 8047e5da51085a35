//! `docs/promises.md` and its proofs: every promise is there once, each has a proof, and each proof exists and runs.
//!
//! A proof is looked up in the sources, not run: `cargo test` runs it beside this. What is commented out, ignored or
//! gone is no proof.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Every row there has to be.
fn rows() -> Vec<String> {
    let numbered = |letter: char, last: u32| (1..=last).map(move |number| format!("{letter}{number}"));
    let also = ["S2b", "S4b", "S8b"].map(str::to_owned);
    numbered('P', 18).chain(numbered('H', 5)).chain(numbered('S', 16)).chain(also).collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Proof {
    /// `binary::module::test`
    Test(String),
    /// A file: a fuzz target or a scenario.
    File(String),
    /// A file and the function in it.
    Script(String, String),
    /// A command.
    LongForm(String),
}

/// The proofs of each row, in the order of the document; what cannot be read is a complaint.
fn read(document: &str) -> (Vec<(String, Vec<Proof>)>, Vec<String>) {
    let (mut read, mut complaints): (Vec<(String, Vec<Proof>)>, _) = (Vec::new(), Vec::new());
    for line in document.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            let id = heading.split(':').next().unwrap_or_default();
            read.push((id.to_owned(), Vec::new()));
        } else if let Some(item) = line.strip_prefix("- ") {
            match (proof_of(item), read.last_mut()) {
                (Some(proof), Some((_, proofs))) => proofs.push(proof),
                (None, _) => complaints.push(format!("this is no proof: {item}")),
                (_, None) => complaints.push(format!("this proof is of no row: {item}")),
            }
        }
    }
    (read, complaints)
}

fn proof_of(item: &str) -> Option<Proof> {
    let mut quoted = item.split('`').skip(1).step_by(2).map(str::to_owned);
    if item.starts_with("long form: ") {
        return quoted.next().map(Proof::LongForm);
    }
    if item.starts_with("script: ") {
        return Some(Proof::Script(quoted.next()?, quoted.next()?));
    }
    let name = quoted.next().filter(|_| item.starts_with('`'))?;
    Some(if name.contains("::") { Proof::Test(name) } else { Proof::File(name) })
}

/// What is wrong with the document, judged by the sources under `root`.
fn complaints_about(document: &str, root: &Path) -> Vec<String> {
    let (read, mut complaints) = read(document);
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for (id, proofs) in &read {
        *times.entry(id).or_default() += 1;
        // A long form alone is run by nobody.
        if !proofs.iter().any(|proof| !matches!(proof, Proof::LongForm(_))) {
            complaints.push(format!("{id} has no proof"));
        }
        for proof in proofs {
            if let Err(why) = look_up(proof, root) {
                complaints.push(format!("{id}: {why}"));
            }
        }
    }
    let expected = rows();
    for id in &expected {
        match times.remove(id.as_str()) {
            Some(1) => {}
            Some(_) => complaints.push(format!("{id} is there twice")),
            None => complaints.push(format!("{id} is missing")),
        }
    }
    complaints.extend(times.keys().map(|id| format!("{id} is no row")));
    complaints
}

fn look_up(proof: &Proof, root: &Path) -> Result<(), String> {
    match proof {
        Proof::Test(path) => look_up_test(path, root),
        Proof::File(path) if root.join(path).is_file() => Ok(()),
        Proof::File(path) => Err(format!("there is no file {path}")),
        Proof::Script(path, function) => {
            let text = fs::read_to_string(root.join(path)).map_err(|error| format!("{path}: {error}"))?;
            let defined = text.lines().any(|line| line.starts_with(&format!("{function}() {{")));
            let used = text.lines().any(|line| line.starts_with("step ") && line.ends_with(function.as_str()));
            if defined && used { Ok(()) } else { Err(format!("{path} has no step {function}")) }
        }
        Proof::LongForm(command) => look_up_command(command, root),
    }
}

/// The files in which a test of that path can be, and its name.
fn places(path: &str) -> Option<(Vec<PathBuf>, String)> {
    let mut segments: Vec<&str> = path.split("::").collect();
    let name = segments.pop()?.to_owned();
    let (binary, modules) = segments.split_first()?;
    let modules = modules.strip_suffix(&["tests"]).unwrap_or(modules);
    let inside = |folder: &Path| {
        let module = modules.iter().fold(folder.to_path_buf(), |path, module| path.join(module));
        vec![module.with_extension("rs"), module.join("mod.rs"), module.join("tests.rs")]
    };
    let folder = Path::new("tests").join(binary);
    let files = match (*binary, modules.is_empty()) {
        ("signalbox", true) => vec![PathBuf::from("src/lib.rs")],
        ("signalbox", false) => inside(Path::new("src")),
        (_, true) => vec![folder.with_extension("rs"), folder.join("main.rs")],
        (_, false) => inside(&folder),
    };
    Some((files, name))
}

fn look_up_test(path: &str, root: &Path) -> Result<(), String> {
    let (files, name) = places(path).ok_or_else(|| format!("{path} is no path of a test"))?;
    let texts: Vec<String> = files.iter().filter_map(|file| fs::read_to_string(root.join(file)).ok()).collect();
    if texts.is_empty() {
        return Err(format!("there is no file for {path}"));
    }
    let verdicts: Vec<_> = texts.iter().filter_map(|text| judge(text, &name)).collect();
    match verdicts.as_slice() {
        [] => Err(format!("there is no test {path}")),
        [Ok(()), ..] => Ok(()),
        [Err(why), ..] => Err(format!("{path} {why}")),
    }
}

/// Whether the function of that name in a file is a test that runs; `None` if there is none.
fn judge(text: &str, name: &str) -> Option<Result<(), &'static str>> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_it = |line: &&str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ").and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with('('))
    };
    let at = lines.iter().position(is_it)?;
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("///"));
    let above: Vec<&&str> = above.collect();
    if above.iter().any(|line| line.starts_with("#[ignore")) {
        return Some(Err("is ignored"));
    }
    let is_marked = above.iter().any(|line| line.starts_with("#[") && line.contains("test"));
    // These macros mark what is in them, and hand it its argument.
    let is_in_a_suite = ["(backend)", "(store: TestStore)"].iter().any(|argument| lines[at].contains(argument));
    Some(if is_marked || is_in_a_suite { Ok(()) } else { Err("is no test") })
}

/// A command of cargo whose test binaries are there, with variables that something reads.
fn look_up_command(command: &str, root: &Path) -> Result<(), String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    for pair in words.windows(2).filter(|pair| pair[0] == "--test") {
        let folder = root.join("tests").join(pair[1]);
        if !folder.with_extension("rs").is_file() && !folder.join("main.rs").is_file() {
            return Err(format!("`{command}` names a test binary that is not there"));
        }
    }
    let known = |variable: &str| variable == "PROPTEST_CASES" || mentions(&root.join("tests"), variable);
    let variables = words.iter().take_while(|word| word.contains('='));
    for (variable, _) in variables.clone().filter_map(|word| word.split_once('=')) {
        if !known(variable) {
            return Err(format!("nothing reads {variable} of `{command}`"));
        }
    }
    match words.get(variables.count()) {
        Some(&"cargo") => Ok(()),
        Some(script) if script.contains('/') && root.join(script).is_file() => Ok(()),
        _ => Err(format!("`{command}` is no command")),
    }
}

fn mentions(folder: &Path, text: &str) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.into_iter().any(|path| {
        if path.is_dir() {
            mentions(&path, text)
        } else {
            !path.ends_with("promises.rs") && fs::read_to_string(&path).is_ok_and(|source| source.contains(text))
        }
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document() -> String {
    fs::read_to_string(root().join("docs/promises.md")).expect("the document is there")
}

#[test]
fn every_promise_has_a_proof_that_exists_and_runs() {
    let complaints = complaints_about(&document(), root());
    assert!(complaints.is_empty(), "docs/promises.md:\n{}", complaints.join("\n"));
}

#[test]
fn a_missing_row_and_every_kind_of_missing_proof_are_noticed() {
    let row = |id: &str, item: &str| format!("### {id}: a promise\n\n- {item}\n\n");
    let proof = "`it::routing::exactly_one_outcome_per_webhook`";
    let complains = |document: &str, of: &str| {
        let complaints = complaints_about(document, root());
        assert!(complaints.iter().any(|complaint| complaint.contains(of)), "{of} is not in {complaints:#?}");
    };
    let good = row("P3", proof);
    assert_eq!(complaints_about(&good, root()).len(), rows().len() - 1, "all rows but this one are missing");
    complains(&good, "P4 is missing");
    complains(&good.repeat(2), "P3 is there twice");
    complains(&row("P99", proof), "P99 is no row");
    let with = |item: &str| row("S16", item);
    complains(&with("`it::routing::no_such_test`"), "S16: there is no test it::routing::no_such_test");
    complains(&with("`it::no_such_file::a_test`"), "there is no file for it::no_such_file::a_test");
    complains(&with("`errors_doc::write_the_page_of_error_codes`"), "is ignored");
    complains(&with("`it::routing::expect_nothing`"), "there is no test");
    complains(&with("`promises::rows`"), "is no test");
    complains(&with("`fuzz/fuzz_targets/no_such_target.rs`"), "there is no file");
    complains(&with("script: `.ci/run` `no_such_step`"), "has no step no_such_step");
    complains(&with("long form: `SIGNALBOX_NO_SUCH_KNOB=1 cargo test --test it`"), "nothing reads SIGNALBOX_NO_SUCH");
    complains(&with("long form: `cargo test --test no_such_binary`"), "names a test binary that is not there");
    complains(&with("long form: `fuzz/no_such_script.sh 7`"), "is no command");
    complains(&with("not yet: tomorrow"), "this is no proof");
    complains(&with("trust me"), "this is no proof");
    let alone = "### P1: a\n\n- long form: `cargo test --test it`\n";
    complains(alone, "P1 has no proof");
}

#[test]
fn what_is_commented_out_is_no_test() {
    let text = "//    #[test]\n// fn a_sentence() {\n#[test]\nfn another() {}\n    async fn a_case(backend) {\n";
    assert_eq!(judge(text, "a_sentence"), None);
    assert_eq!(judge(text, "another"), Some(Ok(())));
    assert_eq!(judge(text, "anothe"), None);
    assert_eq!(judge(text, "a_case"), Some(Ok(())));
    assert_eq!(judge("#[test]\n#[ignore = \"slow\"]\nfn a() {}", "a"), Some(Err("is ignored")));
}

/// `promises.md` S15, as far as a file can say it.
#[test]
fn unsafe_code_is_forbidden_and_tls_is_rustls() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    assert!(manifest.lines().any(|line| line.trim() == "unsafe_code = \"forbid\""));
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("the lock");
    let has = |name: &str| lock.lines().any(|line| line == format!("name = \"{name}\""));
    assert!(has("rustls") && !has("openssl-sys") && !has("native-tls") && !has("rsa"));
    let security = fs::read_to_string(root().join("SECURITY.md")).expect("the page");
    assert!(security.to_lowercase().contains("report"));
}
