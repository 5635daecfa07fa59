#!/usr/bin/env bash
# Builds, and puts what was built in the place of the installed program, whose volumes go on.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

scripts/deps.sh build
scripts/build.sh
# The new program does it: an old one may not know how.
as_root "${BIN:-target/release/bulkhead}" upgrade
