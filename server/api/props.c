/* SPDX-License-Identifier: Apache-2.0
 *
 * props.c - GET /props and /slots: what the server would do, and what it is doing.  Never a
 * request's text.
 */
#include <stdlib.h>

#include "server/api/api.h"

/* ---- /props ---- */

/* What a completion is computed with if it says nothing. */
static void add_default_params(struct buf *b, const struct srv *s)
{
    enum { COMPLETION_TOKENS = 16 };
    buf_printf(
        b,
        "\"params\":{\"max_tokens\":%u,\"temperature\":1,\"top_k\":0,\"top_p\":1,\"min_p\":0,"
        "\"repetition_penalty\":1,\"presence_penalty\":0,\"frequency_penalty\":0,"
        "\"min_tokens\":0,\"n\":1,\"stop\":[],\"ignore_eos\":false,\"cache_prompt\":true}",
        s->opt.max_tokens_default ? s->opt.max_tokens_default : COMPLETION_TOKENS);
}

static void add_points(struct buf *b, const struct engine_info *info)
{
    buf_str(b, ",\"operating_points\":[");
    for (uint32_t i = 0; i < info->n_points; i++) {
        const struct engine_point *p = &info->points[i];
        buf_printf(b, "%s{\"name\":", i ? "," : "");
        buf_json_str(b, p->name);
        if (p->same_top == 0) { /* nobody measured it */
            buf_char(b, '}');
            continue;
        }
        buf_printf(b,
                   ",\"kl\":%.6f,\"kl_p99\":%.6f,\"same_top\":%.4f,\"perplexity\":%.4f,\"up\":%.4f,"
                   "\"down\":%.4f,\"weights\":%.4f}",
                   p->kl, p->kl_p99, p->same_top, p->perplexity, p->up, p->down, p->weights);
    }
    buf_char(b, ']');
}

void api_props_answer(struct http_exchange *x)
{
    const struct srv *s = x->srv;
    const struct engine_info *info = engine_info(s->engine);
    struct buf b = { 0 };
    buf_printf(&b, "{\"default_generation_settings\":{\"n_ctx\":%u,", info->n_ctx);
    add_default_params(&b, s);
    buf_printf(&b, "},\"total_slots\":%u,\"model_path\":", sched_max_seqs(s->sched));
    buf_json_str(&b, info->file_name);
    buf_str(&b, ",\"model_alias\":");
    buf_json_str(&b, s->model_name);
    buf_str(&b, ",\"chat_template\":");
    buf_json_str(&b, info->chat_template);
    add_points(&b, info);
    buf_str(&b, ",\"build_info\":\"" LACUNA_VERSION " (" LACUNA_COMMIT ")\"}");
    http_reply_json(x, 200, &b);
}

/* ---- /slots ---- */

static void add_slot(struct buf *b, uint32_t id, const struct sched_slot *slot, uint32_t n_ctx)
{
    buf_printf(b,
               "%s{\"id\":%u,\"id_task\":%llu,\"choice\":%u,\"n_ctx\":%u,\"is_processing\":true,"
               "\"n_prompt\":%u,\"n_prefilled\":%u,\"n_decoded\":%u,\"age_ms\":%llu}",
               id ? "," : "", id, (unsigned long long)slot->request, slot->choice, n_ctx,
               slot->n_prompt, slot->n_prefilled, slot->n_decoded,
               (unsigned long long)(slot->age_ns / 1000000));
}

static void reply_slots(struct http_exchange *x, const struct sched_slot *slots, uint32_t n)
{
    struct buf b = { 0 };
    uint32_t n_ctx = engine_info(x->srv->engine)->n_ctx;
    buf_char(&b, '[');
    for (uint32_t i = 0; i < n; i++)
        add_slot(&b, i, &slots[i], n_ctx);
    buf_char(&b, ']');
    http_reply_json(x, 200, &b);
}

void api_slots_answer(struct http_exchange *x)
{
    struct api_error e = { 0 };
    uint32_t cap = 0, n = 0;
    struct sched_slot *slots = NULL;
    if (!x->srv->opt.slots_endpoint) {
        api_fail(&e, API_ENDPOINT_DISABLED, NULL,
                 "This endpoint is disabled; --slots-endpoint enables it");
    } else {
        cap = sched_max_seqs(x->srv->sched);
        slots = calloc(cap, sizeof(*slots));
        n = slots ? sched_slots(x->srv->sched, slots, cap) : 0;
        if (!slots)
            api_fail(&e, API_INTERNAL, NULL, "Out of memory");
        else if (n >= cap && http_query_is(x, "fail_on_no_slot", "1"))
            api_fail(&e, API_NO_SLOT, NULL, "All %u slots are taken", cap);
    }
    if (e.kind == API_OK)
        reply_slots(x, slots, n < cap ? n : cap);
    else
        http_reply_error(x, &e);
    free(slots);
}
