#!/usr/bin/env bash
# Hands rootfs/build to Docker as the managed plugin PLUGIN (default bulkhead:latest), disabled.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

need_root plugin
name=${PLUGIN:-bulkhead:latest}
docker_answers || die "no Docker answers on $DOCKER_SOCKET" "Start it, or run make up first."
if enabled=$(docker_here plugin inspect --format '{{.Enabled}}' "$name" 2>/dev/null); then
    [ "$enabled" = false ] || die "the plugin $name is enabled" "Disable it first: docker plugin disable $name"
fi
if [ -n "$enabled" ]; then
    docker_here plugin rm "$name" >/dev/null
fi
say "Creating the plugin $name"
docker_here plugin create "$name" rootfs/build >/dev/null
# dockerd binds it into the plugin, and does not make it.
mkdir -p /var/lib/bulkhead
note "docker plugin set $name BULKHEAD_LOG_LEVEL=debug     (any of: docker plugin inspect $name)"
note "docker plugin enable $name"
note "bulkhead --socket /var/lib/bulkhead/bulkhead.sock pool add /var/lib/bulkhead/pool-0.img --size 10G"
note "docker volume create -d $name -o size=1G mydata"
