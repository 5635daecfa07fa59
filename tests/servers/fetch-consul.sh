#!/usr/bin/env bash
# Prints the path of a Consul server for the tests. Debian 12 has no package of it, Debian 11 has: it is fetched with a
# private apt configuration from the mirror that this machine uses anyway, and unpacked into a cache of its own. Nothing
# is installed, and the machine's apt is not touched.
set -euo pipefail

if command -v consul; then exit 0; fi
cache="${BULKHEAD_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bulkhead-test}"
program="$cache/consul/usr/bin/consul"
mkdir -p "$cache"
exec 9>"$cache/lock"
flock -w 300 9
if [ ! -x "$program" ]; then
    work="$(mktemp -d "$cache/fetch.XXXXXX")"
    trap 'rm -rf "$work"' EXIT
    mirror="$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' |
        awk '$2 !~ /-/ && $3 == "main" { print $1; exit }')"
    [ -n "$mirror" ] || { echo "no Debian mirror is configured on this machine" >&2; exit 1; }
    mkdir -p "$work"/{lists,cache/archives}/partial
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bullseye main" >"$work/sources.list"
    apt=(apt-get -qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=-
        -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o Acquire::Languages=none
        -o APT::Sandbox::User=root)
    cd "$work"
    "${apt[@]}" update >&2
    "${apt[@]}" download consul >&2
    dpkg -x consul_*.deb "$work/root"
    "$work/root/usr/bin/consul" version >&2
    rm -rf "$cache/consul"
    mv "$work/root" "$cache/consul"
fi
echo "$program"
