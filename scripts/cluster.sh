# shellcheck shell=bash
# Throwaway clusters for tests, demo and benchmarks. Source it, then:
#
#   cluster_create main                              initdb in a folder of its own
#   cluster_conf main "work_mem = '64MB'" …          lines for postgresql.conf
#   cluster_start main
#   cluster_psql main -c 'SELECT 1'                  as superuser, database postgres
#   as_pg command …                                  as the user that owns the clusters
#   cluster_run command or function …                for what takes long: see there
#   cluster_restart | cluster_stop | cluster_destroy main
#
# Whatever is still there when the script ends, also by an error, Ctrl-C, TERM or HUP, is stopped
# and removed; cluster_keep leaves one running. cluster_at_exit adds a clean-up of the caller's
# (EXIT's trap is taken). The caller sets `set -euo pipefail`.
#
# The server refuses to run as root. As root, servers and clients run as CLUSTER_USER (postgres);
# as an ordinary user they run as that user.

# The same choice as in build.mk.
if [ -z "${PG_CONFIG:-}" ]; then
    PG_CONFIG=/usr/lib/postgresql/${PG:-15}/bin/pg_config
    if [ ! -x "$PG_CONFIG" ] && [ -z "${PG:-}" ]; then PG_CONFIG=pg_config; fi
fi
PG_BIN=$("$PG_CONFIG" --bindir)
CLUSTER_USER=${CLUSTER_USER:-postgres}

# One folder for everything a run leaves; /tmp itself keeps socket paths below their 107 bytes.
CLUSTER_BASE=$(mktemp -d /tmp/bacmr.XXXXXX)
if [ "$(id -u)" -eq 0 ]; then chown "$CLUSTER_USER:" "$CLUSTER_BASE"; fi

declare -A CLUSTER_RUNNING=()
declare -a CLUSTER_AT_EXIT=()
CLUSTER_KEPT=
CLUSTER_CHILD=

# Runs a command as the clusters' owner, in CLUSTER_BASE (that user may not be able to enter the
# caller's folder): name files by absolute paths.
as_pg() (
    cd "$CLUSTER_BASE" || exit
    # HOME, so that nobody's .psqlrc or .pgpass plays a part; the PG… variables likewise, but for
    # PGOPTIONS, which carries settings to the tests.
    unset PGHOST PGPORT PGUSER PGDATABASE PGSERVICE PGPASSFILE PGDATA
    export HOME=$CLUSTER_BASE PATH=$PG_BIN:$PATH
    if [ "$(id -u)" -eq 0 ]; then
        # setpriv becomes the command: signals reach it without a process in between.
        exec setpriv --reuid "$CLUSTER_USER" --regid "$CLUSTER_USER" --init-groups -- "$@"
    fi
    exec "$@"
)

cluster_dir() { echo "$CLUSTER_BASE/$1"; }
cluster_data() { echo "$CLUSTER_BASE/$1/data"; }
cluster_socket() { echo "$CLUSTER_BASE/$1"; }
cluster_log() { echo "$CLUSTER_BASE/$1/server.log"; }

cluster_create() {
    local name=$1 dir
    dir=$(cluster_dir "$name")
    as_pg mkdir -m 700 "$dir"
    as_pg initdb -D "$dir/data" -A trust -U postgres --no-sync -E UTF8 --locale=C.UTF-8 \
        >"$CLUSTER_BASE/$name.initdb.log" 2>&1 || { cat "$CLUSTER_BASE/$name.initdb.log" >&2; return 1; }
    # No TCP: the socket lies in a folder that only its owner can enter. No fsync: what is thrown
    # away need not survive a power cut (a benchmark that measures it turns it on).
    cluster_conf "$name" "listen_addresses = ''" "unix_socket_directories = '$dir'" \
        "fsync = off" "shared_buffers = '64MB'" "max_connections = 50" "timezone = 'UTC'"
}

cluster_conf() {
    local name=$1
    shift
    # shellcheck disable=SC2016  # expanded by the inner shell
    as_pg sh -c 'f=$1; shift; printf "%s\n" "$@" >>"$f"' sh "$(cluster_data "$name")/postgresql.conf" "$@"
}

