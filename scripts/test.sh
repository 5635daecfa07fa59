#!/usr/bin/env bash
# Lints, then every test of the workspace. The end-to-end tests start a dockerd of their own, so all of it needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
need_root test

scripts/deps.sh build run test
scripts/lint.sh
say "Building the tests, and the binary that they run"
cargo test --quiet --workspace --no-run
# Built with the tests, so that they need not look whether it is the newest.
export LAB_BULKHEAD=$PWD/target/debug/bulkhead
say "Testing"
log=target/test.log
status=0
# One test program after the other; within one, as many at a time as there are processors.
cargo test --workspace --no-fail-fast 2>&1 | tee "$log" || status=$?
# Machines with deliberate faults: optimised, and in a folder of their own, so that nothing else is built with them.
say "Looking for the deliberate faults"
cargo test --quiet --release --package bulkhead-sim --features faults --target-dir target/faults --test faults 2>&1 | tee -a "$log" || status=$?
say "Results"
grep -E '^(test result:|test .* FAILED$)' "$log" | grep -v '^test result: ok. 0 passed' || true
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
    END { printf "test result, all together: %d passed; %d failed; %d ignored\n", passed, failed, ignored; exit failed > 0 || passed == 0 }' \
    "$log" || status=1
exit "$status"
