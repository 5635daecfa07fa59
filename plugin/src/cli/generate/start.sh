
answers() { "$bulkhead" pool list >/dev/null 2>&1; }

if answers; then
    [ -z "$changed" ] || say "The daemon runs; what has changed counts from its next start on: systemctl restart bulkhead"
elif [ -d /run/systemd/system ]; then
    say "Starting the daemon"
    systemctl daemon-reload
    systemctl enable --now bulkhead.socket bulkhead.service
else
    say "Starting the daemon without systemd; its log is /var/log/bulkhead.log"
    setsid "$bulkhead" daemon >>/var/log/bulkhead.log 2>&1 </dev/null &
fi
tries=0
until answers; do
    tries=$((tries + 1))
    if [ "$tries" -ge 60 ]; then
        "$bulkhead" doctor || true
        die "the daemon is not ready after a minute; its log says why"
    fi
    sleep 1
done

# Makes a pool, unless it is one of this node's already: pool DEVICE [--size SIZE]
pool() {
    real=$(readlink -f "$1") || real=$1
    if "$bulkhead" pool list --json | grep -qF "\"device\": \"$real\""; then
        return
    fi
    say "Making a pool of $1"
    mkdir -p "$(dirname "$1")"
    "$bulkhead" pool add "$@"
}

# Makes a storage class, unless some node has: class NAME [-o KEY=VALUE]…
class() {
    "$bulkhead" class inspect "$1" >/dev/null 2>&1 && return
    "$bulkhead" class create "$@" || "$bulkhead" class inspect "$1" >/dev/null
}

