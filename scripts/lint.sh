#!/usr/bin/env bash
# Checks what the tests do not: format, warnings of two compilers, clang-tidy, shell scripts,
# and the house rules of docs/architecture.md. One line a check: ok or FAIL.
#
#   scripts/lint.sh             all checks; exit status 1 when one fails
#   scripts/lint.sh --format    rewrites the sources with clang-format instead
# shellcheck disable=SC2317  # checks are called by their names
set -euo pipefail
shopt -s nullglob globstar extglob

cd "$(dirname "${BASH_SOURCE[0]}")/.."
BUILD=build/lint
JOBS=$(nproc)
failures=0
# The make that may have called this has job slots of its own.
unset MAKEFLAGS MFLAGS MAKELEVEL

# check WHAT COMMAND …: the command prints what is wrong and fails, or prints nothing of interest.
check() {
    local what=$1 start=$SECONDS output
    shift
    if output=$("$@" 2>&1); then
        echo "ok    $what ($((SECONDS - start)) s)"
    else
        echo "FAIL  $what"
        printf '%s\n' "$output" | sed 's/^/      /' | head -n 200
        failures=$((failures + 1))
    fi
}

cxx_files() { printf '%s\n' {src,test,bench}/**/*.{cpp,hpp}; }
sh_files() { printf '%s\n' .ci/run {scripts,demo,bench,test,monitoring}/**/*.sh; }

