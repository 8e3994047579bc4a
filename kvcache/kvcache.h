/* SPDX-License-Identifier: Apache-2.0
 *
 * kvcache.h - keys and values of all sequences, in fixed-size pages.
 *
 * Ideas:
 *  1. Layers that forget alike form a *group*: all layers with full attention are one, layers with
 *     the same sliding window another.  A group has its own pool of pages and every sequence has a
 *     block table per group, so that pages that slid out of the window go back to the pool.
 *  2. A page holds page_tokens consecutive positions for all layers of its group.  It is *open*
 *     while positions in it are missing and *sealed* once the last of them is committed: that
 *     depends on the position alone, never on how the prompt was cut into chunks.
 *  3. A sealed page is never written again, so any number of sequences may hold it.  It is known by
 *     the tokens in it and a hash of all before them (vLLM's hash chain), and found by that for as
 *     long as nobody else needed its memory: pages that no table holds wait, least recently used
 *     first, to be taken.  Open pages are shared only by sequences forked from each other, and
 *     copied by whoever writes first; a sequence that ends leaves its open page to be copied from,
 *     unless open pages have another form (see open_parts).
 *
 * The cache moves bytes; what lies in them is the business of kernels.h (struct kern_attend).
 * A thread of the cache's own makes memory present before it is needed (kv_set_idle); nobody else
 * meets it.
 * Scheduler thread only, except kv_page and kv_open_part, which workers call while no table changes.
 */
#ifndef LACUNA_KVCACHE_H
#define LACUNA_KVCACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KV_MAX_GROUPS = 4, KV_PAGE_TOKENS = 64, KV_MAX_OPEN_PARTS = 4 };

struct kv;
struct kv_seq;

struct kv_group_options {
    uint32_t n_layers;
    uint32_t window;     /* positions a layer looks back, itself included; 0 = all */
    size_t layer_bytes;  /* bytes of one page in one layer, a multiple of 64 */
    uint32_t n_pages;    /* pool size */
    uint32_t open_parts; /* 0 or 1: a page is sealed where it was written.  More, at most
                          * KV_MAX_OPEN_PARTS: it is written in another, wider form, into that many
                          * pages of the pool, and whoever wrote it makes the sealed page of them
                          * (kv_open_part, kv_page) before it is committed.  Prefixes are then found
                          * by whole pages only: a sealed page lacks the values it was made of */
};

struct kv_options {
    uint32_t n_groups;
    struct kv_group_options group[KV_MAX_GROUPS];
    uint64_t shuffle_seed; /* 0: lowest page first; else pages are handed out in random order,
                            * which tests use to show that placement never changes a result */
    /* A good 128-bit hash of bytes, and its seed: a secret, where prompts come from strangers. */
    void (*hash)(const void *bytes, size_t n, uint64_t seed, uint64_t out[2]);
    uint64_t hash_seed;
};

struct kv_group_stats {
    uint32_t n_pages;
    uint32_t n_free;     /* held by no sequence */
    uint32_t n_cached;   /* of these, what still holds a prefix that may be found */
    uint32_t n_promised; /* of the free ones, set aside by kv_seq_promise */
};

/* Takes all memory (huge pages where possible) and none afterwards but the block tables of new
 * sequences.  Returns 0, -EINVAL for a field that is zero, unaligned or too large, -ENOMEM.  On failure *out is NULL.
 */
int kv_open(struct kv **out, const struct kv_options *opt);
void kv_close(struct kv *kv); /* NULL is fine; all sequences must be closed */

/* Whether nothing will be written for a while: then a thread makes the memory present that will be taken
 * next, so that later writes meet no page faults.  At first the cache is not idle. */
void kv_set_idle(struct kv *kv, bool is_idle);

struct kv_seq_options {
    uint32_t max_tokens;
    const void *salt; /* only sequences of the same salt share pages: what else than the tokens
                       * decides about keys and values, and whoever must not see whose prompts */
    size_t salt_bytes;
    bool is_private; /* finds no prefixes and leaves none */
    /* Keys and values of positions from own_from on are made in a way of its own, which these bytes name: pages
     * that hold such are shared only by sequences that agree in both.  None: there is no such way. */
    const void *own_way;
    size_t own_way_bytes;
    uint32_t own_from;
    uint32_t own_step; /* what is found behind own_from ends at a multiple of it; 0: anywhere */
};

