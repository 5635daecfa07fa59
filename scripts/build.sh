#!/usr/bin/env bash
# Builds the release binary, after checking that the toolchain is there.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
    PATH=$HOME/.cargo/bin:$PATH
fi
command -v cargo >/dev/null || die "cargo is not here; Bulkhead is built with Rust" \
    "Install it with rustup, as https://rustup.rs tells, open a new shell and run make again." \
    "If you used sudo: root has its own PATH; run make as yourself, it asks for sudo where it needs to."
say "Building bulkhead (the first time takes some minutes)"
cargo build --release --quiet --package bulkhead "$@"
