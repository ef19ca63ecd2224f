# shellcheck shell=bash
# What swift.sh and radosgw.sh share: a server of several daemons that lives in one folder and ends
# with it. Sourced by a script that defines
#
#   SERVICE            its name
#   service_commands   the programs that must be there, a line each, and the package of each
#   service_run        writes the configuration, starts the daemons (`daemon NAME COMMAND …`),
#                      waits until they answer, sets ENDPOINT, ACCESS_KEY and SECRET_KEY
#
# and then calls `service_main "$@"`:
#
#   SCRIPT start DIR   starts the server in DIR (made when missing, otherwise empty) and prints
#                      endpoint=, access_key=, secret_key= and region=, which DIR/env keeps
#   SCRIPT stop DIR    ends its processes and removes DIR
#   SCRIPT check       says whether the packages are installed
#
# The daemons are children of a supervisor. It ends them, and itself, when one of them ends, when
# DIR is removed, or when the process SERVICE_PARENT (optional) is gone; and the kernel ends them
# should the supervisor be killed. So whatever happens to a test, nothing stays behind.
#
# As root the daemons run as SERVICE_USER (postgres), otherwise as the caller.
set -euo pipefail

# Seconds that a start may take. It only decides how long a failure takes to show.
SERVICE_DEADLINE=${SERVICE_DEADLINE:-90}
SERVICE_USER=${SERVICE_USER:-postgres}
# The packages' programs before others of the same name, which SERVICE_USER may not even reach.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
REGION=us-east-1
DAEMONS=()
AS_SERVICE=(setpriv --pdeathsig KILL)
if [ "$(id -u)" -eq 0 ]; then
    AS_SERVICE+=(--reuid "$SERVICE_USER" --regid "$(id -g "$SERVICE_USER")" --init-groups)
fi

die() {
    echo "$SERVICE: $*" >&2
    exit 1
}

# --- for service_run -------------------------------------------------------------------------

# free_ports N: N ports of 127.0.0.1 that nobody has just now, below those that the kernel hands
# out to clients.
free_ports() {
    python3 - "$1" <<'PYTHON'
import random, socket, sys
held = []
while len(held) < int(sys.argv[1]):
    candidate = socket.socket()
    try:
        candidate.bind(("127.0.0.1", random.randrange(10240, 32768)))
        held.append(candidate)
    except OSError:
        candidate.close()
print(*(s.getsockname()[1] for s in held))
PYTHON
}

# daemon NAME COMMAND …: in the background; what it says goes to DIR/log/NAME.log.
daemon() {
    local name=$1
    shift
    "${AS_SERVICE[@]}" -- "$@" >"$DIR/log/$name.log" 2>&1 &
    DAEMONS+=("$!")
}

# run NAME COMMAND …: one step of the preparations, logged likewise.
run() {
    local name=$1
    shift
    "${AS_SERVICE[@]}" -- "$@" >>"$DIR/log/$name.log" 2>&1
}

