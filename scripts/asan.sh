#!/usr/bin/env bash
# Runs tests in servers with the extension under AddressSanitizer, LeakSanitizer and
# UndefinedBehaviorSanitizer. What one of them reports fails the run, whatever the tests say.
#
#   scripts/asan.sh [sql] [isolation] [tap]        as scripts/test.sh; sql without an argument
#   TESTS='expire*' scripts/asan.sh sql
#   PG=17                                          another server of this machine
#
# Debian's server is not built with sanitizers. So the extension and the test module are, in a copy of
# the checkout (build/asan/checkout), with g++, and are installed into a copy of the server's own files
# (a folder in /tmp, removed at the end), whose `postgres` loads the sanitizers' runtimes before all
# else. Hence:
#
#   - Seen: what C++ code does wrong with the heap, the stack and globals, the containers of the
#     standard library included, in every process of the server; undefined behaviour, signed overflow
#     too (-fno-wrapv); memory that nobody can reach any more when a process ends, if the extension or
#     a library of its own (curl, zstd, …) has allocated it.
#   - Not seen: an overflow within a palloc'd chunk (the server hands out pieces of larger blocks);
#     memory of the server's own that is read before it is written.
#
# Tests that limit memory, or ask for more than there is, are skipped and say so: the sanitizers reserve
# terabytes of addresses, and end the process where an allocation in C++ must fail.
#
# At first each kind of error is planted (bacmr_test_plant, test/module/plant.cpp): where one goes
# unnoticed, no silence means anything, and the run fails.
#
# The reports stay in build/asan/reports. The last line is "N reports; " and that of scripts/test.sh.
set -euo pipefail
shopt -s nullglob

cd "$(dirname "${BASH_SOURCE[0]}")/.."
REPORTS_KEPT=$PWD/build/asan/reports
COPY=$PWD/build/asan/checkout
# shellcheck source=scripts/checkout.sh
. scripts/checkout.sh
unset MAKEFLAGS MFLAGS MAKELEVEL

die() {
    echo "asan: $*" >&2
    exit 1
}

# --- the server's copy -----------------------------------------------------------------------

# A server finds its other folders by the way from its own, so the copy keeps their paths.
copy_server() {
    local real=$1 folder
    for folder in $("$real" --bindir) $("$real" --pkglibdir) $("$real" --sharedir); do
        mkdir -p "$PREFIX$folder"
        # Bitcode, of which there is much, is for the JIT; pgxs comes along.
        tar -c -C "$folder" --exclude=./bitcode . | tar -x -C "$PREFIX$folder"
    done
    mkdir -p "$PREFIX$(dirname "$("$real" --pkgincludedir)")"
    ln -s "$("$real" --pkgincludedir)" "$PREFIX$("$real" --pkgincludedir)"
    BIN=$PREFIX$("$real" --bindir)
    export PG_CONFIG=$BIN/pg_config
    rm -f "$PREFIX$("$real" --pkglibdir)/bacmr_ops.so"
}

# ASan is ready after the first allocation. Left to the libraries' own order that would be made by the
# constructor of libgpg-error, with a lock of gettext's in hand that ASan then waits for. So a library
# of a few lines makes it, whose constructor runs before all others.
first_allocation() {
    gcc -shared -fPIC -Wl,-z,initfirst -o "$PREFIX/first.so" -x c - <<'EOF'
#include <stdlib.h>
void *volatile first;
__attribute__((constructor)) static void begin(void) { first = malloc(1); free(first); }
EOF
    echo "$PREFIX/first.so"
}

