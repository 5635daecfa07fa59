
say() { printf '==> %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" -eq 0 ] || die "this needs root: run it with sudo"
[ -c /dev/fuse ] || modprobe fuse 2>/dev/null || true
[ -c /dev/fuse ] || die "there is no /dev/fuse: this kernel cannot serve volumes"

# What the daemon calls.
missing=
for program in losetup:util-linux mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs ip:iproute2; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${program%%:*}" >/dev/null || missing="$missing ${program#*:}"
done
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null || die "install these packages first:$missing"
    say "Installing$missing"
    apt-get update -qq
    # shellcheck disable=SC2086 # they are several words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

if [ -n "$source" ]; then
    case $source in
    https://* | http://*)
        curl --fail --silent --show-error --location --output "$bulkhead.new" "$source"
        ;;
    *) cp "$source" "$bulkhead.new" ;;
    esac
    if [ -n "$sha256" ] && ! echo "$sha256  $bulkhead.new" | sha256sum --check --status; then
        rm -f "$bulkhead.new"
        die "$source is not what it should be: its checksum differs from $sha256"
    fi
    chmod 0755 "$bulkhead.new"
    mv "$bulkhead.new" "$bulkhead"
fi
[ -x "$bulkhead" ] || die "there is no $bulkhead: copy the binary there first (install -m 0755 bulkhead $bulkhead), or generate this script with --binary"

# Puts what comes in into a file, unless it is so already: put FILE MODE
changed=
put() {
    mkdir -p "$(dirname "$1")"
    (umask 077 && cat >"$1.new")
    if [ "$1" = /etc/bulkhead/bulkhead.toml ] && [ -n "$interface" ]; then
        address=$(ip -o addr show dev "$interface" scope global | awk '{ sub("/.*", "", $4); print $4; exit }')
        [ -n "$address" ] || die "the interface $interface has no address"
        case $address in *:*) address="[$address]" ;; esac
        # Before the first table, where the settings without one are.
        { printf 'data_address = "%s"\n' "$address"; cat "$1.new"; } >"$1.addressed"
        mv "$1.addressed" "$1.new"
    fi
    if cmp -s "$1.new" "$1"; then
        rm "$1.new"
        return
    fi
    if [ -e "$1" ]; then
        cp -p "$1" "$1.before"
        say "$1 is replaced; what it was is $1.before"
    fi
    chmod "$2" "$1.new"
    mv "$1.new" "$1"
    changed=yes
}