# await WHAT COMMAND …: until the command is content. Ends the supervisor when a daemon has ended.
await() {
    local what=$1
    shift
    until "$@"; do
        all_alive || die "a daemon ended while waiting for $what"
        [ "$SECONDS" -lt "$SERVICE_DEADLINE" ] || die "no $what within $SERVICE_DEADLINE s"
        sleep 0.05
    done
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# answers PORT PATH: whether a GET there is answered with status 200.
answers() (
    exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
    printf 'GET %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nConnection: close\r\n\r\n' "$2" "$1" >&3
    IFS= read -r -t 5 line <&3
    cat <&3 >/dev/null
    [[ $line == HTTP/1.?\ 200* ]]
) 2>/dev/null

# --- the supervisor --------------------------------------------------------------------------

all_alive() {
    local pid
    for pid in "${DAEMONS[@]}"; do kill -0 "$pid" 2>/dev/null || return 1; done
}

# What they hold is thrown away: nothing is gained by asking politely.
end_daemons() {
    trap '' TERM INT HUP
    if [ ${#DAEMONS[@]} -eq 0 ]; then return 0; fi
    kill -KILL "${DAEMONS[@]}" 2>/dev/null || true
    wait "${DAEMONS[@]}" 2>/dev/null || true
}

wanted() {
    [ -e "$DIR/service" ] && { [ -z "${SERVICE_PARENT:-}" ] || [ -d "/proc/$SERVICE_PARENT" ]; }
}

supervise() {
    trap end_daemons EXIT
    trap 'exit 0' TERM INT HUP
    cd "$DIR"
    # Everything that any of the programs wants to keep stays in the folder.
    export HOME=$DIR TMPDIR=$DIR/tmp LC_ALL=C.UTF-8
    service_run
    (
        umask 022
        printf '%s\n' "endpoint=$ENDPOINT" "access_key=$ACCESS_KEY" "secret_key=$SECRET_KEY" \
            "region=$REGION" >"$DIR/env.new"
        mv "$DIR/env.new" "$DIR/env"
    )
    while wanted; do
        all_alive || die "a daemon ended"
        sleep 0.5 &
        wait "$!"
    done
    end_daemons
    rm -rf "$DIR"
}

# --- start and stop --------------------------------------------------------------------------

# The processes of this DIR, known by a variable in their environment: exact whatever they make of
# their command lines and process groups.
processes() {
    grep -lzFx "BACMR_SERVICE_DIR=$DIR" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 || true
}

end_processes() {
    local pids signal=TERM start=$SECONDS
    while mapfile -t pids < <(processes) && [ ${#pids[@]} -gt 0 ]; do
        # The supervisor needs a moment to collect its children.
        if [ $((SECONDS - start)) -gt 5 ]; then signal=KILL; fi
        kill -"$signal" "${pids[@]}" 2>/dev/null || true
        [ $((SECONDS - start)) -lt 20 ] || die "processes that do not end: ${pids[*]}"
        sleep 0.05
    done
}

stop() {
    end_processes
    [ -e "$DIR" ] || return 0
    # Never somebody else's folder by a slip of the pen.
    [ -e "$DIR/service" ] || die "$DIR is not a folder of this script"
    rm -rf "$DIR"
}

missing() {
    local command package
    while read -r command package; do
        command -v "$command" >/dev/null || echo "$package"
    done < <(service_commands) | sort -u | tr '\n' ' '
}

check() {
    local packages
    packages=$(missing)
    [ -z "$packages" ] || die "not installed: $packages"
}

make_folder() {
    mkdir -p "$DIR"
    [ -z "$(ls -A "$DIR")" ] || die "$DIR is not empty"
    echo "$SERVICE" >"$DIR/service"
    mkdir "$DIR/log" "$DIR/tmp"
    if [ "$(id -u)" -eq 0 ]; then chown -R "$SERVICE_USER:" "$DIR"; fi
    "${AS_SERVICE[@]}" -- test -w "$DIR" || die "$SERVICE_USER cannot enter $DIR"
}

# Starts the supervisor, in a session of its own so that a Ctrl-C meant for the caller does not
# reach it. True when the server is ready.
try_start() {
    make_folder
    # Descriptors of the caller beyond these three would keep its pipes open.
    env BACMR_SERVICE_DIR="$DIR" setsid "$BASH" "${BASH_SOURCE[-1]}" supervise "$DIR" \
        </dev/null >"$DIR/log/supervisor.log" 2>&1 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &
    local supervisor=$!
    while [ ! -e "$DIR/env" ]; do
        kill -0 "$supervisor" 2>/dev/null || return 1
        sleep 0.05
    done
}

start() {
    check
    # Interrupted, or failed: nothing stays.
    trap 'stop 2>/dev/null' EXIT
    trap 'exit 1' TERM INT HUP
    local attempt
    for attempt in 1 2 3; do
        if try_start; then
            trap - EXIT
            cat "$DIR/env"
            return 0
        fi
        # Somebody may have taken a port between the choice and the use: then others are tried.
        if [ "$attempt" -eq 3 ] || ! grep -qri 'address already in use' "$DIR/log"; then break; fi
        stop
    done
    tail -n 20 "$DIR"/log/*.log >&2
    die "did not start"
}

service_main() {
    [ $# -gt 0 ] || die "usage: start DIR | stop DIR | check"
    if [ "$1" = check ]; then check && return 0; fi
    [ $# -eq 2 ] || die "usage: start DIR | stop DIR | check"
    DIR=$(realpath -m -- "$2")
    [[ $DIR != *[[:space:]\;\#%]* ]] || die "a path with spaces or any of ; # % does not suit: $DIR"
    case $1 in
    start | stop | supervise) "$1" ;;
    *) die "unknown command '$1'" ;;
    esac
}
