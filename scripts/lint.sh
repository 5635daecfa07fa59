#!/usr/bin/env bash
# Formatting and lints, where every warning is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

say "Formatting"
cargo fmt --all --check
say "Shell"
if command -v shellcheck >/dev/null; then
    shellcheck --external-sources scripts/*.sh rootfs/*.sh .ci/run
else
    note "shellcheck is not installed: skipped"
fi
say "Links between pages"
broken=$(git ls-files '*.md' | while read -r page; do
    { grep -oE '\]\([^):# ]+' "$page" || true; } | cut -c 3- | { grep -v '^https*$' || true; } | while read -r link; do
        [ -e "$(dirname "$page")/$link" ] || echo "$page: $link"
    done
done)
[ -z "$broken" ] || die "these links lead nowhere:" "$broken"
say "Clippy"
cargo clippy --quiet --workspace --all-targets -- --deny warnings
say "Documentation"
RUSTDOCFLAGS="--deny warnings --allow rustdoc::private_intra_doc_links" cargo doc --quiet --workspace --no-deps
say "Licences and advisories"
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --log-level error check bans licenses sources
else
    note "cargo-deny is not installed: skipped"
fi
