#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Proves the Debian package: builds it, lets lintian read it, installs it in a bare Debian root, runs
# the program and its manual there, removes and purges it and looks for what is left.
#   tests/deploy/prove_package.sh [ROOT]     as root; needs debootstrap, lintian, help2man, dpkg-dev
# ROOT is a folder with a Debian 12 root to copy; without it, debootstrap makes one.
# Not part of tests/run.sh: it downloads a hundred megabytes and wants to be root.
set -euo pipefail

source_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
say() { echo "== $*"; }
die() { echo "prove_package.sh: $*" >&2; exit 1; }

[[ $(id -u) -eq 0 ]] || die "needs root, for chroot"
work=$(mktemp -d)
root=$work/root
clean_up() {
    umount "$root/proc" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT

build_package() {
    cd "$source_root"
    [[ -f build/release/build.ninja ]] || cmake --preset release -DLACUNA_TESTS=OFF >/dev/null
    cmake --build --preset release >/dev/null
    cpack -G DEB --config build/release/CPackConfig.cmake -B build/package >/dev/null
    packages=(build/package/lacuna_*.deb)
    package=$(realpath "${packages[-1]}")
    say "$package"
    lintian --allow-root --fail-on error "$package"
}

make_root() {
    if [[ -n ${1-} ]]; then
        cp -a "$1" "$root"
    else
        debootstrap --variant=minbase bookworm "$root" >"$work/debootstrap.log" ||
            die "debootstrap: $(tail -3 "$work/debootstrap.log")"
    fi
    cp "$package" "$root/tmp/lacuna.deb"
    mount -t proc proc "$root/proc"
}

in_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }

# Names of all files, so that what stays behind is seen; caches and package lists aside.
list_root() {
    (cd "$root" && find . -xdev \( -path ./tmp -o -path ./proc -o -path ./var/cache -o -path ./var/lib/apt \
        -o -path ./var/lib/dpkg -o -path ./var/log -o -path ./dev \) -prune -o -print | sort)
}

try_installed() {
    say "$(in_root lacuna --version)"
    in_root lacuna serve --config /etc/lacuna/lacuna.conf --check-config >/dev/null
    local page
    for page in "$root"/usr/share/man/man1/lacuna*.1.gz; do
        [[ -z $(man --warnings -l "$page" 2>&1 >/dev/null) ]] || die "man complains about $page"
    done
    [[ $(stat -c '%a %u' "$root/etc/lacuna/api-keys") == "600 0" ]] || die "the keys are not root's alone"
    grep -qE '^default:[0-9a-f]{48}$' "$root/etc/lacuna/api-keys" || die "no key was made"
    [[ ! -e $root/etc/systemd/system/multi-user.target.wants/lacuna.service ]] || die "it was enabled"
    # Without a model the service ends with a status that systemd does not restart.
    local status=0
    in_root lacuna serve --config /etc/lacuna/lacuna.conf >"$work/out" 2>&1 || status=$?
    grep -q "RestartPreventExitStatus=.*\b$status\b" "$root/usr/lib/systemd/system/lacuna.service" ||
        die "exit status $status without a model: $(cat "$work/out")"
    say "without a model: exit status $status, not restarted"
}

build_package
make_root "${1-}"
in_root apt-get -o Acquire::Languages=none update -q >"$work/apt.log" 2>&1 || die "apt-get update: $(tail -3 "$work/apt.log")"
# What it depends on first, so that only its own files differ.
mapfile -t depends < <(dpkg-deb -f "$package" Depends | sed 's/([^)]*)//g; s/,/\n/g' | tr -d ' ')
in_root apt-get install -q -y --no-install-recommends "${depends[@]}" init-system-helpers >"$work/apt.log" 2>&1 ||
    die "dependencies: $(tail -3 "$work/apt.log")"
before=$(list_root)
in_root dpkg -i /tmp/lacuna.deb
key_before=$(<"$root/etc/lacuna/api-keys")
try_installed
in_root dpkg -i /tmp/lacuna.deb >/dev/null
[[ $(<"$root/etc/lacuna/api-keys") == "$key_before" ]] || die "installing again changed the keys"
echo "# changed" >>"$root/etc/lacuna/lacuna.conf"
in_root dpkg -r lacuna
[[ -e $root/etc/lacuna/lacuna.conf && -e $root/etc/lacuna/api-keys ]] || die "removing took the configuration"
in_root dpkg -P lacuna
after=$(list_root)
[[ $before == "$after" ]] || die "left behind: $(diff <(echo "$before") <(echo "$after"))"
say "installed, run, removed, purged: nothing is left"
