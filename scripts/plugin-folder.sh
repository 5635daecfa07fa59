#!/usr/bin/env bash
# Makes rootfs/build, the folder that `docker plugin create` takes.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

# The C library linked in needs a target named, lest build scripts and macros be linked so too; a folder of its own
# keeps the other builds as they are.
target=$(rustc -vV | sed -n 's/^host: //p')
say "Building a static bulkhead (the first time takes some minutes)"
RUSTFLAGS="-C target-feature=+crt-static" cargo build --quiet --package bulkhead --profile "${PROFILE:-release}" \
    --target "$target" --target-dir target/plugin
say "Making the plugin's root file system"
rootfs/build.sh "target/plugin/$target/${PROFILE:-release}/bulkhead" rootfs/build
note "rootfs/build: $(du -sh rootfs/build | cut -f1)"
