#!/usr/bin/env bash
# Ceph's S3 server (radosgw) on the smallest cluster there is: one monitor and one OSD that keeps its
# objects in memory. All of it on loopback, in one folder. Usage: see service.sh.
#
# Packages: radosgw ceph-mon ceph-osd.
# shellcheck disable=SC2034,SC2317  # used, and called, by service.sh
# shellcheck source=test/services/service.sh
. "$(dirname "${BASH_SOURCE[0]}")/service.sh"

SERVICE=radosgw
ACCESS_KEY=BACMRTEST00000000001
SECRET_KEY=radosgw/secret+key/0000000000000000000001
CLUSTER_ID=00000000-0000-4000-8000-00000000ba01
OSD_ID=00000000-0000-4000-8000-00000000ba02

service_commands() {
    cat <<'LIST'
radosgw radosgw
radosgw-admin radosgw
ceph-mon ceph-mon
ceph-osd ceph-osd
ceph ceph-common
monmaptool ceph-common
python3 python3
setpriv util-linux
LIST
}

# Pools of one copy, and a monitor that decides at once instead of collecting changes for a second.
# No admin sockets: their paths would be too long in a test's folder.
configuration() {
    # Debian's default for it is a relative path from Ceph 18 on.
    local classes
    classes=$(compgen -G '/usr/lib/*/rados-classes' | head -n 1) || die 'no folder of RADOS classes'
    cat <<CONF
[global]
fsid = $CLUSTER_ID
mon_host = $1
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_allow_insecure_global_id_reclaim = false
keyring = $DIR/keyring
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 1
mon_data_avail_crit = 1
run_dir = $DIR/tmp
crash_dir = $DIR/tmp
admin_socket =
log_file = $DIR/log/\$name.log
mon_cluster_log_to_file = false

[mon]
mon_data = $DIR/mon

[osd]
osd_data = $DIR/osd
keyring = $DIR/osd/keyring
osd_objectstore = memstore
# 8 GiB is its limit, not what it takes.
memstore_device_bytes = 8589934592
osd_class_dir = $classes
osd_class_load_list = *
osd_class_default_list = *

[client]
rgw_data = $DIR/rgw
rgw_frontends = beast endpoint=127.0.0.1:$2
rgw_thread_pool_size = 32
# Also http://BUCKET.localhost:PORT/, and the address alone for path-style requests.
rgw_dns_name = localhost
rgw_enable_usage_log = false
rgw_enable_gc_threads = false
CONF
}

# What each of them proves itself to the monitor with, and what it may do. The OSD's key is apart,
# since the monitor takes over all of the others' as it is made.
keys() {
    local make=(run keys ceph-authtool --gen-key "$DIR/keyring")
    "${make[@]}" --create-keyring -n mon. --cap mon 'allow *'
    "${make[@]}" -n client.admin --cap mon 'allow *' --cap osd 'allow *'
    "${make[@]}" -n client.rgw --cap mon 'allow rw' --cap osd 'allow rwx'
    run keys ceph-authtool --gen-key --create-keyring "$DIR/osd/keyring" -n osd.0
    "${AS_SERVICE[@]}" -- ceph-authtool "$DIR/osd/keyring" -n osd.0 --print-key |
        sed 's/.*/{"cephx_secret": "&"}/' >"$DIR/osd-key.json"
    chmod a+r "$DIR/osd-key.json"
}

service_run() {
    local v2 v1 port mon_host conf=$DIR/ceph.conf
    read -r v2 v1 port < <(free_ports 3)
    mon_host="[v2:127.0.0.1:$v2/0,v1:127.0.0.1:$v1/0]"
    configuration "$mon_host" "$port" >"$conf"
    chmod a+r "$conf"
    "${AS_SERVICE[@]}" -- mkdir "$DIR/mon" "$DIR/osd" "$DIR/rgw"

    keys
    run mon monmaptool --create --fsid "$CLUSTER_ID" --addv a "$mon_host" "$DIR/monmap"
    run mon ceph-mon -c "$conf" --mkfs -i a --monmap "$DIR/monmap" --keyring "$DIR/keyring"
    daemon mon ceph-mon -c "$conf" -f -i a
    await monitor listens "$v2"

    # The OSD is announced before it may start. The monitor listens a moment before it has read the
    # keys.
    await registration run ceph ceph --connect-timeout 5 -c "$conf" osd new "$OSD_ID" -i "$DIR/osd-key.json"
    run osd ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$OSD_ID"
    daemon osd ceph-osd -c "$conf" -f -i 0
    daemon radosgw radosgw -c "$conf" -f -n client.rgw
    await answer answers "$port" /
    run admin radosgw-admin -c "$conf" -n client.rgw user create --uid test --display-name test \
        --access-key "$ACCESS_KEY" --secret-key "$SECRET_KEY"
    ENDPOINT=http://127.0.0.1:$port
}

service_main "$@"
