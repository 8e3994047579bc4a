/* SPDX-License-Identifier: Apache-2.0
 *
 * hash.h - hashes of bytes: XXH3, whose one owner is hash.c.  Fast, not cryptographic: where input
 * comes from strangers, the seed must be a secret.
 */
#ifndef LACUNA_ENGINE_HASH_H
#define LACUNA_ENGINE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash_bytes(const void *bytes, size_t n, uint64_t seed);
void hash_bytes_128(const void *bytes, size_t n, uint64_t seed, uint64_t out[2]);

#endif
