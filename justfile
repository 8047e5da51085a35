# Conveniences for people who have `just`; nothing depends on it. `just` alone lists them.

_default:
    @just --list

# What CI runs.
ci:
    .ci/run

# Format, then lint as CI does.
tidy:
    cargo fmt
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Every test; set SIGNALBOX_TEST_POSTGRES_URL to include PostgreSQL.
test *ARGS:
    cargo test --workspace --locked {{ARGS}}

# Kill the gateway that often on each database; prints what it cost.
crash KILLS="100":
    SIGNALBOX_CRASH_KILLS={{KILLS}} cargo test --release --locked --test it -- crash:: --nocapture

# Cut the power that often on each database; what was not flushed is gone.
power-loss CUTS="100":
    SIGNALBOX_POWER_CUTS={{CUTS}} cargo test --release --locked --test it -- power_loss:: --nocapture

# What each step costs (benches/README.md).
bench *ARGS:
    cargo bench --locked -- {{ARGS}}

# Count instructions and compare with benches/instructions.txt; needs valgrind.
instructions *ARGS:
    benches/instructions.sh {{ARGS}}

# Every fuzz target to ten million executions, or as many of those as named (fuzz/README.md).
fuzz *ARGS:
    fuzz/long.sh {{ARGS}}

# The whole system on this machine, no accounts needed.
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# The documentation of the code, beginning with the path of a webhook.
docs:
    cargo doc --no-deps --open

# Check a configuration file.
doctor FILE:
    cargo run -- doctor --config {{FILE}}
