#!/usr/bin/env bash
# Runs the tests with a server that this machine's release of Debian does not have: in a root folder of
# the release that does, which debootstrap makes from the machine's own package sources.
#
#   scripts/other-release.sh 17 [unit] [sql] …       as scripts/test.sh; fails where that cannot be
#   scripts/other-release.sh --or-skip 17 [unit] …   one line "skipped: PostgreSQL 17 …" instead, status 0
#   scripts/other-release.sh --suite 17              the release, where one is needed; else status 1
#
# `make test PG=17` comes here by itself. It takes root, for debootstrap and the mounts. The folder,
# build/roots/<release>, is kept: the next run finds packages and objects there. The tests run on a copy
# of the checkout in it (/bacmr_ops), in name spaces of their own for mounts and processes: with the
# last process of the run, the mounts are gone, however it ended.
#
# The last line and the exit status are those of scripts/test.sh.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/checkout.sh
. scripts/checkout.sh
ROOTS=build/roots
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
SCRIPTS=/usr/share/debootstrap/scripts
PROGRAM=${BASH_SOURCE[0]##*/}
OR_SKIP=

# The release of Debian with that major version. (15 is in Debian 12; 16 was in none.)
release_with() {
    case $1 in
    17) echo trixie ;;
    18) echo forky ;;
    esac
}

# The release whose root folder is needed for the version; nothing where this machine has, or can
# install, that server itself.
needed_release() {
    local release
    release=$(release_with "$1")
    if [ -z "$release" ] || [ -n "${PG_CONFIG:-}" ] || [ -x "/usr/lib/postgresql/$1/bin/pg_config" ] ||
        ! command -v dpkg-query >/dev/null; then return; fi
    # shellcheck source=/dev/null
    if [ "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" = "$release" ] ||
        [ -n "$(apt-cache show "postgresql-server-dev-$1" 2>/dev/null)" ]; then return; fi
    echo "$release"
}

# Why it cannot be: the end of the run, well or ill.
cannot() {
    if [ -n "$OR_SKIP" ]; then
        echo "skipped: PostgreSQL $PG in a root folder of Debian's $RELEASE: $*"
        exit 0
    fi
    echo "$PROGRAM: PostgreSQL $PG cannot be tested here: $*" >&2
    exit 1
}

# --- the root folder -------------------------------------------------------------------------

# The Debian archive that apt uses here.
mirror() {
    # shellcheck disable=SC2016  # apt's own variables
    apt-get indextargets --format '$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^Debian Debian main //p' | head -n 1
}

# Settings of this machine's apt that decide whether packages can be had: proxies, and what it makes
# of a mirror whose signatures have aged.
apt_settings() {
    apt-config dump | grep -E '^Acquire::(Check-|Retries|https?::)' | grep -vF Auto-Detect || true
    echo 'APT::Install-Recommends "false";'
    echo 'APT::Keep-Downloaded-Packages "false";'
}

make_root() {
    local uri script='' log=$ROOTS/$RELEASE.log
    uri=$(mirror)
    if [ -z "$uri" ]; then
        apt-get -qq update >/dev/null 2>&1 || true
        uri=$(mirror)
    fi
    [ -n "$uri" ] || cannot "apt has no source of Debian's packages"
    [ -e "$KEYRING" ] || cannot "no keyring of Debian's archive ($KEYRING)"
    # Releases that are younger than this debootstrap are made as all of the last years were.
    if [ ! -e "$SCRIPTS/$RELEASE" ]; then script=$SCRIPTS/sid; fi
    rm -rf --one-file-system "$ROOT" "$ROOT.new"
    echo "== debootstrap $RELEASE"
    # In name spaces too: what is interrupted leaves no mount behind.
    unshare --mount --pid --fork --kill-child --mount-proc debootstrap --variant=minbase --force-check-gpg \
        --keyring="$KEYRING" --include=make,ca-certificates "$RELEASE" "$ROOT.new" "$uri" \
        ${script:+"$script"} >"$log" 2>&1 ||
        cannot "debootstrap: $(grep -E '^[EW]: ' "$log" | tail -n 1 || true) ($log)"
    apt_settings >"$ROOT.new/etc/apt/apt.conf.d/90bacmr"
    # A power cut may ruin it: it is then made again.
    echo force-unsafe-io >"$ROOT.new/etc/dpkg/dpkg.cfg.d/bacmr"
    # Packages start no service in there (scripts/deps.sh sees to that too, while it runs), and make no
    # cluster.
    printf '#!/bin/sh\nexit 101\n' >"$ROOT.new/usr/sbin/policy-rc.d"
    chmod 755 "$ROOT.new/usr/sbin/policy-rc.d"
    mkdir -p "$ROOT.new/etc/postgresql-common/createcluster.d"
    echo 'create_main_cluster = false' >"$ROOT.new/etc/postgresql-common/createcluster.d/bacmr.conf"
    mv "$ROOT.new" "$ROOT"
}

