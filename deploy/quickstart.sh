#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# From a fresh clone to a running server, on Debian 12.
#   deploy/quickstart.sh [--no-serve] [OPTION OF lacuna serve...]
# Installs what is missing, builds the release preset, fetches the default model and serves it in
# the foreground; --no-serve stops before serving.  What is done already is not done again.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

serve=yes
serve_options=()
log_format=(--log-format text) # a person is watching: lacuna then prints the curl line once it is ready
for option in "$@"; do
    case "$option" in
    -h | --help) sed -n '4,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --no-serve) serve=no ;;
    --log-format*) log_format=(); serve_options+=("$option") ;;
    *) serve_options+=("$option") ;;
    esac
done

build() {
    cd "$root"
    if [[ ! -f build/release/build.ninja ]]; then
        # The tests need more packages; tests/run.sh turns them on again.
        cmake --preset release -DLACUNA_TESTS=OFF >&2
    fi
    cmake --build --preset release --target lacuna >&2
}

"$root/deploy/install-deps.sh"
build
model=$("$root/deploy/fetch-model.sh" smollm2-135m)

program=$root/build/release/lacuna

if [[ $serve == no ]]; then
    echo "Ready: $program serve -m $model"
    exit 0
fi
exec "$program" serve -m "$model" "${log_format[@]}" "${serve_options[@]}"
