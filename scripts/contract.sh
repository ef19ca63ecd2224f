#!/usr/bin/env bash
# Checks the stand-ins for OpenAI and Pinecone against the services' own clients and descriptions.
#
#   scripts/contract.sh             runs test/contract; prints TAP
#   scripts/contract.sh packages    only sees that the npm packages are there; prints their folder
#
# The packages come from npm, as test/contract/package-lock.json has them, into build/contract. The
# descriptions are no part of the project: BACMR_CONTRACTS names the folder that has them
# (openai-embeddings.json, pinecone-data-2025-10.yaml); without it the clients are checked alone.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
FOLDER=$PWD/build/contract
LOCK=test/contract/package-lock.json

die() {
    echo "contract: $*" >&2
    exit 1
}

# Installed again when the lock file has changed; the copy of it that says so comes last.
packages() {
    if cmp -s "$LOCK" "$FOLDER/installed.json"; then return 0; fi
    command -v npm >/dev/null || die "needs node and npm (scripts/deps.sh contract)"
    mkdir -p "$FOLDER"
    rm -f "$FOLDER/installed.json"
    cp test/contract/package.json test/contract/.npmrc "$LOCK" "$FOLDER/"
    npm ci --prefix "$FOLDER" >"$FOLDER/npm.log" 2>&1 || {
        tail -n 20 "$FOLDER/npm.log" >&2
        die "npm could not install the packages"
    }
    cp "$LOCK" "$FOLDER/installed.json"
}

packages
case ${1:-} in
packages) echo "$FOLDER/node_modules" ;;
'')
    if [ -z "${BACMR_CONTRACTS:-}" ]; then
        echo "# BACMR_CONTRACTS is not set: no check against the official descriptions"
    fi
    exec node test/contract/contract.mjs "$FOLDER/node_modules" ${BACMR_CONTRACTS:+"$BACMR_CONTRACTS"}
    ;;
*) die "unknown argument '$1'" ;;
esac
