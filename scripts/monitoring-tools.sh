#!/usr/bin/env bash
# Debian's Prometheus, Alertmanager and postgres_exporter for the tests: unpacked below build/, not
# installed, since the packages would start services. Prints the folder with the programs.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
TOOLS=$PWD/build/monitoring-tools
PACKAGES=(prometheus prometheus-alertmanager prometheus-postgres-exporter)
# A package of its own from Debian 13 on.
SPLIT_OFF=promtool

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

download() {
    local split=()
    if [ -n "$(apt-cache show "$SPLIT_OFF" 2>/dev/null)" ]; then split=("$SPLIT_OFF"); fi
    cd "$1" && apt-get -qq download "${PACKAGES[@]}" "${split[@]}"
}

unpack() {
    local folder
    folder=$(mktemp -d)
    # As root, apt downloads as a user of its own, who has to be able to write there.
    chmod 777 "$folder"
    # A machine that has not been asked for packages yet has no lists of them.
    if ! (download "$folder" 2>/dev/null) && ! { as_root apt-get -qq update && (download "$folder"); }; then
        rm -rf "$folder"
        echo "monitoring-tools: apt-get could not download ${PACKAGES[*]}" >&2
        exit 1
    fi
    mkdir -p "$TOOLS"
    for package in "$folder"/*.deb; do dpkg -x "$package" "$TOOLS"; done
    rm -rf "$folder"
    touch "$TOOLS/complete"
}

if [ ! -e "$TOOLS/complete" ]; then unpack; fi
echo "$TOOLS/usr/bin"
