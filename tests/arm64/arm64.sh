#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds kernels/ and its tests for arm64 and runs them in an emulator: all variants for that processor
# give the bits of the reference.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cmake -S . -B build/arm64 -G Ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_BUILD_TYPE=Release -DLACUNA_WERROR=ON \
    -DLACUNA_KERNELS_ONLY=ON
cmake --build build/arm64
for test in build/arm64/tests/arm64/test_*; do
    [[ -x $test && ! -d $test ]] || continue
    echo "== ${test##*/}"
    qemu-aarch64 -cpu max "$test" neoni8mm neondot
done
