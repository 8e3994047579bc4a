/* SPDX-License-Identifier: Apache-2.0
 *
 * stops.c - stop strings as an Aho-Corasick automaton.  Pure; read-only once built.
 *
 * A state is a node: the longest suffix of the text that is a prefix of some stop string.  Its
 * depth is therefore how much text must be held back, and its match the longest stop string that
 * ends here.  Children are lists, not tables of 256: a node has at most as many children as there
 * are stop strings, and a request's automaton stays a few kilobytes.
 */
#include "scheduler/internal.h"

static uint32_t find_child(const struct stop_node *nodes, uint32_t parent, uint8_t byte)
{
    uint32_t i = nodes[parent].child;
    while (i != 0 && nodes[i].byte != byte)
        i = nodes[i].sibling;
    return i;
}

static uint32_t add_child(struct stops *stops, uint32_t parent, uint8_t byte)
{
    uint32_t i = stops->n_nodes++;
    struct stop_node *nodes = stops->nodes;
    nodes[i] = (struct stop_node){
        .sibling = nodes[parent].child,
        .depth = nodes[parent].depth + 1,
        .match = -1,
        .byte = byte,
    };
    nodes[parent].child = i;
    return i;
}

static void add_text(struct stops *stops, const struct sched_text *text, int32_t index)
{
    uint32_t at = 0;
    for (size_t i = 0; i < text->len; i++) {
        uint8_t byte = (uint8_t)text->data[i];
        uint32_t child = find_child(stops->nodes, at, byte);
        at = child != 0 ? child : add_child(stops, at, byte);
    }
    if (stops->nodes[at].match < 0) { /* given twice: the first one is reported */
        stops->nodes[at].match = index;
        stops->nodes[at].match_len = stops->nodes[at].depth;
    }
    if (text->len > stops->max_len)
        stops->max_len = text->len;
}

static void link_node(struct stops *stops, uint32_t parent, uint32_t at)
{
    struct stop_node *node = &stops->nodes[at];
    node->fail = parent == 0 ? 0 : stops_next(stops, stops->nodes[parent].fail, node->byte);
    if (node->match < 0) {
        node->match = stops->nodes[node->fail].match;
        node->match_len = stops->nodes[node->fail].match_len;
    }
}

/* Breadth first, so that the shorter node a link points to is complete already. */
static void link_nodes(struct stops *stops)
{
    struct stop_node *nodes = stops->nodes;
    uint32_t last = 0;
    for (uint32_t at = 0;; at = nodes[at].next) {
        for (uint32_t c = nodes[at].child; c != 0; c = nodes[c].sibling) {
            link_node(stops, at, c);
            nodes[last].next = c;
            last = c;
        }
        if (at == last)
            return;
    }
}

void stops_build(struct stops *stops, struct stop_node *nodes, const struct sched_text *texts,
                 uint32_t n_texts)
{
    *stops = (struct stops){ .nodes = nodes, .n_nodes = 1 };
    nodes[0] = (struct stop_node){ .match = -1 };
    for (uint32_t i = 0; i < n_texts; i++)
        add_text(stops, &texts[i], (int32_t)i);
    link_nodes(stops);
}

uint32_t stops_next(const struct stops *stops, uint32_t state, uint8_t byte)
{
    for (;;) {
        uint32_t child = find_child(stops->nodes, state, byte);
        if (child != 0 || state == 0)
            return child;
        state = stops->nodes[state].fail;
    }
}
