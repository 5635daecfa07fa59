#!/usr/bin/env bash
# Puts the binary, the systemd unit and socket, the configuration, completions and man pages in place, or removes them.
#
#   install.sh install|uninstall      with PREFIX (default /usr/local) and DESTDIR (for packagers)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}
binary=${BIN:-target/release/bulkhead}
bin=$prefix/bin/bulkhead
units=$prefix/lib/systemd/system
config=/etc/bulkhead/bulkhead.toml
share=$prefix/share
completions=(
    "bash $share/bash-completion/completions/bulkhead"
    "zsh $share/zsh/site-functions/_bulkhead"
    "fish $share/fish/vendor_completions.d/bulkhead.fish"
)

[ -n "$root" ] || need_root "$1"
case $1 in
install)
    [ -x "$binary" ] || die "$binary is not here" "Build it first: make build"
    # What the binary calls; a packager declares it instead.
    [ -n "$root" ] || scripts/deps.sh run
    install -D -m 0755 "$binary" "$root$bin"
    for unit in bulkhead.service bulkhead.socket; do
        install -d "$root$units"
        sed "s|@BIN@|$bin|" "deploy/$unit" >"$root$units/$unit"
        chmod 0644 "$root$units/$unit"
    done
    if [ -e "$root$config" ]; then
        note "$root$config is there already and stays as it is"
    else
        install -D -m 0644 deploy/bulkhead.toml "$root$config"
    fi
    for line in "${completions[@]}"; do
        file=$root${line#* }
        install -d "$(dirname "$file")"
        "$binary" completion "${line%% *}" >"$file"
    done
    "$binary" man "$root$share/man/man1" >/dev/null
    say "Installed $root$bin"
    if [ -z "$root" ] && systemd_runs; then
        systemctl daemon-reload
        note "Start it now and at each boot: systemctl enable --now bulkhead.socket bulkhead.service"
        note "Give it space:                 bulkhead pool add /var/lib/bulkhead/pool-0.img --size 10G"
    fi
    ;;
uninstall)
    if [ -z "$root" ] && systemd_runs && systemctl is-active --quiet bulkhead.service; then
        die "bulkhead is running" "Stop the containers that use its volumes, then: systemctl disable --now bulkhead.service bulkhead.socket"
    fi
    rm -f "$root$bin" "$root$units/bulkhead.service" "$root$units/bulkhead.socket"
    for line in "${completions[@]}"; do
        rm -f "$root${line#* }"
    done
    rm -f "$root$share"/man/man1/bulkhead.1 "$root$share"/man/man1/bulkhead-*.1
    if [ -z "$root" ] && systemd_runs; then systemctl daemon-reload; fi
    say "Removed; $config and the data in /var/lib/bulkhead stay"
    ;;
*)
    die "install.sh: $1? It knows install and uninstall."
    ;;
esac
