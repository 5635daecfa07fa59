#!/usr/bin/env bash
# Undoes `make up`: ends what it started and, with PURGE=1, removes what it made. Installed packages stay.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
need_root down

state=/run/bulkhead-up
data=/var/lib/bulkhead
purge=${PURGE:-}

# The containers that use a volume of ours: with a Docker that was here before they are not ours to stop.
users() {
    local volume
    for volume in $(docker_here volume ls --quiet --filter driver=bulkhead); do
        docker_here ps "$@" --filter "volume=$volume" --format "{{.Names}} (volume $volume)"
    done | sort -u
}

docker_is_ours() { [ -e "$state/dockerd.pid" ] || [ -e "$state/docker.systemd" ]; }

# A dockerd that ends leaves its bridge, its rules and its settings in place.
forget_network() {
    [ -e "$state/docker.network" ] || return 0
    local policy forward table
    policy=$(sed -n 's/^policy=//p' "$state/docker.network")
    forward=$(sed -n 's/^forward=//p' "$state/docker.network")
    ip link delete docker0 2>/dev/null || true
    for table in filter nat; do
        iptables -t "$table" -S 2>/dev/null | sed -nE '/-j DOCKER|docker0/s/^-A/-D/p' | while read -r rule; do
            # shellcheck disable=SC2086 # a rule is many words
            iptables -t "$table" $rule
        done
        chains "$table" | xargs -r -n 1 iptables -t "$table" -F
        chains "$table" | xargs -r -n 1 iptables -t "$table" -X
    done
    [ -z "$policy" ] || iptables -P FORWARD "$policy"
    echo "$forward" >/proc/sys/net/ipv4/ip_forward
}
chains() { iptables -t "$1" -S 2>/dev/null | sed -n 's/^-N \(DOCKER.*\)/\1/p'; }

if ! [ -d "$state" ] && ! { [ -n "$purge" ] && [ -e "$data/.made-by-make-up" ]; }; then
    say "Nothing to do: make up has started nothing since the last boot"
    exit 0
fi
if command -v docker >/dev/null && docker_answers && alive "$state/bulkhead.pid" bulkhead; then
    if [ -n "$purge" ]; then
        found=$(users --all)
        [ -z "$found" ] || die "containers still have volumes of bulkhead; remove them first:" "$found"
        say "Removing the volumes"
        docker_here volume ls --quiet --filter driver=bulkhead | xargs -r docker -H "unix://$DOCKER_SOCKET" volume rm
    elif ! docker_is_ours; then
        found=$(users)
        [ -z "$found" ] || die "containers are using volumes of bulkhead; stop them first:" "$found"
    fi
    if [ -n "$purge" ]; then
        docker_here image rm --force bulkhead-busybox >/dev/null 2>&1 || true
    fi
fi

# Docker first: it stops its containers and lets go of their volumes in good order.
if [ -e "$state/docker.systemd" ]; then
    say "Stopping Docker"
    systemctl stop docker.service docker.socket
    rm -f "$state/docker.systemd"
elif alive "$state/dockerd.pid" dockerd; then
    say "Stopping Docker"
    stop_process "$state/dockerd.pid" dockerd 60
    forget_network
fi
if alive "$state/bulkhead.pid" bulkhead; then
    say "Stopping the daemon"
    stop_process "$state/bulkhead.pid" bulkhead 60
fi
if [ -n "$purge" ]; then
    if [ -e "$data/.made-by-make-up" ]; then
        say "Removing the data in $data"
        mounted=$(findmnt --list --noheadings --output TARGET | grep -E "^($data|/run/bulkhead)/" || true)
        [ -z "$mounted" ] || die "something is still mounted below $data" "$mounted"
        rm -rf "$data" /run/bulkhead
    else
        note "$data was there before make up and stays"
    fi
fi
rm -rf "$state"
say "Bulkhead is down"
