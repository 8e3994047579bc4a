/* SPDX-License-Identifier: Apache-2.0
 *
 * forward.h - one step of the model: rows in, logits out.
 *
 *   step.c       rows -> runs, embeddings, angles; the layers; the head
 *   layer.c      one block, top to bottom
 *   paging.c     where the keys and values of a step's rows go
 *   page_attention.c   of rows that choose pages
 *   attention.c  the work list over (sequence, KV head, items of 1,024 tokens) and its execution
 *   ffn.c        gated products, and the dense feed-forward
 *   plan.c       whether neurons that are zero are skipped, where both ways are open
 *   moe.c        router, experts, shared expert
 *   scratch.c    all buffers, sized at open
 *   profile.c    the time that each part takes
 *
 * Each phase is a loop over items that the workers share; between phases there is a barrier.
 */
#ifndef LACUNA_ENGINE_FORWARD_H
#define LACUNA_ENGINE_FORWARD_H

#include "engine/forward/plan.h"
#include "engine/forward/profile.h"
#include "engine/share.h"
#include "engine/model/weights.h"
#include "engine/sparsity/page_choice.h"
#include "engine/sparsity/sparsity.h"
#include "engine/storage/experts.h"
#include "engine/workers.h"
#include "kvcache/kvcache.h"

/* Adjacent rows of one sequence. */
struct run {
    const struct kv_seq *seq;
    uint32_t row0, n_rows; /* of the step */
    uint32_t pos0;         /* position of row0 */
    uint32_t spare_page;   /* see paging.c: first of the spare pages that it writes on */
    uint32_t first_sparse; /* the first position whose operating point counts */
    /* Of the sequence: pages that the tokens of its open page have chosen, at most list_cap; NULL: it chooses none. */
    uint16_t *lists;
    uint32_t list_cap;
};

/* Adjacent rows of one run whose positions lie in one group of SEGMENT_ROWS. */
enum { SEGMENT_ROWS = 16 };
struct segment {
    uint32_t row0, n_rows;
};

/* A page that a run completes. */
struct sealing {
    uint32_t run, page_no;
};

/* A row's place in the step. */
struct row_place {
    uint32_t pos;
    uint32_t run;
};

/* A block of queries of one KV head, against the attention items [item0, item1).  Its queries are those
 * of the query heads of a row, then those of the next; its rows are those of one run, or of several that
 * share the pages of the item.  Unless it is a part, all its items are folded straight into the output. */
struct attention_work {
    uint32_t first_row; /* in attention_plan.rows */
    uint32_t kv_head;
    uint32_t first_query, n_queries; /* first_query: of those of first_row */
    uint32_t item0, item1;
    bool is_part;      /* one item, whose result is stored and folded afterwards */
    bool is_open_page; /* a part: not an item, but the row's open page, after all items */
};

/* The work list of one KV group: the same for all its layers. */
struct attention_plan {
    struct attention_work *work;
    uint32_t n_work;
    uint32_t *rows; /* [max_rows + max_partials] each row of the step, then those of the parts */
    uint32_t n_rows;
    /* [max_rows] of a row that is computed in parts: */
    uint32_t *row_partial; /* first partial of its first query head; UINT32_MAX: no parts */
    uint32_t *row_item0;   /* its first item */
    uint32_t *row_items;   /* how many items */
    uint32_t *split_run;   /* [max_rows] runs that are computed in parts */
    uint32_t *run_item;    /* [max_rows] by run: items below this one have their work */
    uint32_t n_split;
    bool splits_chunks; /* not only runs that decode */
};

/* Rows of activations in both forms. */
struct activations {
    float *x;            /* [rows][n] */
    struct kern_act act; /* of the same rows */
    uint32_t n;
};

/* A token's experts, best first. */
struct routing {
    uint32_t *expert; /* [rows][n_used] */
    float *weight;    /* [rows][n_used] */
    uint32_t *slot;   /* [rows][n_used] the row in the gathered buffers */
    uint32_t *offset; /* [n_experts + 1] first gathered row of each expert */
    uint32_t *source; /* [rows * n_used] the token's row of a gathered row */
    uint32_t *active; /* [n_experts] experts with at least one row */
    uint32_t n_active;
    uint32_t *foreseen;   /* [rows][n_used] of a layer to come */
    uint32_t *gave_way;   /* [rows][n_used] the first n_gave_way[row]; see expert_choice.h */
    uint32_t *n_gave_way; /* [rows] of those that may have such */
};

