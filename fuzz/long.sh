#!/usr/bin/env bash
# The long form of fuzzing: each target to so many executions, one after the other, a line of result for each.
#
#   fuzz/long.sh [EXECUTIONS] [TARGET...]     ten million executions of every target unless told otherwise

set -euo pipefail
cd "$(dirname "$0")/.."

executions=${1:-10000000}
shift || true
if [ $# -eq 0 ]; then
    mapfile -t targets < <(cd fuzz/fuzz_targets && ls ./*.rs | sed 's/^.\///; s/\.rs$//')
    set -- "${targets[@]}"
fi
export RUSTC_BOOTSTRAP=1
logs=$(mktemp -d)

if [ ! -d fuzz/corpus ]; then
    cargo test --workspace --locked --quiet --test fuzz -- --ignored write_the_corpora
fi
cargo fuzz build -s none

failed=0
for target in "$@"; do
    dictionary=fuzz/dictionaries/$target.dict
    case $target in extract_* | form | verify) dictionary=fuzz/dictionaries/webhook.dict ;; esac
    options=(-runs="$executions" -max_len=4096 -timeout=5 -rss_limit_mb=1024 -print_final_stats=1)
    # The gateway with its database lives in this process, and a request may wait for it.
    [ "$target" != requests ] || options+=(-rss_limit_mb=2048 -timeout=30)
    [ ! -f "$dictionary" ] || options+=(-dict="$dictionary")
    verdict="no finding"
    nice -n 19 cargo fuzz run -s none "$target" -- "${options[@]}" >"$logs/$target" 2>&1 || { verdict="FINDING, see $logs/$target"; failed=1; }
    printf '%-16s %10s executions, %7s per second, peak %5s MB: %s\n' "$target" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$logs/$target")" \
        "$(sed -n 's/^stat::average_exec_per_sec: *//p' "$logs/$target")" \
        "$(sed -n 's/^stat::peak_rss_mb: *//p' "$logs/$target")" "$verdict"
done
exit "$failed"