# An earlier run may have been killed while it installed packages. What it was about then is anybody's
# guess: the folder is made anew.
half_made() {
    compgen -G "$ROOT/var/lib/dpkg/updates/[0-9]*" >/dev/null ||
        [ -n "$(chroot "$ROOT" dpkg --audit 2>&1 || echo failed)" ]
}

# --- the run ---------------------------------------------------------------------------------

# In the new name spaces, still in the old root. pivot_root and not chroot: in a chroot nobody may make
# user name spaces, which some tests want.
enter() {
    local root=$1
    shift
    mount --rbind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    cd "$root"
    mkdir -p .outside
    pivot_root . .outside
    umount -l .outside
    exec "$@"
}

# The first process in there. A TERM from outside reaches the tests, which clean up; `wait` also collects
# what other processes have left behind. When it ends the kernel ends what is left.
# shellcheck disable=SC2016  # expanded in there
INIT='
trap '\''kill -TERM "$child" 2>/dev/null'\'' TERM INT HUP
cd /bacmr_ops
"$@" </dev/null &
child=$!
while :; do
    wait "$child" && status=0 || status=$?
    kill -0 "$child" 2>/dev/null || break
done
exit "$status"'

interrupted() {
    trap '' INT TERM HUP
    # unshare waits whatever comes; its child has a trap, or will have in a moment.
    while kill -0 "$1" 2>/dev/null; do
        pkill -TERM -P "$1" 2>/dev/null || true
        sleep 0.2
    done
    exit "$2"
}

run_tests() {
    local variable run settings=("PG=$PG")
    for variable in TESTS TEST_TIMEOUT BITCODE TAP_JOBS ASAN BACMR_OLD_BINDIR BACMR_OLD_LD_LIBRARY_PATH http_proxy https_proxy no_proxy; do
        if [ -n "${!variable:-}" ]; then settings+=("$variable=${!variable}"); fi
    done
    # npm, behind a proxy that makes its own certificates.
    if [ -e "${NODE_EXTRA_CA_CERTS:-}" ]; then
        cp "$NODE_EXTRA_CA_CERTS" "$ROOT/etc/ssl/machine.pem"
        settings+=(NODE_EXTRA_CA_CERTS=/etc/ssl/machine.pem)
    fi
    rm -rf --one-file-system "$ROOT/tmp"
    mkdir -m 1777 "$ROOT/tmp"
    cp /etc/resolv.conf "$ROOT/etc/" 2>/dev/null || true
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$ROOT/etc/hosts"
    # Should this process be killed, so is unshare, and with that all of them.
    setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --propagation private \
        "$BASH" "scripts/$PROGRAM" --enter "$PWD/$ROOT" \
        /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "${settings[@]}" \
        /bin/bash -c "$INIT" init scripts/test.sh "$@" 9>&- &
    run=$!
    # shellcheck disable=SC2064  # the number as it is now
    trap "interrupted $run 130" INT
    # shellcheck disable=SC2064
    trap "interrupted $run 143" TERM HUP
    wait "$run"
}

main() {
    case ${1:-} in
    --enter) shift; enter "$@" ;;
    --suite) needed_release "$2" | grep . && exit; exit 1 ;;
    --or-skip) OR_SKIP=1; shift ;;
    esac
    export PG=${1:?"which version? (17 or 18)"}
    shift
    RELEASE=$(needed_release "$PG")
    if [ -z "$RELEASE" ]; then exec scripts/test.sh "$@"; fi
    [ "$(id -u)" -eq 0 ] || cannot 'that takes root'
    scripts/deps.sh roots >/dev/null 2>&1 || cannot 'no debootstrap'
    unshare --mount --pid --fork --propagation private true 2>/dev/null ||
        cannot 'this kernel or container forbids name spaces'
    mkdir -p "$ROOTS"
    ROOT=$ROOTS/$RELEASE
    exec 9>"$ROOT.lock"
    flock 9
    if [ -e "$ROOT" ] && half_made; then
        echo "== $ROOT: a run was broken off while it installed packages"
        rm -rf --one-file-system "$ROOT"
    fi
    if [ ! -e "$ROOT" ]; then make_root; fi
    echo "== PostgreSQL $PG in $ROOT, on a copy of the checkout ($ROOT/bacmr_ops)"
    copy_checkout "$ROOT/bacmr_ops"
    run_tests "$@"
}

main "$@"
