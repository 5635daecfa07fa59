#!/usr/bin/env bash
# Looks at the web page in headless Chromium: what is seen, what can be done, and what it shows when nodes go down. SHOTS
# names a directory for screenshots.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
need_root test-ui

apt_install chromium etcd-server python3-venv
bulkhead=${LAB_BULKHEAD:-target/debug/bulkhead}
[ -x "$bulkhead" ] || cargo build --quiet --workspace
tools=target/python
if [ ! -x "$tools/bin/playwright" ]; then
    say "Installing playwright into $tools"
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check 'playwright>=1.40,<2'
fi
say "Looking at the page"
exec "$tools/bin/python" tests/ui/check.py "$bulkhead" ${SHOTS:+"$SHOTS"}
