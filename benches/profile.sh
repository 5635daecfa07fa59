#!/usr/bin/env bash
# Where the time of a request goes: a daemon with one volume on a pool in a directory, fio on its file system, and what the
# kernel tells meanwhile: system calls, context switches and processor time for each operation, by thread and by function.
#
# benches/profile.sh [SECONDS]
# Needs root, fio, jq, curl, strace and perf. BULKHEAD names another binary, BENCH_DIR another disk, FLAMES a directory for a flame
# graph of each, a plain picture without its program (needs `cargo install inferno`).
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5}
bulkhead=${BULKHEAD:-$PWD/target/release/bulkhead}
[ -x "$bulkhead" ] || cargo build --quiet --release -p bulkhead
work=$(mktemp -d "${BENCH_DIR:-/var/tmp}/bulkhead-profile.XXXXXX")
daemon=
finish() {
    if [ -n "$daemon" ]; then
        call Unmount '{"Name":"v","ID":"profile"}' >/dev/null || true
        kill "$daemon" || true
        wait "$daemon" || true
    fi
    if mountpoint -q "$work/plain"; then umount "$work/plain"; fi
    rm -rf "$work"
}
call() { curl --silent --show-error --unix-socket "$work/docker.sock" --data-binary "$2" "http://localhost/VolumeDriver.$1"; }
trap finish EXIT

mkdir "$work/plain"
truncate -s 2G "$work/plain.img"
device=$(losetup --find --show --sector-size 4096 "$work/plain.img")
mkfs.ext4 -q "$device"
mount "$device" "$work/plain"
losetup --detach "$device"

"$bulkhead" daemon --state-dir "$work/state" --run-dir "$work/run" --mounts-dir "$work/mounts" --socket "$work/control.sock" \
    --docker-socket "$work/docker.sock" --docker-api "" --node-name profile --store "sqlite://$work/store.db" >"$work/log" 2>&1 &
daemon=$!
until grep -q "bulkhead is ready" "$work/log"; do
    kill -0 "$daemon" || { cat "$work/log"; exit 1; }
    sleep 0.1
done
# The keeper has started the process that serves, and does no work itself.
serving=$(pgrep --parent "$daemon" | head -1)
mkdir "$work/pool"
"$bulkhead" --socket "$work/control.sock" pool add "$work/pool" >/dev/null
call Create '{"Name":"v","Opts":{"size":"2G"}}' >/dev/null
volume=$(call Mount '{"Name":"v","ID":"profile"}' | jq -er .Mountpoint)

job() { # directory, fio's options…
    fio --name=job --filename="$1/fio.dat" --size=512m --direct=1 --ioengine=libaio --randrepeat=0 --output-format=json \
        --time_based --runtime="$seconds" "${@:2}"
}
for directory in "$work/plain" "$volume"; do
    fio --name=fill --filename="$directory/fio.dat" --size=512m --direct=1 --rw=write --bs=1m --end_fsync=1 --output-format=json >/dev/null
done
figures='.jobs[0] | [.read, .write] | max_by(.iops) |
    "\(.iops | floor) IOPS, \(.clat_ns.mean / 1000 | floor) us mean, \(.clat_ns.percentile["50.000000"] / 1000 | floor) median, \(.clat_ns.percentile["99.000000"] / 1000 | floor) 99 %"'

profile() { # name, fio's options…
    echo "=== $1"
    echo "plain:  $(job "$work/plain" "${@:2}" | jq -r "$figures")"
    echo "volume: $(job "$volume" "${@:2}" | jq -r "$figures")"

    # System calls: strace slows everything down, but the numbers for each operation stay.
    job "$volume" "${@:2}" >"$work/fio.json" &
    fio=$!
    sleep 1
    timeout -s INT "$seconds" strace -f -c -U name,calls -p "$serving" -o "$work/strace" 2>/dev/null || true
    wait "$fio"
    operations=$(jq '.jobs[0] | .read.total_ios + .write.total_ios' "$work/fio.json")
    echo "--- the daemon's system calls (fio did $operations operations in its time)"
    head -12 "$work/strace"

    # Who ran, and how often they gave way.
    declare -A before=()
    tasks() { for task in /proc/"$serving"/task/*; do echo "$task"; done; }
    switches() { awk '/ctxt_switches/ { sum += $2 } END { print sum + 0 }' "$1/status"; }
    for task in $(tasks); do before[$task]="$(switches "$task") $(cut -d' ' -f1 "$task/schedstat")"; done
    perf record --quiet --all-cpus --freq 999 --call-graph fp --output "$work/perf.data" -- \
        fio --name=job --filename="$volume/fio.dat" --size=512m --direct=1 --ioengine=libaio --randrepeat=0 --output-format=json \
        --time_based --runtime="$seconds" "${@:2}" >"$work/fio.json" 2>/dev/null
    operations=$(jq '.jobs[0] | .read.total_ios + .write.total_ios' "$work/fio.json")
    echo "--- the daemon's threads, for each of $operations operations: context switches, microseconds of processor time"
    for task in "${!before[@]}"; do
        [ -e "$task/status" ] || continue
        read -r switched ran <<<"${before[$task]}"
        awk -v name="$(cat "$task/comm")" -v s="$(($(switches "$task") - switched))" -v r="$(($(cut -d' ' -f1 "$task/schedstat") - ran))" \
            -v n="$operations" 'BEGIN { if (r / n > 50) printf "%-18s %6.2f %8.2f\n", name, s / n, r / n / 1000 }'
    done
    echo "--- processor time of the machine by program"
    perf report --input "$work/perf.data" --no-children --sort comm --percent-limit 1 --stdio -g none 2>/dev/null | grep -E '^ +[0-9]' || true
    echo "--- by function"
    perf report --input "$work/perf.data" --no-children --sort comm,symbol --percent-limit 0.8 --stdio -g none 2>/dev/null | grep -E '^ +[0-9]' | sed 's/  *- *- *$//' | head -40 || true
    if [ -n "${FLAMES:-}" ]; then
        perf script --input "$work/perf.data" 2>/dev/null | inferno-collapse-perf |
            grep -E "^(fio|fuse|bulkhead|tokio|loop|kworker|jbd2)" |
            inferno-flamegraph --title "$1" --minwidth 0.8 --hash |
            perl -0pe 's/<script.*?<\/script>//sg; s/ onload="[^"]*"//; s/<text id="(details|unzoom|search|matched)".*?<\/text>//sg' \
                >"$FLAMES/flame-$(tr -cs '[:alnum:]' - <<<"${1,,}" | sed 's/-$//').svg"
    fi
}
profile "random write 4 KiB, depth 1" --rw=randwrite --bs=4k --iodepth=1
profile "random write 4 KiB, depth 16" --rw=randwrite --bs=4k --iodepth=16
profile "random write 4 KiB, fsync after each" --rw=randwrite --bs=4k --iodepth=1 --fsync=1
profile "random read 4 KiB, depth 1" --rw=randread --bs=4k --iodepth=1
