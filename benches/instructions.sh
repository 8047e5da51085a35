#!/usr/bin/env bash
# Counts the instructions of every pure step of a webhook and compares them with benches/instructions.txt. A count does not
# depend on what else the machine does, so it shows a regression that a clock on a busy machine hides.
#
#   benches/instructions.sh             compares; more than 5 % above the file is a failure
#   benches/instructions.sh --update    writes the file
#   benches/instructions.sh --profile whole_way_24k     where the instructions of one case go
#
# Needs valgrind. Each case runs a few times and some hundred times; the difference is what the runs cost, the start of
# the process left out.

set -euo pipefail
cd "$(dirname "$0")/.."

readonly baseline=benches/instructions.txt few=20 tolerated=5

command -v valgrind >/dev/null || { echo "valgrind is missing" >&2; exit 2; }
binary=$(cargo bench --locked --bench costs --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\/costs-[^"]*\)".*/\1/p' | tail -n 1)
[ -x "$binary" ] || { echo "the benchmarks do not build: cargo bench --bench costs --no-run" >&2; exit 2; }

count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$binary" --count "$1" "$2" 2>&1 |
        sed -n 's/.*Collected : //p'
}

if [ "${1:-}" = --profile ]; then
    profile=$(mktemp)
    trap 'rm -f "$profile"' EXIT
    valgrind --tool=callgrind --callgrind-out-file="$profile" "$binary" --count "${2:?a case}" 2000 2>/dev/null
    callgrind_annotate --threshold=97 "$profile"
    exit
fi

if [ "${1:-}" != --update ] && [ ! -f "$baseline" ]; then
    echo "$baseline is not there yet: write it with --update, before the change" >&2
    exit 2
fi
counted=$(mktemp)
trap 'rm -f "$counted"' EXIT
for case in $("$binary" --cases); do
    # What is cheap is run more often: the start of the process is not the same to the instruction.
    case $case in find_* | plan_* | decision_* | seal_* | open_*) many=5020 ;; *) many=220 ;; esac
    printf '%s %s\n' "$case" $((($(count "$case" $many) - $(count "$case" $few)) / (many - few))) >>"$counted"
    tail -n 1 "$counted" >&2
done

if [ "${1:-}" = --update ]; then
    {
        echo "# Instructions per run of each case, written by benches/instructions.sh --update."
        column -t "$counted"
    } >"$baseline"
    exit
fi

awk -v tolerated=$tolerated '
    NR == FNR { if ($1 != "#") before[$1] = $2; next }
    !($1 in before) { printf "%-24s %10d  (new)\n", $1, $2; next }
    {
        change = 100 * ($2 - before[$1]) / before[$1]
        printf "%-24s %10d  before %10d  %+6.1f %%%s\n", $1, $2, before[$1], change, change > tolerated ? "  <-- dearer" : ""
        if (change > tolerated) failed = 1
    }
    END { exit failed }' "$baseline" "$counted"
