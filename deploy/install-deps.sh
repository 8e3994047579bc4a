#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs the Debian packages that lacuna needs, and only those that are missing.
#   deploy/install-deps.sh            to build, fetch a model and serve
#   deploy/install-deps.sh --test     also for tests/run.sh
#   deploy/install-deps.sh --nightly  also for tests/fuzz/nightly.sh
#   deploy/install-deps.sh --package  to build, and for manual pages and the Debian package
# With nothing missing it takes a few hundredths of a second and says nothing.
set -euo pipefail

usage() { sed -n '3,8s/^# \{0,1\}//p' "$0"; }

# One word per package.  "package:command" is satisfied by the command, wherever it came from: a
# newer Node from elsewhere conflicts with Debian's npm.
build_packages=(gcc libc6-dev cmake ninja-build:ninja pkg-config git:git curl:curl ca-certificates
    libmicrohttpd-dev libgnutls28-dev libjansson-dev liburing-dev libjemalloc-dev libpcre2-dev
    libxxhash-dev libsystemd-dev python3:python3 python3-pip)
test_packages=(libcriterion-dev clang clang-format libclang-rt-14-dev python3-venv nodejs:node
    npm:npm chromium:chromium gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
nightly_packages=(llvm)
package_packages=(help2man dpkg-dev file gzip:gzip)
# Where systemd runs, these packages would start services; their tests are then left out.
[[ -d /run/systemd/system ]] || test_packages+=(nginx haproxy)

packages=("${build_packages[@]}")
case "${1-}" in
'') ;;
--test) packages+=("${test_packages[@]}") ;;
--nightly) packages+=("${test_packages[@]}" "${nightly_packages[@]}") ;;
--package) packages+=("${package_packages[@]}") ;;
-h | --help) usage; exit 0 ;;
*) echo "install-deps.sh: unknown option '$1'" >&2; usage >&2; exit 64 ;;
esac

# A package counts as there if dpkg has it installed; one query answers for all.
missing_packages() {
    local names=() word
    for word in "${packages[@]}"; do
        if [[ $word == *:* ]] && command -v "${word#*:}" >/dev/null; then
            continue
        fi
        names+=("${word%%:*}")
    done
    local installed
    installed=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' "${names[@]}" 2>/dev/null |
        sed -n 's/^ii *//p' || true)
    for word in "${names[@]}"; do
        grep -qxF "$word" <<<"$installed" || echo "$word"
    done
}

if ! command -v dpkg-query >/dev/null; then
    echo "install-deps.sh: this is not a Debian system; please install: ${packages[*]%%:*}" >&2
    exit 1
fi
mapfile -t missing < <(missing_packages)
[[ ${#missing[@]} -eq 0 ]] && exit 0

as_root=()
if [[ $(id -u) -ne 0 ]]; then
    if ! command -v sudo >/dev/null; then
        echo "install-deps.sh: neither root nor sudo; as root: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi

apt_install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
        --no-install-recommends "${missing[@]}" >&2
}

# Are all of them known to apt?  A bare machine's package lists are empty or old.
lists_know() { apt-get install -s -q --no-install-recommends "${missing[@]}" >/dev/null 2>&1; }

echo "install-deps.sh: installing ${#missing[@]} Debian packages: ${missing[*]}" >&2
if ! lists_know; then
    echo "install-deps.sh: apt-get update" >&2
    "${as_root[@]}" apt-get update -q >&2
fi
if ! apt_install; then # the lists may name versions that the mirror no longer has
    echo "install-deps.sh: once more, after apt-get update" >&2
    "${as_root[@]}" apt-get update -q >&2
    apt_install
fi
