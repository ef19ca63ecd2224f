#!/usr/bin/env bash
# Builds the Debian package and tests it in a clean root folder of the same Debian release: that apt
# installs it with all it needs, that a server runs with it, and that apt removes it without a trace.
# Needs root, debootstrap and Debian's archive. The folder is build/deb-root; it is kept for the next
# time.
#
#   PG=15 scripts/test-deb.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PG=${PG:-15}
ROOT_DIR=$PWD/build/deb-root

die() {
    echo "test-deb: $*" >&2
    exit 1
}

failed=0

# check WHAT COMMAND …: bash ends no function at an error there, so steps are joined by && or ||.
check() {
    local what=$1 output
    shift
    if output=$("$@" 2>&1); then
        echo "ok - $what"
    else
        echo "not ok - $what"
        printf '%s\n' "$output" | tail -n 40 | sed 's/^/# /'
        failed=$((failed + 1))
    fi
}

inside() { chroot "$ROOT_DIR" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }
as_postgres() { inside setpriv --reuid postgres --regid postgres --init-groups "$@"; }
apt_inside() { inside apt-get -qq -y -o Dpkg::Use-Pty=0 --no-install-recommends "$@"; }
psql_inside() { as_postgres psql -XAtq -v ON_ERROR_STOP=1 -h /tmp/pg -U postgres "$@"; }

