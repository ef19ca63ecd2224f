#!/usr/bin/env bash
# clang-tidy on one file, for scripts/lint.sh: lint-tidy.sh BUILD FILE
#
# It takes seconds a file, so what passed is remembered under the checksum of everything that could
# change the answer: the preprocessed source, the checks, and the tool.
set -euo pipefail

build=$1 file=$2
seen=$build/tidy
mkdir -p "$seen"

# The file's own compile command, to preprocess with the same flags. -fdirectives-only would be
# faster and wrong: macros decide what is compiled. Comments count: NOLINT is one.
preprocess() {
    local command
    command=$(FILE=$file perl -MJSON::PP -0ne \
        'for (@{decode_json($_)}) { if ($_->{file} eq $ENV{FILE}) { print $_->{command}; last } }' \
        "$build/compile_commands.json")
    command=${command% -o *}
    (cd "$build" && sh -c "$command -E -C '$file'")
}

key=$( { preprocess; cat .clang-tidy; clang-tidy --version; } | sha256sum | cut -d ' ' -f 1)
if [ -e "$seen/$key" ]; then exit 0; fi

# Its running count of suppressed warnings goes to stderr; that is shown only when something fails.
if ! output=$(clang-tidy --quiet -p "$build" "$file" 2>&1); then
    printf '%s\n' "$output" | grep -vE '^[0-9]+ (warning|error).* (generated|treated)|^Suppressed |^Error while processing' || true
    exit 1
fi
touch "$seen/$key"
