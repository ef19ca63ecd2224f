#!/usr/bin/env bash
# OpenStack Swift with its S3 interface (s3api): an S3 server that checks signatures and regions,
# with multipart uploads. All of it on loopback, in one folder. Usage: see service.sh.
#
# Packages: swift-proxy swift-account swift-container swift-object memcached. The folder must lie on
# a file system with user extended attributes (ext4, xfs, btrfs).
# shellcheck disable=SC2034,SC2317  # used, and called, by service.sh
# shellcheck source=test/services/service.sh
. "$(dirname "${BASH_SOURCE[0]}")/service.sh"

SERVICE=swift
# tempauth's users are account:user; s3api takes that as the access key.
ACCESS_KEY=test:tester
SECRET_KEY=testing/secret+key

service_commands() {
    cat <<'LIST'
swift-proxy-server swift-proxy
swift-account-server swift-account
swift-container-server swift-container
swift-object-server swift-object
memcached memcached
python3 python3
setpriv util-linux
LIST
}

# ring KIND PORT: which server holds what. There is one device on one server.
ring() {
    local builder=$DIR/etc/$1.builder
    run ring swift-ring-builder "$builder" create 4 1 0
    run ring swift-ring-builder "$builder" add "r1z1-127.0.0.1:$2/disk" 1
    # 1 is a warning: with one device nothing can be balanced.
    run ring swift-ring-builder "$builder" rebalance || [ $? -eq 1 ]
}

# What the four servers have in common. A port that is taken shall show at once, not after 30 s.
common_settings() {
    cat <<CONF
[DEFAULT]
swift_dir = $DIR/etc
devices = $DIR/devices
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
bind_ip = 127.0.0.1
bind_port = $1
bind_timeout = 1
workers = 0
user = $(run_as)
log_address = /dev/null
log_level = WARNING

CONF
}

run_as() { "${AS_SERVICE[@]}" -- id -un; }

# storage_server KIND PORT
storage_server() {
    {
        common_settings "$2"
        cat <<CONF
[pipeline:main]
pipeline = $1-server
[app:$1-server]
use = egg:swift#$1
CONF
    } >"$DIR/etc/$1-server.conf"
}

proxy_server() {
    {
        common_settings "$1"
        cat <<CONF
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth slo dlo versioned_writes symlink copy proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:$2
[filter:s3api]
use = egg:swift#s3api
location = $REGION
# Also http://BUCKET.localhost:PORT/
storage_domain = localhost
s3_acl = false
dns_compliant_bucket_names = true
# The limits of the real S3.
min_segment_size = 5242880
max_upload_part_num = 10000
[filter:tempauth]
use = egg:swift#tempauth
user_${ACCESS_KEY/:/_} = $SECRET_KEY .admin
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
CONF
        local filter
        for filter in catch_errors gatekeeper healthcheck listing_formats bulk slo dlo symlink copy; do
            printf '[filter:%s]\nuse = egg:swift#%s\n' "$filter" "$filter"
        done
    } >"$DIR/etc/proxy-server.conf"
}

# Swift keeps its metadata there, and says little when it cannot.
check_xattr() {
    run xattr python3 -c 'import os, sys; os.setxattr(sys.argv[1], "user.bacmr", b"1")' "$DIR/devices" ||
        die "the file system of $DIR has no user extended attributes"
}

service_run() {
    local proxy account container object memcached kind
    read -r proxy account container object memcached < <(free_ports 5)
    mkdir -p "$DIR/etc" "$DIR/devices/disk"
    cat >"$DIR/etc/swift.conf" <<CONF
[swift-hash]
swift_hash_path_suffix = test
swift_hash_path_prefix = test
[storage-policy:0]
name = Policy-0
default = yes
CONF
    storage_server account "$account"
    storage_server container "$container"
    storage_server object "$object"
    proxy_server "$proxy" "$memcached"
    if [ "$(id -u)" -eq 0 ]; then chown -R "$SERVICE_USER:" "$DIR/etc" "$DIR/devices"; fi
    check_xattr
    # The rings of the three kinds have nothing to do with each other.
    local rings=()
    for kind in account container object; do
        ring "$kind" "${!kind}" &
        rings+=("$!")
    done
    for kind in "${rings[@]}"; do wait "$kind" || die "no ring"; done

    daemon memcached memcached -l 127.0.0.1 -p "$memcached" -U 0 -m 32
    for kind in account container object proxy; do
        daemon "$kind" "swift-$kind-server" "$DIR/etc/$kind-server.conf"
    done
    for kind in memcached account container object; do await "$kind" listens "${!kind}"; done
    await "answer" answers "$proxy" /healthcheck
    ENDPOINT=http://127.0.0.1:$proxy
}

service_main "$@"
