#!/usr/bin/env bash
# Tries the running API with schemathesis against its own OpenAPI document: over TCP with TLS and a token, on a daemon of
# its own with the embedded store. What would write to devices is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
need_root test-api

bulkhead=${LAB_BULKHEAD:-target/debug/bulkhead}
[ -x "$bulkhead" ] || cargo build --quiet --workspace
tools=target/python
if [ ! -x "$tools/bin/schemathesis" ]; then
    say "Installing schemathesis into $tools"
    apt_install python3-venv
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check 'schemathesis>=4,<5'
fi

dir=$(mktemp -d /tmp/bulkhead-api.XXXXXX)
daemon=
cleanup() {
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap cleanup EXIT
port=${API_PORT:-$((20000 + RANDOM % 10000))}
"$bulkhead" daemon --config /dev/null --node-name n1 --docker-api "" --socket "$dir/control.sock" \
    --docker-socket "$dir/docker.sock" --state-dir "$dir/state" --run-dir "$dir/run" --mounts-dir "$dir/mounts" \
    --store "sqlite://$dir/store.db" --api-listen "127.0.0.1:$port" 2>"$dir/log" &
daemon=$!
export BULKHEAD_CONTROL_SOCKET=$dir/control.sock
served() { grep -q "the API is served with TLS" "$dir/log"; }
wait_for 30 served || { cat "$dir/log" >&2; die "the daemon is not ready"; }
"$bulkhead" pool add "$dir/pool.img" --size 2G >/dev/null
"$bulkhead" volume create v1 --size 64M >/dev/null
"$bulkhead" class create gold --repl 1 >/dev/null
token=$("$bulkhead" token create schemathesis --role admin)
viewer=$("$bulkhead" token create viewer --role viewer)

for caller in admin viewer none; do
    say "As $caller"
    header=()
    checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection,unsupported_method
    case $caller in
    admin) header=(--header "Authorization: Bearer $token") ;;
    viewer) header=(--header "Authorization: Bearer $viewer") checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance ;;
    none) checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance ;;
    esac
    # A stream has no end, a pool would be made of whatever file the test thinks of, and a restart cuts off what comes after it.
    curl --silent --fail --unix-socket "$dir/control.sock" http://localhost/v1/openapi.json -o "$dir/openapi.json"
    "$tools/bin/schemathesis" run "$dir/openapi.json" --url "https://127.0.0.1:$port" --tls-verify="$dir/state/api/cert.pem" \
        "${header[@]}" --checks "$checks" --max-examples "${EXAMPLES:-30}" --phases examples,coverage,fuzzing \
        --exclude-path /v1/events/stream --exclude-operation-id add_pool --exclude-operation-id restart --request-timeout 120 --seed "${SEED:-1}" --no-color
done
kill -0 "$daemon" || die "the daemon has ended"
if grep -q panicked "$dir/log"; then
    grep panicked "$dir/log" >&2
    die "something has panicked"
fi
say "The interface does what its document says"
