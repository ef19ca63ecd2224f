# shellcheck shell=bash
# Copies of the checkout, for builds that must not mix with its own. Source it in the checkout's root.

# copy_checkout FOLDER: the checkout as it is, but for what was built from it; what an earlier run has
# built there stays, and is up to date where the sources are.
copy_checkout() {
    local to=$1 products=(--exclude='*.o' --exclude='*.bc' --exclude='*.d' --exclude='*.so')
    mkdir -p "$to"
    find "$to" -path "$to/build" -prune -o -type f ! -name '*.o' ! -name '*.bc' ! -name '*.d' \
        ! -name '*.so' -print0 | xargs -0 -r rm -f
    tar -c --exclude=./build --exclude=./.git "${products[@]}" . | tar -x --no-same-owner -C "$to"
}