# each LIST COMMAND …: the command with the files that LIST prints, if there are any.
each() {
    local files list=$1
    shift
    mapfile -t files < <("$list")
    if [ ${#files[@]} -eq 0 ] || [ -z "${files[0]}" ]; then return 0; fi
    "$@" "${files[@]}"
}

# none PATTERN PATH …: fails, and shows the lines, where the pattern occurs.
none() {
    local pattern=$1
    shift
    [ $# -gt 0 ] || return 0
    ! grep -nHE "$pattern" "$@"
}

# --- compilers and clang-tidy ----------------------------------------------------------------

build_gcc() { make -s -j"$JOBS" all; }

# A whole build, not -fsyntax-only: it compiles again only what has changed. No sanitizers: they
# add nothing to what the compiler can see, and clang's need a package of their own.
build_clang() {
    cmake -S . -B "$BUILD" -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=Debug \
        -DBACMR_SANITIZE=OFF -DPG="${PG:-15}" ${PG_CONFIG:+-DPG_CONFIG="$PG_CONFIG"} || return 1
    cmake --build "$BUILD" -j"$JOBS" --target everything
}

# What compile_commands.json does not name is checked by nobody: it must be in sources.txt.
all_listed() {
    local listed file bad=0
    listed=" $(sed 's/#.*//' sources.txt | tr -s '[:space:]' ' ') "
    for file in src/**/*.cpp; do
        if [[ $listed != *" $file "* ]]; then
            echo "$file is not in sources.txt"
            bad=1
        fi
    done
    return "$bad"
}

tidy() {
    [ -e "$BUILD/compile_commands.json" ] || { echo "no compile_commands.json"; return 1; }
    mapfile -t files < <(perl -ne 'print "$1\n" if /"file": "(.*)"/' "$BUILD/compile_commands.json")
    [ ${#files[@]} -gt 0 ] || return 0
    printf '%s\0' "${files[@]}" | xargs -0 -n 1 -P "$JOBS" scripts/lint-tidy.sh "$BUILD"
}

# --- house rules -----------------------------------------------------------------------------

# folder: what it may include besides itself. The table is the picture in docs/architecture.md.
declare -A MAY_INCLUDE=(
    [core]=''
    [pg]='core'
    [net]='core pg'
    [sources]='core pg'
    [metrics]='core pg net'
    [providers]='core pg net sources'
    [jobs]='core pg net sources metrics providers'
    [worker]='core pg net sources metrics providers jobs'
)

arrows() {
    local folder files line target bad=0
    for folder in src/*/; do
        folder=$(basename "$folder")
        if [ -z "${MAY_INCLUDE[$folder]+x}" ]; then
            echo "src/$folder is not in the table of scripts/lint.sh"
            bad=1
            continue
        fi
        files=(src/"$folder"/**/*.[ch]pp)
        [ ${#files[@]} -gt 0 ] || continue
        while IFS= read -r line; do
            target=$(sed -E 's|.*#[[:space:]]*include[[:space:]]*"([^/"]+)/.*|\1|' <<<"$line")
            # Other folders in quotes are the server's: utils/, access/, …
            if [ "$target" != .. ] && [ ! -d "src/$target" ]; then continue; fi
            case " $folder ${MAY_INCLUDE[$folder]} " in
            *" $target "*) ;;
            *) echo "$line"; bad=1 ;;
            esac
        done < <(grep -nHE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"[^"]+/' "${files[@]}")
    done
    return "$bad"
}

core_is_pure() {
    local bad=0 files=(src/core/**/*.[ch]pp)
    # In quotes: core's own headers only. In brackets: no server, no libpq, no curl.
    if [ ${#files[@]} -eq 0 ]; then return 0; fi
    if grep -nHE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' "${files[@]}" |
        grep -vE 'include[[:space:]]*"core/'; then bad=1; fi
    none '#[[:space:]]*include[[:space:]]*<(postgres|libpq|pg_|c\.h|fmgr|curl|.*/(libpq|postgresql)/)' \
        "${files[@]}" || bad=1
    return "$bad"
}

pg_try_only_in_pg() {
    local files=(src/*.[ch]pp)
    files+=(src/!(pg)/**/*.[ch]pp)
    none '\bPG_(TRY|CATCH|FINALLY|END_TRY|RE_THROW)\b' "${files[@]}"
}

curl_only_in_net() {
    local files=(src/*.[ch]pp src/!(net)/**/*.[ch]pp)
    none '#[[:space:]]*include[[:space:]]*[<"]curl/|\bcurl_(easy|multi|global|slist|url)' "${files[@]}"
}

# Nobody's object may take the place of ours while CREATE EXTENSION runs as a superuser.
sql_is_safe() {
    scripts/lint-sql-security.pl --self-test || return 1
    scripts/lint-sql-security.pl sql/*.sql
}

# The threat model names the tests that attempt each threat: none may be a name only.
security_tests_exist() {
    local file bad=0
    while read -r file; do
        if ! compgen -G "test/*/$file" >/dev/null && ! compgen -G "test/*/*/$file" >/dev/null; then
            echo "docs/security.md names $file, which is not there"
            bad=1
        fi
    done < <(grep -oE '\b[a-z_]+(\.(sql|pl|spec)|_test\.cpp)\b' docs/security.md | sort -u)
    return "$bad"
}

no_leftovers() { none '\b(TODO|FIXME|XXX)\b' src/**/*.[ch]pp sql/*.sql; }

# --- all of them -----------------------------------------------------------------------------

main() {
    scripts/deps.sh build lint
    if [ "${1:-}" = --format ]; then
        each cxx_files clang-format -i
        return 0
    fi

    check 'format (clang-format)' each cxx_files clang-format --dry-run -Werror
    check 'shell scripts (shellcheck)' each sh_files shellcheck -x
    check 'every source is in sources.txt' all_listed
    check 'src/core includes nothing but itself and the standard library' core_is_pure
    check 'includes follow the arrows' arrows
    check 'PG_TRY only in src/pg' pg_try_only_in_pg
    check 'curl only in src/net' curl_only_in_net
    check 'SQL objects have a comment and a place in docs/reference.md' perl scripts/lint-sql.pl
    check 'docs/errors.md lists the errors of the sources' perl scripts/errors.pl --check
    check 'versions agree, and each released one has a way to this one' perl scripts/check-release.pl
    check 'SQL scripts: qualified names, pinned search_path, nothing for PUBLIC' sql_is_safe
    check 'the tests that docs/security.md names exist' security_tests_exist
    check 'nothing left to do in src and sql' no_leftovers
    check 'builds with g++, warnings as errors' build_gcc
    check 'builds with clang++, warnings as errors' build_clang
    check 'clang-tidy' tidy

    if [ "$failures" -gt 0 ]; then
        echo "lint: $failures checks failed"
        return 1
    fi
    echo "lint: all checks passed"
}

main "$@"
