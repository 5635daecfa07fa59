#!/usr/bin/env bash
# Several hosts on this machine: lab.sh COMMAND…, as `bulkhead-lab --help` tells them. Builds what it needs first.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

lab=target/release/bulkhead-lab
case ${1:-} in
down | enter)
    [ -x "$lab" ] || die "no lab was ever started here" "Start one with: make lab"
    ;;
*)
    scripts/deps.sh build run test
    scripts/build.sh --package bulkhead-lab
    ;;
esac
as_root env LAB_BULKHEAD="$PWD/target/release/bulkhead" "$lab" "$@"
