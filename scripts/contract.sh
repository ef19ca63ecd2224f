#!/usr/bin/env bash
# Checks the stand-ins for OpenAI and Pinecone against the services' own clients and descriptions: runs
# test/contract, with its packages of npm; prints TAP.
#
# The descriptions are no part of the project: BACMR_CONTRACTS names the folder that has them
# (openai-embeddings.json, pinecone-data-2025-10.yaml); without it the clients are checked alone.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

modules=$(scripts/npm-packages.sh contract)
if [ -z "${BACMR_CONTRACTS:-}" ]; then
    echo "# BACMR_CONTRACTS is not set: no check against the official descriptions"
fi
exec node test/contract/contract.mjs "$modules" ${BACMR_CONTRACTS:+"$BACMR_CONTRACTS"}
