#!/usr/bin/env bash
# Benchmarks: bench.sh control|data|recovery|scale [ARGUMENTS]. With QUICK=1 a short run; with PAGE=1 the figures go into the documentation too.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

what=${1:-}
shift || true
case $what in
control)
    scripts/deps.sh build run test
    need_root bench-control
    page=docs/control-plane.md
    [ -z "${QUICK:-}" ] || set -- --nodes 40 --volumes 1000 --storm 10 --rest 10 "$@"
    ;;
data)
    scripts/deps.sh build run test bench
    need_root bench
    page=docs/performance.md
    [ -z "${QUICK:-}" ] || set -- --quick "$@"
    ;;
recovery)
    scripts/deps.sh build run test bench
    need_root bench-recovery
    page=docs/performance.md
    [ -z "${QUICK:-}" ] || set -- --quick "$@"
    ;;
scale)
    scripts/deps.sh build run test bench
    need_root bench-scale
    page=docs/performance.md
    [ -z "${QUICK:-}" ] || set -- --quick "$@"
    ;;
*)
    die "bench.sh: ${what:-nothing}? It knows control, data, recovery and scale."
    ;;
esac
[ -z "${PAGE:-}" ] || set -- --page "$page" "$@"
say "Building"
cargo build --quiet --release --package bulkhead --package bulkhead-benches --package bulkhead-lab --bins
export LAB_BULKHEAD=$PWD/target/release/bulkhead
say "Measuring"
if [ "$what" = control ]; then
    exec target/release/bench-control --daemon "$LAB_BULKHEAD" "$@"
fi
exec "target/release/bench-$what" "$@"
