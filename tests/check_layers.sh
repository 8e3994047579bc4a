#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Holds the layering:  server -> scheduler -> engine -> { kvcache, kernels }.
#   tests/check_layers.sh [ROOT]       prints every violation; exit 1 if there is one
#   tests/check_layers.sh --self-test  plants each kind of violation and expects it to be found
#
# A file may include the headers of its own folder and the *public* headers named in `may_include`;
# includes are written from the root; each third-party library has one owner (`owners`).
set -euo pipefail

# folder: public headers of other folders that it may include
declare -A may_include=(
    [kernels]=""
    [kvcache]=""
    [engine]="kvcache/kvcache.h kernels/kernels.h"
    [scheduler]="engine/engine.h"
    [server]="scheduler/scheduler.h engine/engine.h"
)

# header (a prefix of its name) and the path under which alone it may be included
owners=(
    "microhttpd.h server/http/"
    "gnutls server/http/tls.c"
    "jansson server/api/"
    "liburing engine/storage/"
    "pcre2 engine/text/"
    "xxhash engine/hash.c"
    "jemalloc server/metrics.c"
    "dnnl kernels/gemm_onednn.c"
    "oneapi/dnnl kernels/gemm_onednn.c"
    "systemd/ server/commands/"
)

complain() { echo "$1"; n_found=$((n_found + 1)); }

# An include of ours: within the folder, or a public header of a lower one.
check_own_include() {
    local file=$1 header=$2 folder=${1%%/*}
    if [[ $header != */* || $header == ../* || $header == */../* ]]; then
        complain "$file: \"$header\" is not written from the root"
    elif [[ ${header%%/*} == "$folder" ]]; then
        return
    elif [[ " ${may_include[$folder]} " == *" $header "* ]]; then
        return
    elif [[ -n ${may_include[${header%%/*}]+x} ]]; then
        complain "$file: $folder/ may not include \"$header\""
    else
        complain "$file: \"$header\" is of no folder known here"
    fi
}

check_library_include() {
    local file=$1 header=$2 rule
    for rule in "${owners[@]}"; do
        [[ $header == "${rule% *}"* ]] || continue
        [[ $file == "${rule#* }"* ]] || complain "$file: <$header> belongs to ${rule#* }"
    done
}

# A library may also be owned twice by linking it twice.
check_links() {
    local library n folders=("${!may_include[@]}")
    for library in MICROHTTPD GNUTLS JANSSON URING PCRE2 XXHASH JEMALLOC SYSTEMD; do
        n=$(cat "${folders[@]/%//CMakeLists.txt}" 2>/dev/null | grep -c "PkgConfig::$library\b" || true)
        [[ $n -le 1 ]] || complain "PkgConfig::$library is linked in $n places"
    done
}

check_tree() {
    cd "$1"
    n_found=0
    local folders=() folder file kind header
    for folder in "${!may_include[@]}"; do
        [[ -d $folder ]] && folders+=("$folder")
    done
    while read -r file kind header; do
        if [[ $kind == '"' ]]; then
            check_own_include "$file" "$header"
        fi
        check_library_include "$file" "$header"
    done < <(find "${folders[@]}" -name '*.[ch]' -print0 | sort -z | xargs -0r \
        sed -nE 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*(["<])([^">]+)[">].*/\1 \2/p;T;F' |
        paste -d ' ' - - | awk '{ print $3, $1, $2 }')
    check_links
    [[ $n_found -eq 0 ]]
}

# plant FILE LINE TEXT: a tree with one file of one line must be refused with TEXT.
plant() {
    local tree output
    tree=$(mktemp -d)
    mkdir -p "$tree/$(dirname "$1")" "$tree/kernels"
    echo "$2" >"$tree/$1"
    if output=$(check_tree "$tree"); then
        echo "self-test: not found in $1: $2"
        n_missed=$((n_missed + 1))
    elif [[ $output != *"$3"* ]]; then
        echo "self-test: $1: said '$output', not '$3'"
        n_missed=$((n_missed + 1))
    fi
    rm -rf "$tree"
}

accept() {
    local tree output
    tree=$(mktemp -d)
    mkdir -p "$tree/$(dirname "$1")"
    echo "$2" >"$tree/$1"
    if ! output=$(check_tree "$tree"); then
        echo "self-test: refused in $1: $output"
        n_missed=$((n_missed + 1))
    fi
    rm -rf "$tree"
}

self_test() {
    n_missed=0
    plant kernels/a.c '#include "kvcache/kvcache.h"' 'kernels/ may not include'
    plant kvcache/a.c '#include "kernels/kernels.h"' 'kvcache/ may not include'
    plant kvcache/a.c '#  include "engine/engine.h" /* up */' 'kvcache/ may not include'
    plant engine/forward/a.c '#include "scheduler/scheduler.h"' 'engine/ may not include'
    plant engine/a.c '#include "kernels/internal.h"' 'engine/ may not include'
    plant scheduler/a.c '#include "engine/model/gguf.h"' 'scheduler/ may not include'
    plant scheduler/a.c '#include "kvcache/kvcache.h"' 'scheduler/ may not include'
    plant scheduler/a.h '#include "server/log.h"' 'scheduler/ may not include'
    plant server/api/a.c '#include "scheduler/internal.h"' 'server/ may not include'
    plant engine/a.c '#include "internal.h"' 'not written from the root'
    plant engine/a.c '#include "../kvcache/pages.h"' 'not written from the root'
    plant engine/a.c '#include "engine/../kvcache/pages.h"' 'not written from the root'
    plant engine/a.c '#include "tests/support/fake_engine.h"' 'of no folder known'
    plant server/api/a.c '#include <microhttpd.h>' 'belongs to server/http/'
    plant server/http/a.c '#include <jansson.h>' 'belongs to server/api/'
    plant server/http/a.c '#include <gnutls/gnutls.h>' 'belongs to server/http/tls.c'
    plant engine/model/a.c '#include <liburing.h>' 'belongs to engine/storage/'
    plant engine/model/a.c '#include <pcre2.h>' 'belongs to engine/text/'
    plant server/log.c '#include <jemalloc/jemalloc.h>' 'belongs to server/metrics.c'
    plant kernels/CMakeLists.txt "PkgConfig::URING
PkgConfig::URING" 'linked in 2 places'
    accept engine/forward/a.c '#include "kernels/kernels.h"'
    accept engine/forward/a.c '#include "engine/model/gguf.h"'
    accept server/http/a.c '#include <microhttpd.h>'
    accept server/commands/a.c '#include "engine/engine.h"'
    [[ $n_missed -eq 0 ]] && echo "check_layers: every planted violation was found"
}

if [[ ${1-} == --self-test ]]; then
    self_test
else
    check_tree "${1:-$(dirname "${BASH_SOURCE[0]}")/..}" && echo "check_layers: clean"
fi
