#!/usr/bin/env bash
# Installs the Debian packages that something needs: deps.sh build|run|test|bench…
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

for purpose in "$@"; do
    case $purpose in
    build)
        apt_install build-essential pkg-config protobuf-compiler libprotobuf-dev
        ;;
    run)
        apt_install util-linux e2fsprogs xfsprogs btrfs-progs iproute2 jq
        ;;
    test)
        # Only the programs are wanted, not a database server of the machine's own.
        if ! [ -e /etc/postgresql-common/createcluster.conf ] && ! [ -d /usr/lib/postgresql/15 ]; then
            as_root mkdir -p /etc/postgresql-common
            echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
        fi
        apt_install curl docker.io iptables busybox-static etcd-server etcd-client fio openssl postgresql-15 tzdata shellcheck
        ;;
    bench)
        # Without what it only suggests: no server of it is started on the machine.
        apt_install fio sqlite3 curl postgresql-15 glusterfs-server glusterfs-client
        ;;
    *)
        die "deps.sh: $purpose? It knows build, run, test and bench."
        ;;
    esac
done
