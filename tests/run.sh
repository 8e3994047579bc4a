#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The test command: installs what is missing, builds, runs every test, closes with ctest's summary.
#   tests/run.sh [CTEST OPTION...]    e.g. tests/run.sh -R api
#
# Three builds are tested in one ctest run: release (all tests; gcc, warnings are errors), asan (all
# tests again under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer; the kernels only in
# unit tests) and tsan (the races).  That clang compiles everything without a warning is a test too, and
# that the kernels for arm64, in an emulator, give the bits of the reference.
# With LACUNA_GOLDEN=FOLDER, what only the golden data can show is tested as well.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

say() { echo "== $*"; }

# Remade when the list of packages changes; the stamp is written last.
make_python_environment() {
    local wanted=tests/api/requirements.txt stamp=build/venv/requirements.txt
    cmp -s "$wanted" "$stamp" && build/venv/bin/python -c '' 2>/dev/null && return
    say "Python environment of the tests: build/venv"
    rm -rf build/venv
    python3 -m venv build/venv
    build/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
        --only-binary=:all: -r "$wanted"
    cp "$wanted" "$stamp"
}

make_node_environment() {
    local wanted=tests/api/package-lock.json stamp=tests/api/node_modules/.lacuna-lock
    cmp -s "$wanted" "$stamp" && return
    say "Node packages of the tests: tests/api/node_modules"
    (cd tests/api && npm ci --no-audit --no-fund --loglevel=error)
    cp "$wanted" "$stamp"
}

# build PRESET CMAKE_OPTION...
build() {
    local preset=$1
    shift
    say "building $preset"
    cmake --preset "$preset" -DLACUNA_TESTS=ON -DLACUNA_WERROR=ON "$@" >build/"$preset".configure.log 2>&1 ||
        { cat build/"$preset".configure.log; return 1; }
    cmake --build --preset "$preset"
}

# One ctest over all builds, so that one summary closes the run.
write_outer_ctest() {
    local folder=build/all preset
    mkdir -p "$folder"
    {
        echo "# Written by tests/run.sh."
        echo "add_test(clang:compiles_without_warnings \"$root/tests/compile_with_clang.sh\")"
        echo "add_test(arm64:kernels \"$root/tests/arm64/arm64.sh\")"
        echo "set_tests_properties(clang:compiles_without_warnings arm64:kernels PROPERTIES TIMEOUT 1200)"
        for preset in release asan tsan; do
            echo "subdirs(\"$root/build/$preset\")"
        done
    } >"$folder/CTestTestfile.cmake"
}

deploy/install-deps.sh --test
mkdir -p build
make_python_environment
make_node_environment
say "models"
LACUNA_TEST_MODEL=$(deploy/fetch-model.sh smollm2-135m)
LACUNA_TEST_GEMMA=$(deploy/fetch-model.sh gemma3-270m)
export LACUNA_TEST_MODEL LACUNA_TEST_GEMMA
if [[ -n ${LACUNA_GOLDEN-} ]]; then
    LACUNA_GOLDEN=$(cd "$LACUNA_GOLDEN" && pwd)
    export LACUNA_GOLDEN
else
    say "LACUNA_GOLDEN is not set: tests that need the golden folder are skipped"
fi
build release
build asan
build tsan
write_outer_ctest
say "testing"
exec ctest --test-dir build/all --output-on-failure --no-tests=error \
    --parallel "$(nproc)" "$@"