# Preloads pg_cron as well, with its jobs in database postgres. It connects to itself with libpq:
# through the socket, where trust applies, and not through TCP.
cluster_conf_preload() {
    local name=$1
    cluster_conf "$name" "shared_preload_libraries = 'bacmr_ops, pg_cron'" \
        "cron.database_name = 'postgres'" "cron.host = '$(cluster_socket "$name")'"
}

# A TCP port that nobody listens on just now, for what cannot use a socket.
cluster_free_port() {
    local port
    for _ in {1..100}; do
        port=$((20000 + RANDOM % 10000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return 0
        fi
    done
    echo "no free TCP port" >&2
    return 1
}

cluster_listen_tcp() {
    cluster_conf "$1" "listen_addresses = '127.0.0.1'" "port = $(cluster_free_port)"
}

cluster_port() {
    as_pg sed -n 's/^port = \([0-9]*\).*/\1/p' "$(cluster_data "$1")/postgresql.conf" | tail -n 1 |
        grep . || echo 5432
}

cluster_start() {
    local name=$1
    # Noted before it starts: a Ctrl-C in between must find it.
    CLUSTER_RUNNING[$name]=1
    as_pg pg_ctl start -s -w -t 60 -D "$(cluster_data "$name")" -l "$(cluster_log "$name")" || {
        echo "cluster $name did not start:" >&2
        as_pg tail -n 30 "$(cluster_log "$name")" >&2
        return 1
    }
}

# Second argument: smart, fast (default) or immediate.
cluster_stop() {
    as_pg pg_ctl stop -s -w -t 60 -D "$(cluster_data "$1")" -m "${2:-fast}"
    unset "CLUSTER_RUNNING[$1]"
}

cluster_restart() {
    cluster_stop "$1" "${2:-fast}"
    cluster_start "$1"
}

cluster_psql() {
    local name=$1
    shift
    as_pg psql -X -q -v ON_ERROR_STOP=1 -h "$(cluster_socket "$name")" -p "$(cluster_port "$name")" \
        -U postgres -d postgres "$@"
}

cluster_destroy() {
    if [ -n "${CLUSTER_RUNNING[$1]:-}" ]; then cluster_stop "$1" immediate || true; fi
    rm -rf "${CLUSTER_BASE:?}/$1"
}

# Leaves the clusters as they are when the script ends, and says how to reach this one and how to
# end it.
cluster_keep() {
    local name=$1 sudo=
    CLUSTER_KEPT=1
    if [ "$(id -u)" -eq 0 ]; then sudo="runuser -u $CLUSTER_USER -- "; fi
    echo "The cluster stays. Look around:"
    echo "  ${sudo}psql -h $(cluster_socket "$name") -p $(cluster_port "$name") -U postgres"
    echo "End it:"
    echo "  ${sudo}$PG_BIN/pg_ctl stop -D $(cluster_data "$name") -m fast && rm -rf $CLUSTER_BASE"
}

# Runs a long command so that a TERM or Ctrl-C is acted upon at once: bash would hold a trap back
# until a command in the foreground ends. It gets a process group, for the clean-up to end as one.
cluster_run() {
    local status=0
    set -m
    "$@" </dev/null &
    CLUSTER_CHILD=$!
    set +m
    wait "$CLUSTER_CHILD" || status=$?
    CLUSTER_CHILD=
    return "$status"
}

cluster_at_exit() { CLUSTER_AT_EXIT+=("$1"); }

cluster_cleanup() {
    local status=$? hook pid_file
    # From here on a second Ctrl-C must not cut the clean-up short.
    trap '' INT TERM HUP
    trap - EXIT
    for hook in "${CLUSTER_AT_EXIT[@]}"; do "$hook" || true; done
    if [ -n "$CLUSTER_CHILD" ]; then
        kill -TERM -- "-$CLUSTER_CHILD" 2>/dev/null || true
        sleep 0.2
        kill -KILL -- "-$CLUSTER_CHILD" 2>/dev/null || true
    fi
    if [ -z "$CLUSTER_KEPT" ]; then
        # By their files, not by the names known here: Perl tests start servers of their own below
        # CLUSTER_BASE, and forget them when they are interrupted.
        while IFS= read -r -d '' pid_file; do
            as_pg pg_ctl stop -s -w -D "$(dirname "$pid_file")" -m immediate 2>/dev/null || true
        done < <(find "$CLUSTER_BASE" -name postmaster.pid -print0)
        rm -rf "$CLUSTER_BASE"
    fi
    exit "$status"
}

trap cluster_cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