/* An empty sequence.  0 or -ENOMEM. */
int kv_seq_open(struct kv *kv, const struct kv_seq_options *opt, struct kv_seq **out);
/* Gives every page and promise back; what is in them may still be found.  NULL is fine. */
void kv_seq_close(struct kv_seq *seq);
/* The same, and the sequence is empty again. */
void kv_seq_reset(struct kv_seq *seq);

/* Gives an empty sequence the longest prefix of tokens[0 .. n_tokens) that the cache still holds in
 * all groups, as if it had been computed and committed.  Returns how many positions that is, 0 if
 * none; -ENOSPC if the pages are promised to others (then nothing changed). */
int64_t kv_seq_match(struct kv_seq *seq, const int32_t *tokens, uint32_t n_tokens);

/* A second sequence that is as far as this one and shares all its pages, the open one too.
 * 0 or -ENOMEM. */
int kv_seq_fork(const struct kv_seq *seq, struct kv_seq **out);

/* Sets pages aside, without choosing them yet: afterwards the sequence can grow to n_tokens, by up
 * to n_step positions at a time, and kv_seq_reserve cannot fail but for want of a copy of the open
 * page, if a fork holds that, too.  A windowed group needs only what its window and a step hold.  0, -ENOSPC if the pools are short (then nothing changed), -EINVAL
 * beyond max_tokens. */
int kv_seq_promise(struct kv_seq *seq, uint32_t n_tokens, uint32_t n_step);

/* Pages that nobody was promised, in the group that has the fewest. */
uint32_t kv_n_unpromised(const struct kv *kv);

/* Makes sure that positions [n_committed, n_tokens) have pages in every group, which only this
 * sequence holds: an open page that others hold too is copied.
 * 0, -ENOSPC if the pools are short of pages that nobody was promised (then nothing was taken),
 * -EINVAL beyond max_tokens. */
int kv_seq_reserve(struct kv_seq *seq, uint32_t n_tokens);

/* n_new positions more are written in all layers: those of these tokens.  Pages that they complete
 * are sealed and can be found; if the cache already has the same page, that one takes its place.
 * Pages that no later position can see go back to their pool.  Never more than was reserved.  What
 * was written beyond may be written again; but where pages are open in parts, not what lies in a page
 * behind that of n_committed: a page that was begun has taken the place of the one before. */
void kv_seq_commit(struct kv_seq *seq, const int32_t *tokens, uint32_t n_new);

uint32_t kv_seq_n_committed(const struct kv_seq *seq);
/* Positions below this lie in sealed pages. */
uint32_t kv_seq_n_sealed(const struct kv_seq *seq);

/* The memory of page number page_no (position / KV_PAGE_TOKENS) in a layer of a group;
 * NULL if it slid out of the window or was never reserved.  Where pages are open in parts, there is
 * one only for pages that are sealed, or that all reserved positions together complete. */
void *kv_page(const struct kv_seq *seq, uint32_t group, uint32_t layer_in_group, uint32_t page_no);

/* The same of a part of the page that is open, in a group that has such parts (see open_parts); NULL
 * if none was reserved. */
void *kv_open_part(const struct kv_seq *seq, uint32_t group, uint32_t layer_in_group,
                   uint32_t part);

/* Do both hold the same pages of a group, [first, first + n), all of them? */
bool kv_seq_shares(const struct kv_seq *a, const struct kv_seq *b, uint32_t group, uint32_t first,
                   uint32_t n);

/* Pages a group needs at most for one sequence of n_tokens that grows by up to n_step at a time; of
 * the group's options, window and open_parts are read. */
uint32_t kv_pages_needed(const struct kv_group_options *group, uint32_t n_tokens, uint32_t n_step);

/* The first position that the query at `pos` sees through a window (0: all), its own included. */
uint32_t kv_first_visible(uint32_t window, uint32_t pos);

void kv_group_stats(const struct kv *kv, uint32_t group, struct kv_group_stats *out);

/* Checks every invariant; returns NULL or the sentence that does not hold. */
const char *kv_check(const struct kv *kv);

#endif
