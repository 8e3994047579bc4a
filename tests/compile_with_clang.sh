#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Compiles everything with clang, warnings being errors: a second opinion on every line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cmake -S . -B build/clang -G Ninja -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=Debug \
    -DLACUNA_TESTS=ON -DLACUNA_WERROR=ON
cmake --build build/clang -- -k 0
