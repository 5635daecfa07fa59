#!/usr/bin/env bash
# From a fresh Debian machine to a node that works: packages, Docker, the daemon, a pool of 10 GB, and the main job shown.
# It can be run again and again; what is there is used as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
need_root up

# Gone after a reboot, as the processes are whose ids it holds.
state=/run/bulkhead-up
data=/var/lib/bulkhead
pool=$data/pool-0.img
bulkhead=${BIN:-$PWD/target/release/bulkhead}
log=$state/bulkhead.log

daemon_answers() { timeout 10 "$bulkhead" pool list >/dev/null 2>&1; }

start_daemon() {
    if daemon_answers; then
        note "the daemon runs already"
        if [ "$(readlink "/proc/$(cat "$state/bulkhead.pid" 2>/dev/null)/exe" 2>/dev/null)" = "$bulkhead (deleted)" ]; then
            note "a newer build is here; use it with: make down && make up"
        fi
        return
    fi
    say "Starting the daemon"
    # `make down PURGE=1` removes this folder only where `make up` has made it.
    if ! [ -e "$data" ]; then
        install -d -m 0700 "$data"
        touch "$data/.made-by-make-up"
    fi
    : >"$log"
    setsid nohup "$bulkhead" daemon >>"$log" 2>&1 </dev/null &
    echo $! >"$state/bulkhead.pid"
    if ! wait_for 30 daemon_settled || ! daemon_answers; then
        tail -n 20 "$log" >&2
        stop_process "$state/bulkhead.pid" bulkhead 10
        die "the daemon did not start" "Its log: $log"
    fi
}
daemon_settled() { grep -q "bulkhead is ready" "$log" || ! running "$state/bulkhead.pid"; }

add_pool() {
    if "$bulkhead" pool list --json | jq -e 'length > 0' >/dev/null; then
        return
    fi
    say "Making a pool of 10 GB in the file $pool"
    local free
    free=$(df --output=avail -B 1G "$data" | tail -n 1)
    [ "$free" -ge 2 ] || die "only $free GB are free below $data" "The pool takes space as it is used; make room for 2 GB at least."
    "$bulkhead" pool add "$pool" --size 10G
}

# An image without a registry: a busybox, imported from this machine.
make_image() {
    docker_here image inspect bulkhead-busybox >/dev/null 2>&1 && return
    apt_install busybox-static
    local root
    root=$(mktemp -d)
    mkdir -p "$root/bin"
    cp /bin/busybox "$root/bin/busybox"
    for name in sh cat date df echo ls mkdir rm sleep sync; do ln -s busybox "$root/bin/$name"; done
    tar -C "$root" -c . | docker_here import - bulkhead-busybox >/dev/null
    rm -rf "$root"
}

run() {
    note "\$ docker $*"
    docker_here "$@" | sed 's/^/    /'
}

show() {
    say "The main job: what one container writes, another one reads"
    make_image
    local line
    line="hello from the first container, $(date -u +%T)"
    run volume create -d bulkhead -o size=1G hello
    run run --rm --network none -v hello:/data bulkhead-busybox sh -c "echo $line >>/data/notes"
    run run --rm --network none -v hello:/data bulkhead-busybox cat /data/notes | tee "$state/shown"
    grep -qF "$line" "$state/shown" || die "the second container did not find what the first one wrote"
}

scripts/deps.sh run
install -d -m 0755 "$state"
# The daemon first: dockerd asks for every volume that it knows when it starts, and waits 15 s where nobody answers.
start_daemon
add_pool
scripts/docker.sh "$state"
show
say "Bulkhead is up. Next:"
note "docker volume create -d bulkhead -o size=2G mydata"
note "docker run -v mydata:/data …"
note "$bulkhead status"
note "make down (PURGE=1 removes the volumes too)"
