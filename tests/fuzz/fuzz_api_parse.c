/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_api_parse.c - request bodies of any bytes.
 *
 * The first byte says which parser reads the rest, and whether unknown fields are errors.  Of what
 * is accepted every bound the parser promises is checked; what is refused must say why, in an
 * answer that is JSON.
 */
#include "server/api/api_parse.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_VOCAB = 1000, MAX_PROMPTS = 8, MAX_N = 8, MAX_LOGPROBS = 20 };

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_outcome(int rc, const struct api_error *e)
{
    require((rc == 0) == (e->kind == API_OK));
    if (rc == 0)
        return;
    struct buf b = { 0 };
    require(e->message[0] && api_error_status(e->kind) == 400);
    api_error_json(&b, e);
    json_t *answer = json_loadb(b.data, b.len, 0, NULL);
    require(json_is_string(json_object_get(json_object_get(answer, "error"), "code")));
    json_decref(answer);
    buf_fini(&b);
}

static void check_ids(const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        require(ids[i] >= 0 && ids[i] < N_VOCAB);
}

static void check_prompts(const struct api_completion *c)
{
    uint64_t sum = 0;
    require(c->n_prompts >= 1 && c->n_prompts <= MAX_PROMPTS);
    for (uint32_t i = 0; i < c->n_prompts; i++) {
        const struct api_prompt *p = &c->prompts[i];
        require(p->text ? p->n_ids == 0 : p->n_ids > 0);
        check_ids(p->ids, p->n_ids);
        for (size_t j = 0; j < p->text_len; j++)
            sum += (unsigned char)p->text[j];
    }
    require(sum < UINT64_MAX); /* reads every byte */
}

static void check_completion(const struct api_completion *c)
{
    check_prompts(c);
    require(c->n >= 1 && c->n <= MAX_N && c->n_logprobs >= -1 && c->n_logprobs <= MAX_LOGPROBS);
    require(c->max_tokens >= -1 && c->max_tokens <= 1 << 30);
    require(c->max_tokens < 0 || c->min_tokens <= c->max_tokens);
    require(c->temperature >= 0 && c->temperature <= 2 && c->top_p >= 0 && c->top_p <= 1);
    require(c->min_p >= 0 && c->min_p <= 1 && c->top_k >= -1);
    require(c->repetition_penalty > 0 && c->repetition_penalty <= 10);
    require(fabs(c->frequency_penalty) <= 2 && fabs(c->presence_penalty) <= 2);
    require(c->n_stops <= API_MAX_STOPS && c->n_bias <= API_MAX_BIASES);
    for (uint32_t i = 0; i < c->n_stops; i++)
        require(c->stops[i].len >= 1 && c->stops[i].len <= API_MAX_STOP_BYTES);
    for (uint32_t i = 0; i < c->n_bias; i++)
        check_ids(&c->bias[i].token, 1);
    check_ids(c->stop_tokens, c->n_stop_tokens);
    require(strlen(c->request_id) <= API_MAX_ID_BYTES);
    require(c->stream_interval >= 1 && c->max_predict_ms >= -1);
    require(!c->has_stream_options || c->stream);
    require(strlen(c->unknown.names) < sizeof(c->unknown.names));
}

static void run_completion(char *body, size_t len, const struct api_limits *limits)
{
    struct api_completion c;
    struct api_error e = { 0 };
    int rc = api_parse_completion(body, len, limits, &c, &e);
    check_outcome(rc, &e);
    if (rc == 0)
        check_completion(&c);
    api_completion_fini(&c);
}

/* Its prompt is still to come; the messages are of roles and contents that a template knows. */
static void check_chat(const struct api_completion *c)
{
    static const char *const roles[] = { "system", "user", "assistant", "tool" };
    size_t i, r;
    json_t *m;
    require(c->is_chat && c->n_prompts == 1 && !c->prompts[0].text && c->chat.messages);
    require(json_array_size(c->chat.messages) >= 1);
    json_array_foreach ((json_t *)c->chat.messages, i, m) {
        const char *role = json_string_value(json_object_get(m, "role"));
        const json_t *content = json_object_get(m, "content");
        require(role && (json_is_string(content) || json_is_null(content)));
        for (r = 0; r < 4 && strcmp(roles[r], role) != 0; r++) {
        }
        require(r < 4);
    }
    require(c->n_logprobs >= -1 && c->n_logprobs <= MAX_LOGPROBS);
    require(c->max_tokens >= -1 && c->max_tokens <= 1 << 30 && c->stream_interval >= 1);
    require(!c->chat.is_prefill || !c->chat.adds_prompt);
}

static void run_chat(char *body, size_t len, const struct api_limits *limits)
{
    struct api_completion c;
    struct api_error e = { 0 };
    int rc = api_parse_chat(body, len, limits, &c, &e);
    check_outcome(rc, &e);
    if (rc == 0)
        check_chat(&c);
    api_completion_fini(&c);
}

static void run_tokenize(char *body, size_t len, const struct api_limits *limits)
{
    struct api_tokenize t;
    struct api_error e = { 0 };
    int rc = api_parse_tokenize(body, len, limits, &t, &e);
    check_outcome(rc, &e);
    require(rc != 0 || t.text);
    api_tokenize_fini(&t);
}

static void run_detokenize(char *body, size_t len, const struct api_limits *limits)
{
    struct api_detokenize d;
    struct api_error e = { 0 };
    int rc = api_parse_detokenize(body, len, limits, &d, &e);
    check_outcome(rc, &e);
    if (rc == 0)
        check_ids(d.ids, d.n_ids);
    api_detokenize_fini(&d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct api_limits limits = {
        .max_prompts = MAX_PROMPTS, .max_n = MAX_N, .max_logprobs = MAX_LOGPROBS, .n_vocab = N_VOCAB
    };
    if (size == 0)
        return 0;
    size_t len = size - 1;
    char *body = malloc(len ? len : 1); /* exactly its size: reads beyond it are seen */
    require(body);
    memcpy(body, data + 1, len);
    limits.strict_params = data[0] & 4;
    if ((data[0] & 3) == 1)
        run_tokenize(body, len, &limits);
    else if ((data[0] & 3) == 2)
        run_detokenize(body, len, &limits);
    else if ((data[0] & 3) == 3)
        run_chat(body, len, &limits);
    else
        run_completion(body, len, &limits);
    free(body);
    return 0;
}
