/* SPDX-License-Identifier: Apache-2.0
 *
 * hash.c - the one place with xxHash.
 */
#include "engine/hash.h"

#include <xxhash.h>

uint64_t hash_bytes(const void *bytes, size_t n, uint64_t seed)
{
    return XXH3_64bits_withSeed(bytes, n, seed);
}

void hash_bytes_128(const void *bytes, size_t n, uint64_t seed, uint64_t out[2])
{
    XXH128_hash_t h = XXH3_128bits_withSeed(bytes, n, seed);
    out[0] = h.low64;
    out[1] = h.high64;
}
