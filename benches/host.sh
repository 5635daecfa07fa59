#!/usr/bin/env bash
# What the way through FUSE and loop device costs: the same fio jobs on a plain loop device over a plain file, and on
# a volume's device over a plain file, one right after the other so that ratios hold on a busy machine.
#
# benches/host.sh [direct|buffered] [threads] [rounds]
# Needs root, fio and jq. BENCH_DIR=/dev/shm takes the disk out of the picture.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-buffered} threads=${2:-2} rounds=${3:-5}
cargo build --quiet --release -p bulkhead-engine --example serve_file
work=$(mktemp -d "${BENCH_DIR:-/var/tmp}/bulkhead-bench.XXXXXX")
server=
finish() {
    exec 3>&- || true
    [ -z "$server" ] || wait "$server" || true
    [ -z "${plain:-}" ] || losetup -d "$plain"
    rm -rf "$work"
}
trap finish EXIT

truncate -s 1G "$work/plain" "$work/volume"
dio=off; [ "$mode" = direct ] && dio=on
plain=$(losetup --find --show --sector-size 4096 --direct-io=$dio "$work/plain")
mkfifo "$work/in"
target/release/examples/serve_file "$work/host" "$work/volume" 1024 "$mode" threads "$threads" <"$work/in" >"$work/out" &
server=$!
exec 3>"$work/in"
until volume=$(head -n1 "$work/out") && [ -n "$volume" ]; do sleep 0.1; done

job() { # name device options...
    fio --name="$1" --filename="$2" --direct=1 --ioengine=libaio --size=1G --runtime=1 --time_based \
        --output-format=json "${@:3}" | jq -r '[.jobs[0].read, .jobs[0].write] | max_by(.bw) |
        "\(.iops | floor) \(.bw / 1024 | floor) \(.clat_ns.mean / 1000 | floor) \(.clat_ns.percentile["99.000000"] / 1000 | floor)"'
}
for device in "$plain" "$volume"; do # nothing sparse left
    fio --name=fill --filename="$device" --direct=1 --rw=write --bs=1m --size=1G --end_fsync=1 --output-format=terse >/dev/null
done
printf '%-22s %10s %10s %7s %9s %9s %9s %9s\n' "$mode, $threads threads" "plain IOPS" "volume" ratio "plain us" "volume us" "p99" "p99"
# In turns, and the best of each: on a machine with other work the rest measures that work.
compare() {
    local best_a="0 0 0 0" best_b="0 0 0 0" a b
    for _ in $(seq "$rounds"); do
        a=$(job "$1" "$plain" "${@:2}") b=$(job "$1" "$volume" "${@:2}")
        [ "${a%% *}" -le "${best_a%% *}" ] || best_a=$a
        [ "${b%% *}" -le "${best_b%% *}" ] || best_b=$b
    done
    read -r a _ ac ap <<<"$best_a"
    read -r b _ bc bp <<<"$best_b"
    printf '%-22s %10s %10s %7s %9s %9s %9s %9s\n' "$1" "$a" "$b" "$(jq -n "$b/$a*100|floor/100")" "$ac" "$bc" "$ap" "$bp"
}
compare "randwrite 4k qd1" --rw=randwrite --bs=4k --iodepth=1
compare "randwrite 4k qd16" --rw=randwrite --bs=4k --iodepth=16
compare "randread 4k qd1" --rw=randread --bs=4k --iodepth=1
compare "randread 4k qd16" --rw=randread --bs=4k --iodepth=16
compare "write 1m qd4" --rw=write --bs=1m --iodepth=4
compare "read 1m qd4" --rw=read --bs=1m --iodepth=4
compare "randwrite+fsync 4k" --rw=randwrite --bs=4k --iodepth=1 --fsync=1
