#!/usr/bin/env bash
# The archive of a release for PGXN: what is committed, as build/dist/bacmr_ops-VERSION.zip, with
# META.json in the folder bacmr_ops-VERSION. Refuses a checkout in which something else lies than
# would be in the archive, and a META.json that does not fit.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
    echo "dist: $*" >&2
    exit 1
}

main() {
    local version name archive listed file
    perl scripts/check-release.pl || die 'the versions in the files do not agree'
    git rev-parse --is-inside-work-tree >/dev/null 2>&1 || die 'this is no checkout of git'
    [ -z "$(git status --porcelain)" ] || die 'there is something that is not committed: git status'
    version=$(sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" bacmr_ops.control)
    name=bacmr_ops-$version archive=build/dist/bacmr_ops-$version.zip
    mkdir -p build/dist
    git archive --format=zip --prefix="$name/" -o "$archive" HEAD
    # What PGXN and those who unpack it look for.
    listed=$(unzip -Z1 "$archive")
    for file in META.json README.md LICENSE CHANGELOG.md Makefile bacmr_ops.control \
        "sql/bacmr_ops--$version.sql" docs/reference.md; do
        grep -qxF "$name/$file" <<<"$listed" || die "$archive lacks $file"
    done
    if grep -E '\.(o|so|bc)$' <<<"$listed"; then die "$archive contains what was built"; fi
    echo "$archive"
}

main "$@"
