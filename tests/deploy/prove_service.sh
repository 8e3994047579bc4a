#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Proves lacuna.service and lacuna.socket with a real systemd, in namespaces: the package is installed, the
# service started, asked, reloaded, upgraded, killed, started by its socket, purged.
#   tests/deploy/prove_service.sh [ROOT]     as root; needs debootstrap, util-linux, curl, help2man, dpkg-dev
# ROOT is a folder with a Debian 12 root to copy; without it, debootstrap makes one.
# Not part of tests/run.sh: it downloads two hundred megabytes, wants to be root, and takes two minutes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_root=$(cd "$here/../.." && pwd)
say() { echo "== $*"; }
die() {
    echo "prove_service.sh: $*" >&2
    [[ -z ${init-} ]] || inside journalctl --no-pager -q -u lacuna | tail -5 >&2
    exit 1
}

[[ $(id -u) -eq 0 ]] || die "needs root, for chroot and namespaces"
work=$(mktemp -d)
root=$work/root
clean_up() {
    [[ -z ${init-} ]] || kill -KILL "$init" 2>/dev/null || true
    wait 2>/dev/null || true
    mkdir "$work/groups"
    if mount -t cgroup2 none "$work/groups" 2>/dev/null; then
        find "$work"/groups/lacuna-proof-* -depth -type d -exec rmdir {} + 2>/dev/null || true
        umount "$work/groups"
    fi
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT

inside() { nsenter -t "$init" -a -r -w env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
unit() { inside systemctl show --value -p "$1" lacuna.service; }

# status_for KEY: of a completion asked with it, over the loopback of the namespace.
status_for() {
    nsenter -t "$init" -n curl -sS -o "$work/answer" -w '%{http_code}' --max-time 60 \
        http://127.0.0.1:8080/v1/completions -H "Authorization: Bearer $1" \
        -H 'Content-Type: application/json' -d '{"prompt":"The capital of France is","max_tokens":4}'
}

expect() { # expect WHAT WANTED FOUND
    [[ $2 == "$3" ]] || die "$1: $3, not $2"
    say "$1: $3"
}

build_package() {
    cd "$source_root"
    [[ -f build/release/build.ninja ]] || cmake --preset release -DLACUNA_TESTS=OFF >/dev/null
    cmake --build --preset release >/dev/null
    cpack -G DEB --config build/release/CPackConfig.cmake -B build/package >/dev/null 2>&1
    packages=(build/package/lacuna_*.deb)
    package=${packages[-1]}
}

make_root() {
    if [[ -n ${1-} ]]; then
        cp -a "$1" "$root"
    else
        debootstrap --variant=minbase bookworm "$root" >"$work/debootstrap.log" ||
            die "debootstrap: $(tail -3 "$work/debootstrap.log")"
    fi
    mapfile -t depends < <(dpkg-deb -f "$package" Depends | sed 's/([^)]*)//g; s/,/\n/g' | tr -d ' ')
    {
        chroot "$root" apt-get -o Acquire::Languages=none update -q
        chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
            systemd dbus init-system-helpers "${depends[@]}"
        chroot "$root" systemctl mask systemd-sysctl systemd-udevd systemd-modules-load systemd-logind \
            getty.target systemd-timesyncd apt-daily.timer apt-daily-upgrade.timer
    } >"$work/apt.log" 2>&1 || die "$(tail -3 "$work/apt.log")"
    install -D -m 644 "$("$source_root/deploy/fetch-model.sh" smollm2-135m)" "$root/srv/lacuna/model.gguf"
    cp "$package" "$root/srv/lacuna.deb"
}

boot() {
    unshare -m -p -f -i -u -n --kill-child "$here/boot_systemd.sh" "$root" >"$work/boot.log" 2>&1 &
    local outer=$! i
    for ((i = 0; i < 100; i++)); do
        sleep 0.2
        init=$(pgrep -P "$outer" || true)
        if [[ -n $init ]] && inside systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded'; then
            return
        fi
    done
    die "systemd did not boot: $(tail -3 "$work/boot.log")"
}

install_package() { inside dpkg -i /srv/lacuna.deb >"$work/dpkg.log" 2>&1 || die "$(<"$work/dpkg.log")"; }

build_package
make_root "${1-}"
boot
install_package
expect "after installing, the service is" inactive "$(unit ActiveState)"
inside systemctl start lacuna 2>/dev/null && die "started without a model"
expect "without a model, its exit status is" 64 "$(unit ExecMainStatus)"
expect "and it was restarted so many times" 0 "$(unit NRestarts)"

inside systemctl reset-failed lacuna
# --no-mmap, so that io_uring meets the unit's filter.
printf 'model = /srv/lacuna/model.gguf\nctx = 2048\ndrain-delay = 1s\nno-mmap = true\nio = uring\n' \
    >>"$root/etc/lacuna/lacuna.conf"
inside systemctl enable --now lacuna 2>/dev/null || die "did not start"
key=$(sed -n 's/^default://p' "$root/etc/lacuna/api-keys")
expect "with a model it says" serving "$(unit StatusText)"
expect "a completion with the key" 200 "$(status_for "$key")"
expect "with another" 401 "$(status_for second)"
expect "it reads the model by" io_uring "$(nsenter -t "$init" -n curl -sS -H "Authorization: Bearer $key" \
    http://127.0.0.1:8080/metrics | sed -n 's/^lacuna_io_backend_info{backend="\(.*\)"} 1$/\1/p')"

process=$(unit MainPID)
echo "new:second" >>"$root/etc/lacuna/api-keys"
inside systemctl reload lacuna || die "did not reload"
expect "after a reload, with the new key" 200 "$(status_for second)"
expect "by the same process" "$process" "$(unit MainPID)"

install_package
[[ $(unit MainPID) != "$process" ]] || die "upgrading did not restart it"
expect "after an upgrade" 200 "$(status_for "$key")"
say "idle for longer than WatchdogSec"
sleep 65
expect "restarts since" 0 "$(unit NRestarts)"
inside systemctl kill -s KILL lacuna
sleep 5
expect "restarts after SIGKILL" 1 "$(unit NRestarts)"

inside systemctl stop lacuna
expect "stopped, with result" success "$(unit Result)"
inside systemctl start lacuna.socket
status_for "$key" >/dev/null # 503 while it loads
inside systemctl start lacuna
expect "started by its socket" 200 "$(status_for "$key")"

inside dpkg -P lacuna >"$work/dpkg.log" 2>&1 || die "$(<"$work/dpkg.log")"
expect "after purging, the socket is" inactive "$(inside systemctl is-active lacuna.socket || true)"
[[ ! -e $root/etc/lacuna && ! -e $root/etc/systemd/system/multi-user.target.wants/lacuna.service ]] ||
    die "purging left something"
say "all held"