mirror() {
    local found
    found=$(sed -nE 's/^URIs: *([^ ]+).*/\1/p; s/^deb (\[[^]]*\] )?([^ ]+).*/\2/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/debian.* 2>/dev/null | grep -m1 '/debian/*$' || true)
    echo "${found:-http://deb.debian.org/debian}"
}

make_root() {
    local release
    release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    # Complete only when the last step has left its mark.
    if [ ! -e "$ROOT_DIR/.complete" ]; then
        rm -rf "$ROOT_DIR"
        mkdir -p "$ROOT_DIR"
        debootstrap --variant=minbase --include=ca-certificates "$release" "$ROOT_DIR" "$(mirror)" \
            >build/deb-root.log 2>&1 || die "debootstrap failed (build/deb-root.log)"
        # How this machine reaches the archive, and its updates.
        cp /etc/apt/sources.list.d/debian.* "$ROOT_DIR/etc/apt/sources.list.d/" 2>/dev/null &&
            rm -f "$ROOT_DIR/etc/apt/sources.list"
        printf '#!/bin/sh\nexit 101\n' >"$ROOT_DIR/usr/sbin/policy-rc.d"
        chmod 755 "$ROOT_DIR/usr/sbin/policy-rc.d"
        mkdir -p "$ROOT_DIR/etc/postgresql-common"
        echo 'create_main_cluster = false' >"$ROOT_DIR/etc/postgresql-common/createcluster.conf"
        touch "$ROOT_DIR/.complete"
    fi
    cp /etc/resolv.conf "$ROOT_DIR/etc/" 2>/dev/null || true
    cp -n /etc/apt/apt.conf.d/*proxy* "$ROOT_DIR/etc/apt/apt.conf.d/" 2>/dev/null || true
    mkdir -p "$ROOT_DIR/proc" "$ROOT_DIR/dev"
    mount -t proc proc "$ROOT_DIR/proc"
    mount --rbind /dev "$ROOT_DIR/dev"
    # A run that was cut off may have left it installed.
    inside dpkg --purge "postgresql-$PG-bacmr-ops" >/dev/null 2>&1 || true
    rm -rf "$ROOT_DIR/tmp/pg" "$ROOT_DIR"/tmp/*.deb
    apt_inside update >/dev/null
    apt_inside install "postgresql-$PG" >build/deb-root.log 2>&1 ||
        die "no postgresql-$PG in the clean root (build/deb-root.log)"
    apt_inside autoremove --purge >/dev/null 2>&1
}

# Every file, with its size, but for what apt and the linker note down about themselves.
listing() {
    find "$ROOT_DIR" -xdev \( -path "$ROOT_DIR/proc" -o -path "$ROOT_DIR/dev" -o -path "$ROOT_DIR/tmp" \
        -o -path "$ROOT_DIR/var/lib/apt" -o -path "$ROOT_DIR/var/cache" -o -path "$ROOT_DIR/var/log" \
        -o -path "$ROOT_DIR/var/lib/dpkg/*-old" -o -path "$ROOT_DIR/var/lib/dpkg/status" \
        -o -path "$ROOT_DIR/etc/ld.so.cache" \) \
        -prune -o \( -type f -printf '%P %s\n' \) -o -printf '%P\n' | sort
}

server_with_it() {
    as_postgres mkdir -p /tmp/pg &&
    as_postgres "/usr/lib/postgresql/$PG/bin/initdb" -D /tmp/pg/data -A trust -U postgres --no-sync \
        >/dev/null || return 1
    printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '/tmp/pg'" \
        "shared_preload_libraries = 'bacmr_ops'" "bacmr.expire_interval = '1s'" \
        "bacmr.artifact_directory = '/tmp/pg/artifacts'" >>"$ROOT_DIR/tmp/pg/data/postgresql.conf"
    as_postgres "/usr/lib/postgresql/$PG/bin/pg_ctl" start -s -w -D /tmp/pg/data -l /tmp/pg/log || {
        cat "$ROOT_DIR/tmp/pg/log"
        return 1
    }
    psql_inside -c 'CREATE EXTENSION bacmr_ops' -c 'SELECT bacmr_create_tables()'
}

version_is() {
    [ "$(psql_inside -c "SELECT extversion = '$1' AND bacmr_library_version() = '$1' FROM pg_extension
        WHERE extname = 'bacmr_ops'")" = t ]
}

expires() {
    local waited
    psql_inside -c "INSERT INTO wallet VALUES ('00000000-0000-0000-0000-000000000001', 0);
        INSERT INTO wallet_ledger (user_id, delta, reason)
          VALUES ('00000000-0000-0000-0000-000000000001', -5, 'reserved'),
                 ('00000000-0000-0000-0000-000000000001', 5, 'deposit');
        INSERT INTO reservations (user_id, amount, expires_at)
          VALUES ('00000000-0000-0000-0000-000000000001', 5, now() - interval '1 second')" || return 1
    for waited in {1..450}; do
        if [ "$(psql_inside -c 'SELECT token_balance FROM wallet')" = 5 ]; then return 0; fi
        sleep 0.1
    done
    echo "not expired after $waited looks"
    psql_inside -c 'TABLE bacmr_status'
    return 1
}

exports() {
    psql_inside -c "INSERT INTO chunks (namespace, content) SELECT 'n', 'text ' || i FROM generate_series(1, 10) i" &&
    [ "$(psql_inside -c "SELECT chunks FROM bacmr_export_chunks(compression => 'zstd')")" = 10 ] &&
    [ "$(psql_inside -c "SELECT ok FROM bacmr_restore_drill()")" = t ]
}

same_files() { diff "$1" "$2"; }

run() {
    local package version before=build/deb-root.before after=build/deb-root.after
    package=$(ls build/deb/postgresql-"$PG"-bacmr-ops_*.deb)
    version=$(sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" bacmr_ops.control)
    make_root
    listing >"$before"
    cp "$package" "$ROOT_DIR/tmp/package.deb"
    check "apt installs $(basename "$package")" apt_inside install /tmp/package.deb
    check 'and all that it depends on is there' inside dpkg --audit
    check 'a server starts with it, and CREATE EXTENSION works' server_with_it
    check "SQL objects and library are of version $version" version_is "$version"
    check 'the worker expires a reservation' expires
    check 'an export with zstd passes the drill' exports
    check 'apt installs it once more over itself' apt_inside install --reinstall /tmp/package.deb
    check 'DROP EXTENSION' psql_inside -c 'DROP EXTENSION bacmr_ops'
    check 'the server stops' as_postgres "/usr/lib/postgresql/$PG/bin/pg_ctl" stop -s -w -m fast -D /tmp/pg/data
    check 'apt removes it' apt_inside autoremove --purge "postgresql-$PG-bacmr-ops"
    listing >"$after"
    check 'without a trace' same_files "$before" "$after"
    rm -rf "$ROOT_DIR/tmp/pg" "$ROOT_DIR/tmp/package.deb"
    if [ "$failed" -gt 0 ]; then return 1; fi
}

main() {
    [ "$(id -u)" -eq 0 ] || die "needs root, for the clean root folder: sudo make test-deb"
    command -v debootstrap >/dev/null || die "needs debootstrap: apt-get install debootstrap"
    if [ "${1:-}" != inside ]; then
        scripts/deb.sh
        # Mounts of its own, which end with it; processes too.
        exec unshare -m -p -f --propagation private --kill-child bash "${BASH_SOURCE[0]}" inside
    fi
    run
}

main "$@"
