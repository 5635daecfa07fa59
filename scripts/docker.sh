#!/usr/bin/env bash
# Sees to it that a dockerd answers on /run/docker.sock: uses the one that is there, starts it if it does not run,
# installs it if there is none. What it started itself it notes in STATE, so that `make down` ends that and nothing else.
#
#   docker.sh STATE
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

state=$1
log=$state/dockerd.log

# A client alone is no Docker: what counts is a daemon that answers.
if command -v docker >/dev/null && docker_answers; then
    exit 0
fi
if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
    if systemd_runs && ! [ -e /lib/systemd/system/docker.service ]; then
        touch "$state/docker.systemd"
    fi
    apt_install docker.io iptables
fi
if systemd_runs && systemctl cat docker.service >/dev/null 2>&1; then
    if ! docker_answers; then
        say "Starting Docker"
        systemctl start docker
        touch "$state/docker.systemd"
    fi
    wait_for 60 docker_answers || die "Docker was started and does not answer" "See: journalctl -u docker"
    exit 0
fi

# No systemd: what dockerd leaves of its network is for `make down` to take away, if there was none before.
if ! [ -e /sys/class/net/docker0 ]; then
    {
        echo "policy=$(iptables -S FORWARD 2>/dev/null | sed -n 's/^-P FORWARD //p')"
        echo "forward=$(cat /proc/sys/net/ipv4/ip_forward)"
    } >"$state/docker.network"
fi

# dockerd runs in the background. Not every kernel has all that its bridge and its layers want.
start() {
    : >"$log"
    setsid nohup dockerd -H "unix://$DOCKER_SOCKET" "$@" >>"$log" 2>&1 </dev/null &
    echo $! >"$state/dockerd.pid"
    wait_for 60 settled && docker_answers
}
# shellcheck disable=SC2317 # called by wait_for
settled() { docker_answers || ! running "$state/dockerd.pid"; }
reason() { grep -E 'level=(fatal|error)|failed to start daemon' "$log" | tail -n 1 | cut -c 1-300; }

say "Starting Docker"
options=()
for _ in 1 2 3; do
    if start "${options[@]}"; then
        [ ${#options[@]} -eq 0 ] || note "This kernel does not offer all that Docker wants; it runs with ${options[*]}"
        exit 0
    fi
    why=$(reason)
    stop_process "$state/dockerd.pid" dockerd 20
    case $why in
    *iptables* | *bridge* | *"network controller"* | *NAT*)
        options+=(--iptables=false --ip6tables=false --bridge=none)
        note "without a network of its own, for: $why"
        ;;
    *overlay* | *"storage driver"* | *graphdriver*)
        options+=(--storage-driver=vfs)
        note "with whole copies of layers, for: $why"
        ;;
    *) break ;;
    esac
done
die "Docker did not start" "${why:-It said nothing.}" "The whole log: $log"