/* Neurons of feed-forwards in which some need not be computed; a cache line for each worker. */
struct neuron_count {
    _Alignas(64) uint64_t n_all;
    uint64_t n[SPARSITY_SITES]; /* that are not zero at the site */
};

struct forward_options {
    uint32_t max_rows, max_logit_rows;
    uint32_t n_ctx; /* longest sequence */
    uint32_t n_threads;
    /* Neurons that are zero are not multiplied, where layouts are for it (repack.h); where a matrix lies in two,
     * if that is faster (plan.h). */
    bool skips_zeros;
};

/* Of a row, that many workers compute. */
struct row_counts {
    _Atomic uint32_t n[SPARSITY_SITES]; /* neurons computed, of all dense layers */
    _Atomic uint64_t n_pages_seen, n_pages_read;
};

/* Of a worker that chooses pages: [pages of the longest sequence] each. */
struct page_scratch {
    const uint16_t **bounds;
    float *score, *sorted;
};

/* Neurons [n0, n0 + n) of rows [t0, t0 + n_t) in a dense layer, whose hidden activations are gate * up, or up. */
struct neuron_tile {
    uint32_t layer, n0, n, t0, n_t;
    const float *gate; /* [n_t][n] act(gate); NULL: an ungated architecture */
    const float *up;   /* [n_t][n]; then act(up) */
};
/* Looks at all of them, on the worker that computed them. */
typedef void forward_probe_fn(void *ctx, const struct neuron_tile *tile);

enum { AUDIT_MOST_ROWS = 8 };
#define AUDIT_ALL_LAYERS UINT32_MAX
/* How far a row's feed-forward is from the whole one, whose output has the size 1. */
typedef void forward_audit_fn(void *ctx, const struct operating_point *point, uint32_t layer,
                              double error);
/* Of the step at hand: rows whose feed-forward is also computed whole. */
struct audit_request {
    uint32_t layer;                        /* in which; or AUDIT_ALL_LAYERS */
    uint32_t n_rows, row[AUDIT_MOST_ROWS]; /* they have points */
    forward_audit_fn *found;
    void *ctx;
    float *y;        /* [n_embd] */
    bool is_running; /* nothing is counted */
};

struct forward {
    const struct model_shape *shape;
    const struct weights *weights;
    const struct kern_table *kern;
    struct workers *workers;
    struct experts *experts; /* NULL: all are in memory */
    const struct sparsity *sparsity;
    forward_probe_fn *probe; /* NULL: nobody looks; else nothing is left out */
    void *probe_ctx;
    _Atomic uint64_t *heartbeat;
    struct forward_options opt;
    struct profile profile;

    /* The step at hand. */
    uint32_t n_rows, n_runs, n_logits;
    struct run *run;         /* [max_rows] */
    struct row_place *place; /* [max_rows] */
    int32_t *token;          /* [max_rows] */
    uint32_t *logit_row;     /* [max_logit_rows] */
    /* [max_rows] Layers until an expert of it that could not be read, or has not come yet; 0: none. */
    uint32_t *row_failed, *row_late;
    /* [max_rows] So many first layers have counted its experts in an earlier step. */
    uint32_t *row_counted;
    /* [max_rows] So many of its experts, the best, are the true ones; the others may give way. */
    uint32_t *row_kept;
    uint32_t *row_replaced;                   /* [max_rows] so many did, in all layers */
    const struct operating_point **row_point; /* [max_rows] what it does without; NULL: nothing */
    struct row_counts *row_counts;            /* [max_rows] */
    struct audit_request audit;
    bool may_defer;      /* whether rows may be late */
    const char *failure; /* why; NULL: none has */
    struct attention_plan plan[KV_MAX_GROUPS];
    /* Of the layer at hand, if rows choose pages in it; and the runs, but for these rows, which are their last ones. */
    struct attention_plan layer_plan;
    struct run *whole_run;         /* [max_rows] */
    uint32_t *chooser, n_choosers; /* [max_rows] those rows */
    uint32_t *wave;                /* [max_rows] of them, those at hand */
    uint8_t *page_scratch;         /* [n_threads] see page_scratch_of */

    struct segment *segment; /* [max_rows] */
    uint32_t n_segments;

    /* Of pages whose sealed form is another (paging.c). */
    struct sealing *sealing; /* [max_rows] */
    uint32_t *carried;       /* [max_rows] runs */
    uint32_t n_sealing, n_carried;
    uint8_t *spare_pages; /* [max_rows / 2] open pages of one layer */

