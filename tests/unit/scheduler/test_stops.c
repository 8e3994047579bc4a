/* SPDX-License-Identifier: Apache-2.0
 *
 * test_stops.c - the automaton of stop strings against a search that looks at every place.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/internal.h"

enum { MAX_TEXTS = 6 };

struct fixture {
    struct stop_node nodes[256];
    struct stops stops;
    struct sched_text texts[MAX_TEXTS];
    uint32_t n;
};

static void build(struct fixture *f, const char *const *texts, uint32_t n)
{
    memset(f, 0, sizeof(*f));
    f->n = n;
    for (uint32_t i = 0; i < n; i++)
        f->texts[i] = (struct sched_text){ texts[i], strlen(texts[i]) };
    stops_build(&f->stops, f->nodes, f->texts, n);
}

/* The longest text that ends before byte `end`. */
static int32_t naive_match(const struct fixture *f, const char *hay, size_t end)
{
    int32_t best = -1;
    for (uint32_t i = 0; i < f->n; i++) {
        size_t len = f->texts[i].len;
        if (len > end || memcmp(hay + end - len, f->texts[i].data, len) != 0)
            continue;
        if (best < 0 || len > f->texts[best].len)
            best = (int32_t)i;
    }
    return best;
}

/* The longest end of hay[0..end) that begins some text. */
static size_t naive_depth(const struct fixture *f, const char *hay, size_t end)
{
    for (size_t n = end; n > 0; n--)
        for (uint32_t i = 0; i < f->n; i++)
            if (n <= f->texts[i].len && memcmp(hay + end - n, f->texts[i].data, n) == 0)
                return n;
    return 0;
}

static void check_hay(const struct fixture *f, const char *hay, size_t len)
{
    uint32_t state = 0;
    for (size_t i = 0; i < len; i++) {
        state = stops_next(&f->stops, state, (uint8_t)hay[i]);
        const struct stop_node *node = &f->stops.nodes[state];
        int32_t match = naive_match(f, hay, i + 1);
        cr_assert_eq(node->match, match, "at %zu of \"%s\": %d, not %d", i, hay, node->match,
                     match);
        cr_assert_eq(node->depth, naive_depth(f, hay, i + 1), "depth at %zu of \"%s\"", i, hay);
        if (match >= 0)
            cr_assert_eq(node->match_len, f->texts[match].len);
    }
}

Test(stops, overlapping_texts_are_found_at_their_ends)
{
    static const char *const texts[] = { "she", "he", "hers", "his" };
    struct fixture f;
    build(&f, texts, 4);
    check_hay(&f, "ushers", 6);
    check_hay(&f, "hishershe", 9);
    cr_assert_eq(f.stops.max_len, 4);
}

Test(stops, the_longest_of_those_that_end_together_wins)
{
    static const char *const texts[] = { "c", "abc", "bc" };
    struct fixture f;
    build(&f, texts, 3);
    uint32_t state = 0;
    for (const char *p = "abc"; *p; p++)
        state = stops_next(&f.stops, state, (uint8_t)*p);
    cr_assert_eq(f.stops.nodes[state].match, 1);
}

Test(stops, a_text_given_twice_is_reported_as_the_first)
{
    static const char *const texts[] = { "ab", "ab" };
    struct fixture f;
    build(&f, texts, 2);
    check_hay(&f, "xabab", 0);
    uint32_t state = stops_next(&f.stops, stops_next(&f.stops, 0, 'a'), 'b');
    cr_assert_eq(f.stops.nodes[state].match, 0);
}

Test(stops, bytes_above_127_are_bytes_like_others)
{
    static const char *const texts[] = { "\xe2\x82\xac", "\xff" };
    struct fixture f;
    build(&f, texts, 2);
    check_hay(&f, "a\xe2\x82\xe2\x82\xac\xff", 7);
}

Test(stops, random_texts_agree_with_the_naive_search)
{
    srand(5);
    for (int round = 0; round < 3000; round++) {
        char texts[MAX_TEXTS][9];
        const char *list[MAX_TEXTS];
        uint32_t n = 1 + (uint32_t)rand() % MAX_TEXTS;
        for (uint32_t i = 0; i < n; i++) {
            size_t len = 1 + (size_t)rand() % 8;
            for (size_t k = 0; k < len; k++)
                texts[i][k] = (char)('a' + rand() % 2);
            texts[i][len] = 0;
            list[i] = texts[i];
        }
        struct fixture f;
        build(&f, list, n);
        /* Equal texts are reported as the first of them, which is what naive_match prefers too. */
        char hay[65];
        for (size_t k = 0; k < 64; k++)
            hay[k] = (char)('a' + rand() % (round % 2 ? 2 : 3));
        hay[64] = 0;
        check_hay(&f, hay, 64);
    }
}
