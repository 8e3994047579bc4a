/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_arena.c - memory that is only ever freed as a whole: of a compiled template, of a run.
 *
 *   chunk | object | gap | object | gap | ... free |      the gaps only under AddressSanitizer, which
 *                                                         then sees a step over an object's end
 */
#include <stdlib.h>

#include "engine/text/jinja_value.h"

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_ASAN 1
#endif
#endif
#ifdef ARENA_ASAN
#include <sanitizer/asan_interface.h>
enum { GAP = 16 };
static void forbid(const void *p, size_t n)
{
    __asan_poison_memory_region(p, n);
}
static void permit(const void *p, size_t n)
{
    __asan_unpoison_memory_region(p, n);
}
#else
enum { GAP = 0 };
static void forbid(const void *p, size_t n)
{
    (void)p;
    (void)n;
}
static void permit(const void *p, size_t n)
{
    (void)p;
    (void)n;
}
#endif

enum { CHUNK_BYTES = 32 * 1024, ALIGNMENT = 16 };

struct arena_chunk {
    struct arena_chunk *older;
    size_t bytes;
    _Alignas(ALIGNMENT) char data[];
};

static bool add_chunk(struct jinja_arena *a, size_t least)
{
    size_t bytes = least > CHUNK_BYTES ? least : CHUNK_BYTES;
    struct arena_chunk *c = calloc(1, sizeof(*c) + bytes);
    if (!c)
        return false;
    c->older = a->chunks;
    c->bytes = bytes;
    a->chunks = c;
    a->at = c->data;
    a->left = bytes;
    forbid(c->data, bytes);
    return true;
}

void *jinja_arena_alloc(struct jinja_arena *a, size_t bytes)
{
    if (bytes > a->limit - a->used)
        return NULL;
    size_t taken = (bytes + GAP + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    if (taken == 0)
        taken = ALIGNMENT;
    if (taken > a->left && !add_chunk(a, taken))
        return NULL;
    void *p = a->at;
    a->at += taken;
    a->left -= taken;
    a->used = taken > a->limit - a->used ? a->limit : a->used + taken;
    permit(p, bytes);
    return p;
}

void jinja_arena_fini(struct jinja_arena *a)
{
    while (a->chunks) {
        struct arena_chunk *c = a->chunks;
        a->chunks = c->older;
        permit(c->data, c->bytes);
        free(c);
    }
    a->at = NULL;
    a->left = a->used = 0;
}
