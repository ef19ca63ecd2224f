#!/usr/bin/env bash
# Packages of npm that a test uses, as its package-lock.json has them: installed below build/, not in
# the system. Prints their folder.
#
#   scripts/npm-packages.sh contract|model      those of test/contract or test/model
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
    echo "npm-packages: $*" >&2
    exit 1
}

set_name=${1:-}
[ -e "test/$set_name/package-lock.json" ] || die "no packages of the name '$set_name'"
FOLDER=$PWD/build/$set_name

# Installed again when the lock file has changed; the copy of it that says so comes last.
if ! cmp -s "test/$set_name/package-lock.json" "$FOLDER/installed.json"; then
    command -v npm >/dev/null || die "needs node and npm (scripts/deps.sh npm)"
    mkdir -p "$FOLDER"
    rm -f "$FOLDER/installed.json"
    cp "test/$set_name"/{package.json,.npmrc,package-lock.json} "$FOLDER/"
    # Where nothing answers, npm tries for ten minutes.
    timeout "${NPM_TIMEOUT:-180}" npm ci --prefix "$FOLDER" >"$FOLDER/npm.log" 2>&1 || {
        tail -n 20 "$FOLDER/npm.log" >&2
        die "npm could not install the packages of test/$set_name"
    }
    cp "test/$set_name/package-lock.json" "$FOLDER/installed.json"
fi
echo "$FOLDER/node_modules"