# exitcode=0: that of a process with leaks, which the postmaster would take for a crash; the report
# tells. After an error the process aborts.
wrap_postgres() {
    local runtimes=() name
    for name in libasan.so libubsan.so; do
        runtimes+=("$(g++ -print-file-name="$name")")
        [[ ${runtimes[-1]} == /* ]] || die "g++ has no $name"
        runtimes[-1]=$(realpath "${runtimes[-1]}")
    done
    runtimes+=("$(first_allocation)")
    mv "$BIN/postgres" "$BIN/postgres.real"
    # Each frame with its library: that tells whose leak it is.
    local common="log_path=$REPORTS/report:abort_on_error=1:stack_trace_format=\"    #%n %f %S %M\""
    cat >"$BIN/postgres" <<EOF
#!/bin/sh
LD_PRELOAD='${runtimes[*]}'
ASAN_OPTIONS='$common:exitcode=0:handle_abort=1:detect_leaks=1:allocator_may_return_null=1:quarantine_size_mb=16:detect_stack_use_after_return=1'
UBSAN_OPTIONS='$common:print_stacktrace=1'
LSAN_OPTIONS='print_suppressions=0'
export LD_PRELOAD ASAN_OPTIONS UBSAN_OPTIONS LSAN_OPTIONS
exec '$BIN/postgres.real' "\$@"
EOF
    chmod 755 "$BIN/postgres"
}

# --- reports ---------------------------------------------------------------------------------

# Prints of each report what is an error; of leaks those that are ours. One line before each, "== FILE".
# A leak of ours: code of the extension's in its stack, or allocated by a library that none but the
# extension uses. (The stacks end early in code without frame pointers.)
errors() {
    local file
    for file in "$@"; do
        if grep -qE 'ERROR: AddressSanitizer|runtime error:|LeakSanitizer has encountered' "$file"; then
            echo "== $file"
            grep -vE '^$|^=+$' "$file" | head -n 60
        else
            perl -00 -ne '
                next unless /^(?:Direct|Indirect) leak/;
                my ($first) = /^\s*#1 .*\((\S+?)\+0x/m;
                next unless /\(bacmr_(?:ops|test)\.so\+/
                    or ($first // "") =~ /^lib(?:curl|microhttpd|zstd|stdc\+\+|nghttp2)[-.]/;
                print "== $ARGV\n" unless $seen++;
                print' "$file"
        fi
    done
}

count_reports() { grep -c '^== ' || true; }

# --- planted errors --------------------------------------------------------------------------

PLANTED=(overflow use-after-free container stack leak undefined)

# In single-user servers, one after the other; the function lies in the module, which is compiled as the
# extension is.
check_the_net() {
    local kind seen data=$PREFIX/planted lib missed=()
    lib=$COPY/test/module/bacmr_test.so
    cp "$lib" "$PREFIX/"
    as_pg "$BIN/initdb" -D "$data" -A trust -U postgres --no-sync >"$PREFIX/initdb.log" 2>&1 ||
        die "initdb failed: $(tail -n 3 "$PREFIX/initdb.log")"
    rm -f "$REPORTS"/*
    for kind in nothing "${PLANTED[@]}"; do
        as_pg "$BIN/postgres" --single -D "$data" postgres >"$PREFIX/planted.log" 2>&1 <<EOF || true
CREATE OR REPLACE FUNCTION plant(text) RETURNS void LANGUAGE c AS '$PREFIX/bacmr_test.so', 'bacmr_test_plant'
SELECT plant('$kind')
EOF
        seen=$(errors "$REPORTS"/*)
        if [ "$kind" = nothing ]; then
            grep -q 'nothing is planted' "$PREFIX/planted.log" || die "the test module does not run:
$(tail -n 5 "$PREFIX/planted.log")"
            [ -z "$seen" ] || die "a report where nothing is planted: $seen"
        elif [[ $seen != *"plant_${kind//-/_}"* ]]; then
            missed+=("$kind")
            tail -n 20 "$PREFIX/planted.log" "$REPORTS"/* >&2
        fi
        rm -rf "${REPORTS:?}"/*
        # An abort has left its lock.
        rm -f "$data/postmaster.pid"
    done
    rm -rf "$data"
    [ ${#missed[@]} -eq 0 ] || die "errors that were planted went unnoticed: ${missed[*]}"
    echo "== planted errors: all ${#PLANTED[@]} kinds are noticed"
}

as_pg() (
    cd "$PREFIX" || exit
    if [ "$(id -u)" -eq 0 ]; then exec setpriv --reuid postgres --regid postgres --init-groups -- "$@"; fi
    exec "$@"
)

# --- the run ---------------------------------------------------------------------------------

main() {
    local kinds=("$@") real=${PG_CONFIG:-/usr/lib/postgresql/${PG:-15}/bin/pg_config} status=0 log found
    [ ${#kinds[@]} -gt 0 ] || kinds=(sql)
    scripts/deps.sh build test
    [ -x "$real" ] || die "there is no $real"
    copy_checkout "$COPY"
    PREFIX=$(mktemp -d /tmp/bacmr-asan.XXXXXX)
    # shellcheck disable=SC2064  # the folder as it is now
    trap "rm -rf '$PREFIX'" EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    REPORTS=$PREFIX/reports
    mkdir -m 1777 "$REPORTS"
    if [ "$(id -u)" -eq 0 ]; then chown postgres: "$PREFIX"; fi
    chmod 755 "$PREFIX"
    copy_server "$real"
    wrap_postgres
    log=build/asan/test.log
    export SANITIZE=yes BITCODE=no
    (cd "$COPY" && make -s -j"$(nproc)" all && make -s -j"$(nproc)" -C test/module) >build/asan/build.log 2>&1 ||
        { grep -A5 -E 'error|Error' build/asan/build.log | head -n 40; die "the build failed (build/asan/build.log)"; }
    check_the_net
    (cd "$COPY" && scripts/test.sh "${kinds[@]}") 2>&1 | tee "$log" || status=1
    rm -rf "$REPORTS_KEPT"
    cp -r "$REPORTS" "$REPORTS_KEPT"
    found=$(cd "$REPORTS_KEPT" && errors ./*)
    if [ -n "$found" ]; then
        printf '%s\n' "$found" | head -n 300
        status=1
    fi
    echo "$(printf '%s\n' "$found" | count_reports) reports; $(tail -n 1 "$log")"
    return "$status"
}

main "$@"
