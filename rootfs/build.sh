#!/usr/bin/env bash
# Makes the managed plugin's folder: config.json and a root file system with nothing but the daemon and what it calls.
#
#   rootfs/build.sh BINARY DIR
#
# mkfs and its kin come from this machine, with the libraries that `ldd` names; so does what BINARY needs if it is not static.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/../scripts/lib.sh"

binary=$1
out=$2
root=$out/rootfs
# What the daemon runs: making, checking, growing and looking at file systems; and what those call in turn.
programs=(
    blkid findmnt fsck losetup mount umount fstrim wipefs blockdev
    mke2fs mkfs.ext4 e2fsck fsck.ext4 resize2fs tune2fs dumpe2fs
    mkfs.xfs xfs_repair fsck.xfs xfs_growfs xfs_io xfs_admin xfs_db
    mkfs.btrfs btrfs btrfstune fsck.btrfs
    sh sleep
)

# Copies a file to the same place below the root, and the libraries that it needs.
add() {
    [ -e "$root$1" ] && return
    mkdir -p "$root$(dirname "$1")"
    cp -L "$1" "$root$1"
    add_libraries "$1"
}
add_libraries() {
    local library
    { ldd "$1" 2>/dev/null || true; } | sed -nE 's:^[^/]*(/[^ ]+) \(0x.*:\1:p' | while read -r library; do
        add "$library"
    done
}

rm -rf "$out"
mkdir -p "$root"/{dev,etc,mnt/volumes,proc,run/docker/plugins,run/bulkhead,sys,tmp,usr/bin,var/lib/bulkhead}
# As on any Debian: one tree, and the old names as links into it.
for dir in bin sbin lib lib64; do
    mkdir -p "$root/usr/$dir"
    ln -s "usr/$dir" "$root/$dir"
done
ln -s ../run "$root/var/run"
for program in "${programs[@]}"; do
    file=$(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin command -v "$program") ||
        die "$program is not installed" "It comes with e2fsprogs, xfsprogs, btrfs-progs or util-linux."
    add "$file"
done
cp /etc/mke2fs.conf "$root/etc/"
echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
install -m 0755 "$binary" "$root/usr/bin/bulkhead"
add_libraries "$binary"

# A capability that this machine cannot give (some sandboxes lack one) would keep the plugin from starting at all.
declare -A bits=([CAP_DAC_READ_SEARCH]=2 [CAP_IPC_LOCK]=14 [CAP_SYS_PTRACE]=19 [CAP_SYS_ADMIN]=21 [CAP_SYS_RESOURCE]=24)
bounding=$((16#$(sed -n 's/^CapBnd:\t//p' /proc/self/status)))
config=$(<"$here/../config.json")
for name in $(jq -r '.linux.capabilities[]' <<<"$config"); do
    if (((bounding >> bits[$name] & 1) == 0)); then
        note "this machine cannot give $name; the plugin made here does without"
        config=$(jq --arg name "$name" '.linux.capabilities -= [$name]' <<<"$config")
    fi
done
printf '%s\n' "$config" >"$out/config.json"