    /* Buffers, by rows. */
    float *x;                     /* [rows][n_embd] the residual */
    struct activations in;        /* normed input of a block, [rows][n_embd] */
    float *q, *k, *v;             /* [rows][heads * head_dim] */
    struct activations attn;      /* [rows][heads * head_dim] */
    float *block;                 /* [rows][n_embd] a block's output */
    struct activations hidden;    /* [rows][n_ff] */
    float *tiles;                 /* [n_threads][2][tile_values] see ffn.c */
    uint32_t *active;             /* [n_threads][tile_values] */
    struct neuron_count *neurons; /* [n_threads] of the steps so far */
    struct plan_cell *plan_cells;
    uint64_t n_planned[SPARSITY_SITES][PLAN_WAYS]; /* products so far where both ways were open */
    uint32_t tile_values;
    float *angles[CONFIG_MAX_ROPES]; /* [rows][2 * n_pairs] */

    uint32_t max_partials;
    float *partial_m, *partial_l, *partial_o; /* [max_partials], [..], [..][head_dim] */

    struct routing routing;
    float *router_logits;        /* [ROUTERS_AT_ONCE][rows][n_experts] of layers from one on */
    struct activations gathered; /* [rows * n_used or more][n_embd]; first the inputs of routers */
    struct activations expert_hidden; /* [rows * n_used][n_ff_expert] */
    float *expert_out;                /* [rows * n_used][n_embd] */
    struct activations shared_hidden; /* [rows][n_ff_shared] */
    float *shared_weight;             /* [rows] */

    struct activations head; /* [max_logit_rows][n_embd] */
    float *logits;           /* [max_logit_rows][n_vocab] */
    bool *logits_finite;     /* [max_logit_rows] none is an infinity or NaN */
};

/* Bytes that forward_open will take. */
uint64_t forward_bytes(const struct model_shape *shape, const struct forward_options *opt);
int forward_open(struct forward **out, const struct model_shape *shape,
                 const struct weights *weights, const struct kern_table *kern,
                 struct workers *workers, struct experts *experts, _Atomic uint64_t *heartbeat,
                 const struct forward_options *opt, struct engine_err *err);
void forward_close(struct forward *f); /* NULL is fine */

/* One step.  The caller has filled run, place, token and logit_row, whose pages are reserved.
 * Row logit_row[i]'s logits are then at logits + i * n_vocab. */
void forward_step(struct forward *f);

/* layer.c and below */
/* f->in must hold its input (layer_input); leaves there that of the next layer. */
void layer_forward(struct forward *f, uint32_t layer);
/* f->in's row from the residual's, as the attention of a layer wants it. */
void layer_input(struct forward *f, const struct layer_weights *w, uint32_t row);

/* paging.c */
/* Bytes of the spare pages of a step. */
size_t paging_spare_bytes(const struct model_shape *shape, uint32_t max_rows);
/* What has to be done with pages in each layer of the step. */
void paging_plan_step(struct forward *f);
/* Writes the K and V of a segment. */
void paging_store(struct forward *f, const struct layer_shape *layer,
                  const struct segment *segment);
/* Once all rows are written: makes of the pages that they complete what is made of such. */
void paging_seal(struct forward *f, const struct layer_shape *layer);
/* Once nobody reads the layer's open pages any more: takes those begun in this step over. */
void paging_carry(struct forward *f, const struct layer_shape *layer);
/* Do sealed pages have another form than open ones? */
bool paging_has_open_pages(const struct model_shape *shape);
/* Where the sealed pages end that a query at `pos` sees, and its open one begins; if open pages
 * have no form of their own, at pos. */
uint32_t paging_sealed_end(const struct model_shape *shape, uint32_t pos);
/* The F16 part of an open page that a KV head's tokens lie in. */
uint8_t *paging_open_part(const struct forward *f, const struct layer_shape *layer,
                          const struct run *run, uint32_t page_no, uint32_t part, uint32_t kv_head);

/* attention.c */
void attention_plan_step(struct forward *f);
/* Query heads of a KV head: the queries of a row that read the same pages. */
static inline uint32_t attention_group(const struct model_shape *s)
{
    return s->n_heads / s->n_kv_heads;
}
/* The query of a head, rotated and normed. */
const float *attention_query(const struct forward *f, uint32_t row, uint32_t head);
/* Where a query's output goes. */
float *attention_head_output(const struct forward *f, uint32_t row, uint32_t head);
/* The end of a query's softmax, whose weighted values lie in its output: its own token, then the division. */
void attention_finish_query(const struct forward *f, uint32_t row, uint32_t head, float *m,
                            float *l);
