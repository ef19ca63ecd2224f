#!/usr/bin/env bash
# Fuzzes what reads bytes from outside: builds test/fuzz/*_fuzz.cpp with clang's libFuzzer under
# sanitizers, and runs each for a while, beginning with its kept corpus. One line a target.
#
#   scripts/fuzz.sh [NAME …]       all targets, or those named (line_reader, manifest, s3_reply)
#
# FUZZ_SECONDS  for each target, 60 if not given
#
# New inputs that reach new code go to build/fuzz/found/NAME, where the next run takes them up; the
# kept corpus is not changed. An input that fails is kept in build/fuzz/failed and named; run it
# alone with build/fuzz/NAME_fuzz FILE.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
BUILD=build/fuzz
SECONDS_EACH=${FUZZ_SECONDS:-60}
# The make that may have called this has job slots of its own.
unset MAKEFLAGS MFLAGS MAKELEVEL

die() {
    echo "fuzz: $*" >&2
    exit 1
}

build() {
    mkdir -p "$BUILD"
    { cmake -S . -B "$BUILD" -DCMAKE_CXX_COMPILER=clang++ -DBACMR_FUZZ=ON &&
        cmake --build "$BUILD" -j"$(nproc)" --target "${@/%/_fuzz}"; } >"$BUILD/build.log" 2>&1 || {
        grep -A5 -E 'error|Error' "$BUILD/build.log" | head -n 60 >&2 || true
        die "the build failed: $BUILD/build.log"
    }
}

# One target; prints its line, and fails where an input made it fail.
run() {
    local name=$1 log=$BUILD/$1.log status=0 runs coverage
    mkdir -p "$BUILD/found/$name" "$BUILD/failed"
    rm -f "$BUILD/failed/$name"-*
    # New finds go to the first folder.
    "$BUILD/${name}_fuzz" -max_total_time="$SECONDS_EACH" -timeout=20 -print_final_stats=1 \
        -artifact_prefix="$BUILD/failed/$name-" \
        "$BUILD/found/$name" "test/fuzz/corpus/$name" >"$log" 2>&1 || status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    coverage=$(sed -n 's/^#.* cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
    if [ "$status" -eq 0 ]; then
        echo "ok    $name: ${runs:-no} runs, ${coverage:-no} edges covered"
        return 0
    fi
    echo "FAIL  $name after ${runs:-an unknown number of} runs: $log"
    grep -m1 -E 'ERROR: |SUMMARY: ' "$log" | sed 's/^/      /' || true
    find "$BUILD/failed" -name "$name-*" | sed 's/^/      input: /'
    return 1
}

main() {
    [[ $SECONDS_EACH =~ ^[1-9][0-9]*$ ]] || die "FUZZ_SECONDS is a number of seconds, not '$SECONDS_EACH'"
    local name file bad=0 names=("$@")
    if [ ${#names[@]} -eq 0 ]; then
        for file in test/fuzz/*_fuzz.cpp; do names+=("$(basename "$file" _fuzz.cpp)"); done
    fi
    for name in "${names[@]}"; do
        [ -e "test/fuzz/${name}_fuzz.cpp" ] || die "there is no test/fuzz/${name}_fuzz.cpp"
    done
    scripts/deps.sh fuzz
    build "${names[@]}"
    for name in "${names[@]}"; do run "$name" || bad=1; done
    return "$bad"
}

main "$@"
