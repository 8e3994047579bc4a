#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Proves deploy/Dockerfile: builds the image on a base made by debootstrap, runs it as its non-root user
# with a read-only root, no capabilities and the default seccomp profile, and asks it for a completion.
#   tests/deploy/prove_container.sh [ROOT]     as root; needs podman, debootstrap, curl, util-linux
# ROOT is a folder with a Debian 12 root to use as the base; without it, debootstrap makes one.  Images
# and containers live in a folder of their own, which is deleted at the end.  RUNTIME=runc takes runc
# instead of podman's default, crun, which does not run on every kind of control groups.
# Not part of tests/run.sh: it downloads hundreds of megabytes and wants to be root.
set -euo pipefail

source_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
say() { echo "== $*"; }
die() {
    echo "prove_container.sh: $*" >&2
    exit 1
}

[[ $(id -u) -eq 0 ]] || die "needs root, for debootstrap and to enter the container's network"
work=$(mktemp -d)
key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')

pod() {
    podman --root "$work/storage" --runroot "$work/run" --tmpdir "$work/libpod" \
        ${RUNTIME:+--runtime "$RUNTIME"} "$@"
}

clean_up() {
    pod rm --force --all >/dev/null 2>&1 || true
    umount "$work"/storage/* 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT

build_image() {
    local base=${1-}
    if [[ -z $base ]]; then
        base=$work/base
        say "debootstrap"
        debootstrap --variant=minbase bookworm "$base" >"$work/debootstrap.log" ||
            die "debootstrap: $(tail -3 "$work/debootstrap.log")"
    fi
    tar -C "$base" --exclude=./proc/* --exclude=./sys/* --exclude=./dev/* \
        --exclude=./var/cache/apt/archives/*.deb -c . | pod import --quiet - localhost/base >/dev/null
    say "building the image"
    pod build --quiet --format docker --network host --build-arg BASE=localhost/base \
        -f "$source_root/deploy/Dockerfile" -t localhost/lacuna "$source_root" >"$work/build.log" 2>&1 ||
        die "build: $(tail -20 "$work/build.log")"
    pod history --format '{{.Size}}  {{.CreatedBy}}' localhost/lacuna | cut -c -100 | head -8
}

prepare_files() {
    mkdir "$work/models"
    cp "$("$source_root/deploy/fetch-model.sh" smollm2-135m)" "$work/models/model.gguf"
    echo "proof:$key" >"$work/api-keys"
    chmod 755 "$work" "$work/models"
    chmod 644 "$work/models/model.gguf"
    chown 65532 "$work/api-keys"
    chmod 400 "$work/api-keys"
}

# The health check is run by hand, below: podman's timer wants systemd.  Limits that podman would raise
# by default are set to what is allowed everywhere.
common=(--network none --read-only --read-only-tmpfs=false --health-interval disable
    --ulimit "nofile=$(ulimit -n):$(ulimit -n)" --ulimit nproc=1024:1024)

# run_locked_down NAME PODMAN_OPTION...: no network but its own loopback.
run_locked_down() {
    local name=$1
    shift
    pod run --detach --name "$name" "${common[@]}" --cap-drop ALL --security-opt no-new-privileges \
        --volume "$work/models:/models:ro" --volume "$work/api-keys:/run/secrets/api-keys:ro" \
        --env LACUNA_API_KEY_FILE=/run/secrets/api-keys --env LACUNA_DRAIN_DELAY=0s "$@" \
        >/dev/null 2>"$work/podman.log" || die "$(<"$work/podman.log")"
    local i
    for ((i = 0; i < 100; i++)); do
        if pod healthcheck run "$name" >/dev/null 2>&1; then
            return
        fi
        sleep 0.2
    done
    die "$name did not become healthy: $(pod logs "$name" 2>&1 | tail -3)"
}

ask() { # ask NAME CURL_WORD...: over the container's loopback
    local name=$1
    shift
    nsenter -n -t "$(pod inspect --format '{{.State.Pid}}' "$name")" \
        curl -sS --max-time 60 -H "Authorization: Bearer $key" "$@"
}

status_of() { sed -n "s/^$2:[[:space:]]*//p" "/proc/$(pod inspect --format '{{.State.Pid}}' "$1")/status"; }

refuses_without_keys() {
    local status=0
    pod run --rm "${common[@]}" --volume "$work/models:/models:ro" localhost/lacuna \
        >"$work/out" 2>&1 || status=$?
    [[ $status -eq 64 && $(<"$work/out") == *"refusing to listen on 0.0.0.0:8080"* ]] ||
        die "without keys: exit status $status: $(cat "$work/out")"
    say "without keys it refuses to start: exit status 64"
}

is_locked_down() {
    [[ $(status_of "$1" Uid) == 65532* ]] || die "runs as $(status_of "$1" Uid)"
    [[ $(status_of "$1" CapEff) == 0000000000000000 ]] || die "has capabilities"
    [[ $(status_of "$1" NoNewPrivs) == 1 ]] || die "may gain privileges"
    [[ $(status_of "$1" Seccomp) == 2 ]] || die "no seccomp filter"
    if pod exec --user 0 "$1" sh -c ': >/etc/x || : >/tmp/x' 2>/dev/null; then
        die "the root is writable"
    fi
    say "user 65532, no capabilities, no new privileges, seccomp filter, read-only root"
}

completes() {
    local answer
    answer=$(ask "$1" http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \
        -d '{"prompt":"The capital of France is","max_tokens":8,"temperature":0}')
    [[ $answer == *'"text":" Paris'* ]] || die "answered $answer"
    say "a completion: ${answer:0:60}..."
}

stops() {
    pod stop --time 60 "$1" >/dev/null 2>&1
    local status
    status=$(pod inspect --format '{{.State.ExitCode}}' "$1")
    [[ $status -eq 0 ]] || die "stopped with exit status $status"
    say "stopped by SIGTERM: exit status 0"
}

backend_of() { ask "$1" http://127.0.0.1:8080/metrics | sed -n 's/^lacuna_io_backend_info{backend="\(.*\)"} 1$/\1/p'; }

build_image "${1-}"
prepare_files
refuses_without_keys
run_locked_down mapped localhost/lacuna
is_locked_down mapped
completes mapped
stops mapped
run_locked_down default --env LACUNA_NO_MMAP=true localhost/lacuna
completes default
say "the default seccomp profile: reads by $(backend_of default)"
stops default
run_locked_down open --security-opt seccomp=unconfined --env LACUNA_NO_MMAP=true localhost/lacuna
say "without a seccomp profile: reads by $(backend_of open)"
stops open
say "all held"
