//! What the steps of a webhook cost: `cargo bench`, and counted in instructions by `benches/instructions.sh`.
//!
//! **Owns** one list of cases ([`pure::CASES`]) that both tools run, and the cases that need a database. **Invariants**:
//! only the public API is measured; a case is prepared before the clock starts. **Must not know** what is fast enough:
//! nothing here fails.

mod pure;
mod store;

#[path = "../../tests/support/postgres.rs"]
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
mod postgres_server;

/// `--cases` lists the pure cases; `--count NAME TIMES` runs one so often and nothing else, for callgrind; anything else
/// is divan's.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--cases"] => pure::CASES.iter().for_each(|case| println!("{}", case.name)),
        ["--count", name, times] => {
            let times: u32 = times.parse().expect("a number of times");
            let mut run = (pure::find(name).prepare)();
            for _ in 0..times {
                run();
            }
        }
        _ => divan::main(),
    }
}
