#!/usr/bin/env bash
# Builds the Debian packages, postgresql-NN-bacmr-ops for each NN whose server headers Debian
# installs, in a copy below build/deb; the packages lie there too. Neither the network nor root is
# needed where the build's packages are installed (scripts/deps.sh deb).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset MAKEFLAGS MFLAGS MAKELEVEL PG PG_CONFIG

# Every file of the source, as it is now: what git ignores is no source. From an archive of a release,
# which has no git, all but what a build leaves.
list_sources() {
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
            # Deleted, and not committed yet.
            if [ -e "$file" ]; then printf '%s\0' "$file"; fi
        done
    else
        find . -path ./build -prune -o -type f ! -name '*.o' ! -name '*.bc' ! -name '*.d' \
            ! -name '*.so' -print0
    fi
}

main() {
    local version copy log
    scripts/deps.sh deb
    version=$(sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" bacmr_ops.control)
    rm -rf build/deb
    copy=build/deb/bacmr-ops-$version log=build/deb/build.log
    mkdir -p "$copy"
    list_sources | tar -c --null -T - | tar -x -C "$copy"
    # One paragraph for each version that this machine's Debian has.
    if ! (cd "$copy" && pg_buildext updatecontrol && dpkg-buildpackage -b -us -uc -j"$(nproc)") \
        >"$log" 2>&1; then
        echo "deb: the build failed ($log)" >&2
        tail -n 40 "$log" >&2
        return 1
    fi
    rm -rf "$copy"
    ls build/deb/*.deb
}

main "$@"
