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
 *
 * The cache moves bytes; what lies in them is the business of kernels.h (struct kern_attend).
 * Scheduler thread only, except kv_page, which workers call while no table changes.
 */
#ifndef LACUNA_KVCACHE_H
#define LACUNA_KVCACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KV_MAX_GROUPS = 4, KV_PAGE_TOKENS = 64 };

struct kv;
struct kv_seq;

struct kv_group_options {
    uint32_t n_layers;
    uint32_t window;    /* positions a layer looks back, itself included; 0 = all */
    size_t layer_bytes; /* bytes of one page in one layer, a multiple of 64 */
    uint32_t n_pages;   /* pool size */
};

struct kv_options {
    uint32_t n_groups;
    struct kv_group_options group[KV_MAX_GROUPS];
    uint64_t shuffle_seed; /* 0: lowest page first; else pages are handed out in random order,
                            * which tests use to show that placement never changes a result */
};

struct kv_group_stats {
    uint32_t n_pages;
    uint32_t n_free;     /* held by no sequence */
    uint32_t n_promised; /* of these, set aside by kv_seq_promise */
};

/* Takes all memory (huge pages where possible) and none afterwards but the block tables of new
 * sequences.  Returns 0, -EINVAL for a zero or unaligned field, -ENOMEM.  On failure *out is NULL.
 */
int kv_open(struct kv **out, const struct kv_options *opt);
void kv_close(struct kv *kv); /* NULL is fine; all sequences must be closed */

/* An empty sequence that will hold at most max_tokens.  0 or -ENOMEM. */
int kv_seq_open(struct kv *kv, uint32_t max_tokens, struct kv_seq **out);
void kv_seq_close(struct kv_seq *seq); /* gives every page back; NULL is fine */

/* Sets pages aside, without choosing them yet: afterwards the sequence can grow to n_tokens, by up
 * to n_step positions at a time, and kv_seq_reserve cannot fail.  A windowed group needs only what
 * its window and a step hold.  0, -ENOSPC if the pools are short (then nothing changed), -EINVAL
 * beyond max_tokens. */
int kv_seq_promise(struct kv_seq *seq, uint32_t n_tokens, uint32_t n_step);

/* Makes sure that positions [n_committed, n_tokens) have pages in every group.
 * 0, -ENOSPC if the pools are short of pages that nobody was promised (then nothing was taken),
 * -EINVAL beyond max_tokens. */
int kv_seq_reserve(struct kv_seq *seq, uint32_t n_tokens);

/* Positions below n_tokens are written in all layers.  Pages that no later position can see go back
 * to their pool.  n_tokens never falls and never exceeds what was reserved. */
void kv_seq_commit(struct kv_seq *seq, uint32_t n_tokens);

uint32_t kv_seq_n_committed(const struct kv_seq *seq);
/* Positions below this lie in sealed pages. */
uint32_t kv_seq_n_sealed(const struct kv_seq *seq);

/* The memory of page number page_no (position / KV_PAGE_TOKENS) in a layer of a group;
 * NULL if it slid out of the window or was never reserved. */
void *kv_page(const struct kv_seq *seq, uint32_t group, uint32_t layer_in_group, uint32_t page_no);

/* Pages a group needs at most for one sequence of n_tokens that grows by up to n_step at a time. */
uint32_t kv_pages_needed(uint32_t window, uint32_t n_tokens, uint32_t n_step);

/* The first position that the query at `pos` sees through a window (0: all), its own included. */
uint32_t kv_first_visible(uint32_t window, uint32_t pos);

void kv_group_stats(const struct kv *kv, uint32_t group, struct kv_group_stats *out);

/* Checks every invariant; returns NULL or the sentence that does not hold. */
const char *kv_check(const struct kv *kv);

#endif
