# shellcheck shell=bash
# What the other scripts share: words for people, packages, and how to reach Docker. Sourced, never run.

# Where Docker listens; whatever context or DOCKER_HOST the user has chosen, volumes are on this machine.
DOCKER_SOCKET=/run/docker.sock

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
die() {
    printf '\033[1;31merror:\033[0m %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}

# The prefix for what only root may do.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        command -v sudo >/dev/null || die "this needs root" "Run it as root, or install sudo."
        sudo "$@"
    fi
}

need_root() {
    [ "$(id -u)" -eq 0 ] || die "this needs root" "Run it as root: sudo make $1"
}

# Installs those of the named Debian packages that are missing.
apt_install() {
    local missing=() package
    for package in "$@"; do
        # shellcheck disable=SC2016 # the format is dpkg's, not the shell's
        [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "missing: ${missing[*]}" "This is not Debian; install the equivalents of these packages by hand."
    say "Installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

docker_here() { docker -H "unix://$DOCKER_SOCKET" "$@"; }

docker_answers() { timeout 10 docker -H "unix://$DOCKER_SOCKET" version >/dev/null 2>&1; }

# Waits until a command succeeds: wait_for SECONDS COMMAND…
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.2
    done
}

# Whether the process in a pid file, which was started just now, has not ended.
running() { kill -0 "$(cat "$1")" 2>/dev/null; }

# Whether the process in a pid file is alive and runs the named program, for the number may be another's by now.
alive() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 1
    [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ]
}

# Ends the process in a pid file: stop_process FILE PROGRAM SECONDS
stop_process() {
    local pid
    if alive "$1" "$2"; then
        pid=$(cat "$1")
        kill -TERM "$pid"
        if ! wait_for "$3" not alive "$1" "$2"; then
            note "$2 ($pid) did not end within $3 s and is killed"
            kill -KILL "$pid"
            wait_for 10 not alive "$1" "$2" || die "$2 ($pid) cannot be killed"
        fi
    fi
    rm -f "$1"
}

not() { ! "$@"; }

systemd_runs() { [ -d /run/systemd/system ]; }
