#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The long fuzzing that tests/run.sh has no time for.
#   tests/fuzz/nightly.sh [--runs N] [--planted-seconds N] [TARGET...]
#
# For each target (gguf, tokenizer, ...; default: all), and a table of it all at the end:
#   1. N executions (default 10,000,000) under AddressSanitizer and UndefinedBehaviorSanitizer;
#   2. line coverage of what it fuzzes by the corpus that grew, at least 85 %;
#   3. the proof that it finds bugs: planted/TARGET.sed takes one check out of a copy of the source
#      (of the file that its first line names), and the target, from the stored corpus, must crash
#      within the given seconds (default 600).
# What is found lies in build/fuzz-nightly/TARGET/.  Exit 1 if anything is not as it should be.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$root/build/fuzz-nightly
least_coverage=85
runs=10000000
planted_seconds=600
targets=()
while [[ $# -gt 0 ]]; do
    case "$1" in
    --runs) runs=$2; shift ;;
    --planted-seconds) planted_seconds=$2; shift ;;
    -h | --help) sed -n '4,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "nightly.sh: unknown option $1" >&2; exit 64 ;;
    *) targets+=("$1") ;;
    esac
    shift
done
cd "$root"
if [[ ${#targets[@]} -eq 0 ]]; then
    for source in tests/fuzz/fuzz_*.c; do
        name=$(basename "$source" .c)
        targets+=("${name#fuzz_}")
    done
fi

# The sources whose coverage is asked of a target: the parsers, not what opens and maps files.
fuzzed_sources() {
    case "$1" in
    gguf) echo engine/model/gguf_parse.c engine/model/gguf_meta.c ;;
    sidecar) echo engine/sparsity/sidecar.c ;;
    tokenizer) echo engine/text/[!cj]*.c ;;
    chat_template) echo engine/text/jinja_*.c ;;
    api_parse) echo server/api/api_parse*.c server/api/api_fields.c server/api/api_scan.c ;;
    sse) echo server/http/sse.c ;;
    *) echo "nightly.sh: which sources does $1 fuzz?" >&2; return 1 ;;
    esac
}

# Longest input: large enough for every path, small enough to be quick.
max_len() {
    case "$1" in
    gguf | chat_template | sidecar) echo 4096 ;;
    *) echo 1024 ;;
    esac
}

n_bad=0
bad() { echo "nightly.sh: $*" >&2; n_bad=$((n_bad + 1)); }

# libfuzzer BINARY TARGET CORPUS OPTION...
libfuzzer() {
    local binary=$1 target=$2 corpus=$3 dictionary=()
    shift 3
    [[ -f tests/fuzz/$target.dict ]] && dictionary=("-dict=tests/fuzz/$target.dict")
    "$binary" -max_len="$(max_len "$target")" -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix="$work/$target/" "${dictionary[@]}" "$@" "$corpus" "tests/fuzz/corpus/$target"
}

fuzz() { # fuzz TARGET: its log is $work/TARGET/log
    local target=$1
    mkdir -p "$work/$target/corpus"
    libfuzzer "build/fuzz/tests/fuzz/fuzz_$target" "$target" "$work/$target/corpus" -runs="$runs" \
        >"$work/$target/log" 2>&1
}

executions() { sed -n 's/^stat::number_of_executed_units: *//p' "$work/$1/log"; }

# Prints the line coverage in per cent.
coverage() {
    local target=$1 program=build/fuzz-coverage/tests/fuzz/fuzz_$1 profile=$work/$1/profile
    LLVM_PROFILE_FILE=$profile.raw "$program" "tests/fuzz/corpus/$target" "$work/$target/corpus" >/dev/null
    "$profdata" merge -sparse "$profile.raw" -o "$profile"
    local sources
    read -ra sources < <(fuzzed_sources "$target")
    "$cov" report "$program" -instr-profile="$profile" "${sources[@]}" >"$work/$target/coverage.txt"
    "$cov" show "$program" -instr-profile="$profile" "${sources[@]}" >"$work/$target/coverage-lines.txt"
    awk '$1 == "TOTAL" { sub("%", "", $10); print $10 }' "$work/$target/coverage.txt"
}

# A copy of the source, in which one check at a time is taken out.
copy=$work/planted
copy_source() {
    rm -rf "$copy"
    mkdir -p "$copy"
    tar -c --exclude=./build --exclude=./.git --exclude=node_modules . | tar -x -C "$copy"
    cmake -S "$copy" --preset fuzz >/dev/null
}

# plant SCRIPT FILE: a script that changes nothing has gone stale.
plant() {
    sed -E -i -f "$1" "$copy/$2"
    ! cmp -s "$2" "$copy/$2"
}

# Prints how many seconds the crash took, or fails.
find_planted_bug() {
    local target=$1 script=tests/fuzz/planted/$1.sed file status=0 begin
    file=$(sed -n '1s/^# //p' "$script")
    plant "$script" "$file" || return 1
    cmake --build "$copy/build/fuzz" --target "fuzz_$target" >"$work/$target/planted-build.log" 2>&1 ||
        return 1
    begin=$SECONDS
    rm -rf "$copy/corpus"
    mkdir -p "$copy/corpus"
    libfuzzer "$copy/build/fuzz/tests/fuzz/fuzz_$target" "$target" "$copy/corpus" \
        -max_total_time="$planted_seconds" >"$work/$target/planted.log" 2>&1 || status=$?
    cp "$file" "$copy/$file"
    [[ $status -ne 0 ]] && grep -qE 'Sanitizer|runtime error|deadly signal' "$work/$target/planted.log" || return 1
    echo $((SECONDS - begin))
}

deploy/install-deps.sh --nightly
profdata=$(command -v llvm-profdata-14 || command -v llvm-profdata)
cov=$(command -v llvm-cov-14 || command -v llvm-cov)
mkdir -p "$work"
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz -- -k 0 "${targets[@]/#/fuzz_}"
cmake -S . -B build/fuzz-coverage -G Ninja -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=Debug \
    -DCMAKE_C_FLAGS="-fprofile-instr-generate -fcoverage-mapping" >/dev/null
cmake --build build/fuzz-coverage -- "${targets[@]/#/fuzz_}"

# As many targets at a time as there are cores.
for target in "${targets[@]}"; do
    while [[ $(jobs -pr | wc -l) -ge $(nproc) ]]; do
        wait -n || true
    done
    fuzz "$target" &
done
wait || true

copy_source
table=$(printf '%-12s %12s %12s %10s' target executions 'coverage/%' 'planted/s')
for target in "${targets[@]}"; do
    n=$(executions "$target")
    if [[ ${n:-0} -lt $runs ]] || grep -qE 'ERROR: |runtime error' "$work/$target/log"; then
        bad "$target: a bug, or fewer than $runs executions: see $work/$target/log"
    fi
    percent=$(coverage "$target")
    awk -v p="$percent" -v least="$least_coverage" 'BEGIN { exit !(p >= least) }' ||
        bad "$target: $percent % of the lines, the bar is $least_coverage %"
    if ! seconds=$(find_planted_bug "$target"); then
        bad "$target: did not find the planted bug: see $work/$target/planted*.log"
        seconds=never
    fi
    table+=$(printf '\n%-12s %12s %12s %10s' "$target" "${n:-0}" "$percent" "$seconds")
done
echo "$table"
[[ $n_bad -eq 0 ]]
