//! The newcomer's first command.

use std::process::Command;

#[test]
fn the_demo_delivers_everything_it_promises_and_says_so_with_its_exit_code() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new(env!("CARGO_BIN_EXE_signalbox"))
        .args(["demo", "--once"])
        .current_dir(directory.path())
        .env_clear()
        .output()
        .expect("the binary starts");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    for expected in
        ["signature valid", "503 refused, retried", "filtered:event_not_allowed", "duplicate", "invalid_signature"]
    {
        assert!(told.contains(expected), "{expected} is shown:\n{told}");
    }
    assert!(!told.contains('\u{1b}'), "no colours off a terminal");
    assert_eq!(directory.path().read_dir().expect("readable").count(), 0, "it leaves nothing where it was started");
}