void attention_forward(struct forward *f, uint32_t layer);

/* page_attention.c */
enum { PAGE_LIST_SLOTS = KV_PAGE_TOKENS / PAGE_CHOICE_STEP };
/* Bytes of a sequence's lists of at most cap pages (struct run). */
size_t page_lists_bytes(const struct model_shape *s, uint32_t cap);
/* Finds the rows that choose pages in the layer, and sets whole_run.  Returns how many. */
uint32_t page_attention_list(struct forward *f, uint32_t layer);
/* Their attention.  Returns to how many tokens, all rows together. */
uint64_t page_attention_forward(struct forward *f, uint32_t layer);
struct page_scratch page_scratch_of(const struct forward *f, uint32_t worker);

/* hidden = act(in gate^T + gate_bias) * (in up^T + up_bias): of dense layers, experts and shared
 * experts alike. */
struct gated {
    uint32_t layer;
    bool has_points; /* of a dense layer: rows' operating points may drop neurons */
    const struct kern_matrix *gate, *up; /* gate is not read if the architecture is ungated */
    const struct kern_matrix *up_rows;   /* up in rows, to pick those of active neurons; NULL: no */
    bool picks_always;                   /* not only where few enough are active */
    const float *gate_bias, *up_bias;    /* NULL: none */
    const struct kern_matrix *down;      /* what reads hidden: quantised if this is, else floats */
    const struct kern_input *in;
    struct activations *hidden;
};
/* Neurons [n0, n1) (multiples of KERN_TILE_ROWS, but for the last) of rows [t0, t1); any worker. */
void ffn_hidden_tile(struct forward *f, const struct gated *g, uint32_t n0, uint32_t n1,
                     uint32_t t0, uint32_t t1);
/* All neurons of rows [t0, t1). */
void ffn_hidden(struct forward *f, const struct gated *g, uint32_t t0, uint32_t t1);
void ffn_forward(struct forward *f, uint32_t layer);
/* up, if its layout and down's are those for zeros that are skipped: up_rows of a feed-forward that lies in memory once.
 * Else NULL. */
const struct kern_matrix *ffn_rows_to_pick(const struct forward *f, const struct kern_matrix *up,
                                           const struct kern_matrix *down);

/* ffn_audit.c */
bool audit_wants(const struct forward *f, uint32_t layer);
/* Behind the products of a dense layer. */
void audit_ffn(struct forward *f, const struct gated *g);

/* Is every row searched for neurons that ReLU has made zero?  Else only those with an operating point are, for what it
 * takes for zero, and only they are counted. */
bool ffn_looks_for_zeros(const struct forward *f);
/* A layer's own, and those of the next layers, which are asked what they will say. */
enum { ROUTERS_AT_ONCE = 1 + EXPERT_GUESS_LAYERS };
/* Rows of the gathered buffers that the routers' inputs take when a step has so many. */
uint32_t moe_router_rows(uint32_t n_rows);
/* Chooses each row's experts from x [rows][n_embd], the router's input; those that are not in memory begin
 * to be read. */
void moe_route(struct forward *f, uint32_t layer, const float *x);
void moe_forward(struct forward *f, uint32_t layer);

/* Products with several matrices of about the same shape: one barrier for all. */
struct product {
    const struct kern_matrix *w;
    const struct kern_input *x;
    float *y;
    size_t ldy;
    uint32_t n_rows, first_row; /* of x: tokens */
};
enum { FORWARD_MAX_PRODUCTS = 4 };
void forward_products(struct forward *f, const struct product *p, uint32_t n,
                      enum profile_part part);
/* How n_tiles tiles, each of so many rows of matrices like w, are shared out when n_tokens inputs are multiplied with
 * them.  The results do not depend on it. */
struct share forward_share_rows(const struct forward *f, const struct kern_matrix *w,
                                uint32_t n_tiles, uint32_t rows_of_tile, uint32_t n_tokens);

/* Quantises a row of a for the matrix that reads it, if that is quantised. */
void forward_quantise_row(struct forward *f, struct activations *a, const struct kern_matrix *w,
                          uint32_t row);

/* Runs fn(ctx, row) for n_rows rows, several to an item where there are many. */
void forward_rows(struct forward *f, void (*fn)(void *ctx, uint32_t row), void *ctx,
                  uint32_t n_rows);

#endif
