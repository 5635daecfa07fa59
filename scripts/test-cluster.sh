#!/usr/bin/env bash
# The tests of a cluster of three hosts, the whole of them: test-cluster.sh etcd|consul
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
need_root test-cluster

scripts/deps.sh build run test
say "Building"
# Everything, as the tests do: what one of them builds the others then find.
cargo test --quiet --workspace --no-run
export LAB_BULKHEAD=$PWD/target/debug/bulkhead STORE=$1
say "Testing on $1"
cargo test --quiet --workspace --test cluster -- --nocapture --test-threads 1
