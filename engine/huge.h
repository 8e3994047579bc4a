/* SPDX-License-Identifier: Apache-2.0
 *
 * huge.h - large regions of anonymous memory that ask for 2 MiB pages: fewer TLB misses, and never
 * dropped under pressure as a file's pages are.
 */
#ifndef LACUNA_ENGINE_HUGE_H
#define LACUNA_ENGINE_HUGE_H

#include <stddef.h>

/* Zeroed memory from a 2 MiB boundary on; pages are taken when they are first touched.  NULL: none. */
void *huge_alloc(size_t bytes);
void huge_free(void *mem, size_t bytes); /* NULL is fine */
/* Gives the whole pages of [mem, mem + bytes) back; what is read there afterwards is zeros, or the
 * file's bytes if it is mapped. */
void huge_drop(void *mem, size_t bytes);

#endif
