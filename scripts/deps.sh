#!/usr/bin/env bash
# Installs the packages that building, testing and checking need, through apt.
#
#   scripts/deps.sh [build] [demo] [test] [npm] [pictures] [roots] [lint] [fuzz] [deb]
# (build, test and lint without an argument.)
#
# Asks the local package database first: where nothing is missing it prints nothing and needs
# neither the network nor root. PG=17 picks another server version than 15.
set -euo pipefail

PG=${PG:-15}

packages() {
    case $1 in
    # clang and llvm: PGXS compiles every source a second time, to bitcode for the JIT.
    build) echo build-essential clang llvm pkg-config libcurl4-openssl-dev libmicrohttpd-dev libssl-dev \
        libzstd-dev zlib1g-dev nlohmann-json3-dev "postgresql-$PG" "postgresql-server-dev-$PG" ;;
    test) echo cmake perl "postgresql-$PG-cron" "postgresql-$PG-pgtap" \
        libtap-parser-sourcehandler-pgtap-perl libipc-run-perl libgtest-dev googletest nlohmann-json3-dev \
        jq procps util-linux "$(packages corpus)" "$(packages swift)" "$(packages npm)" ;;
    # For scripts/npm-packages.sh. They may have come from elsewhere than Debian, under other names.
    npm) { command -v node && command -v npm; } >/dev/null || echo nodejs npm ;;
    demo) echo "postgresql-$PG-cron" jq procps util-linux "$(packages corpus)" "$(packages swift)" ;;
    # Real text, and an S3 server.
    corpus) echo debian-handbook python3 zstd ;;
    swift) echo swift-proxy swift-account swift-container swift-object memcached ;;
    # monitoring/render.sh, beside build and demo.
    pictures) echo python3-matplotlib python3-pil fonts-dejavu-core ;;
    # Root folders of other releases (scripts/other-release.sh).
    roots) echo debootstrap debian-archive-keyring procps util-linux ;;
    lint) echo cmake clang clang-format clang-tidy libgtest-dev googletest nlohmann-json3-dev perl shellcheck ;;
    # libclang-rt: libFuzzer and the sanitizers of clang.
    fuzz) echo cmake make clang libclang-rt-dev pkg-config libssl-dev libzstd-dev zlib1g-dev \
        nlohmann-json3-dev ;;
    deb) echo build-essential debhelper fakeroot pkg-config libcurl4-openssl-dev libmicrohttpd-dev libssl-dev \
        libzstd-dev zlib1g-dev nlohmann-json3-dev postgresql-server-dev-all ;;
    *) die "unknown profile '$1' (known: build, demo, test, npm, pictures, roots, lint, fuzz, deb)" ;;
    esac
}

# What not every release of Debian has. Tests that need one of these are skipped without it, and say so.
optional() {
    case $1 in
    test) echo "postgresql-$PG-pgvector" radosgw ceph-mon ceph-osd ceph-common ;;
    esac
}

die() {
    echo "deps: $*" >&2
    exit 1
}

installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# The packages of the given profiles that are not there, each once.
missing_of() {
    local profile package
    for profile in "$@"; do
        for package in $(packages "$profile"); do
            installed "$package" || echo "$package"
        done
    done | sort -u
}

# Of the optional ones, those that are not there and could be had.
missing_optional() {
    local profile package
    for profile in "$@"; do
        for package in $(optional "$profile"); do
            installed "$package" || [ -z "$(apt-cache show "$package" 2>/dev/null)" ] || echo "$package"
        done
    done | sort -u
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

apt() {
    # No recommendations: a test machine wants no sysstat. The lock may be held by a machine's
    # own nightly update for some minutes.
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 --no-install-recommends "$@"
}

# What installing would start, and nobody asked for: a cluster of postgresql-NN's, and the services
# that come with the S3 servers of the tests (memcached, Swift, Ceph). Both are turned off around the
# install, and put back as they were.
CLUSTER_CONF=/etc/postgresql-common/createcluster.conf
POLICY=/usr/sbin/policy-rc.d # where Debian asks whether a service may start
conf_backup=
policy_set=

# postgresql-common alone creates no cluster: so it comes first.
no_default_cluster() {
    apt install postgresql-common >/dev/null
    conf_backup=$(mktemp)
    cp "$CLUSTER_CONF" "$conf_backup"
    # cp, not mv or sed -i: the file keeps its owner and mode.
    { grep -v '^ *create_main_cluster' "$conf_backup" || true
        echo 'create_main_cluster = false'; } | as_root tee "$CLUSTER_CONF" >/dev/null
}

no_services() {
    if [ -e "$POLICY" ]; then return 0; fi
    policy_set=1
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
    as_root chmod 755 "$POLICY"
}

put_back() {
    if [ -n "$conf_backup" ]; then
        as_root cp "$conf_backup" "$CLUSTER_CONF"
        rm -f "$conf_backup"
    fi
    if [ -n "$policy_set" ]; then as_root rm -f "$POLICY"; fi
    conf_backup='' policy_set=''
}

main() {
    [ $# -gt 0 ] || set -- build test lint
    command -v dpkg-query >/dev/null || die "needs Debian's package tools; elsewhere install by \
hand: a C++20 compiler, CMake, GoogleTest, PostgreSQL $PG with its server headers, pg_cron, pgTAP"

    local profile missing
    for profile in "$@"; do packages "$profile" >/dev/null; done
    mapfile -t missing < <(missing_of "$@"; missing_optional "$@")
    [ ${#missing[@]} -gt 0 ] || return 0

    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
        die "missing packages, and neither root nor sudo to install them. As root:
  apt-get install ${missing[*]}"
    fi
    # A source that is out of reach need not stop an install from the others.
    apt update >/dev/null || echo "deps: apt-get update failed, trying with the lists at hand" >&2
    # Again: a fresh machine has had no lists to look for the optional ones in.
    mapfile -t missing < <(missing_of "$@"; missing_optional "$@")
    echo "deps: installing ${missing[*]}"
    trap put_back EXIT
    no_services
    if [[ " ${missing[*]} " == *" postgresql-$PG "* ]]; then no_default_cluster; fi
    apt install "${missing[@]}" >/dev/null ||
        die "apt-get could not install: ${missing[*]} (is PG=$PG in this system's sources?)"
    put_back
}

main "$@"
