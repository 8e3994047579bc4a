/* SPDX-License-Identifier: Apache-2.0
 *
 * test_api_render.c - the parts of answers, byte for byte.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "server/api/api.h"

static void expect(struct buf *b, const char *want)
{
    buf_char(b, '\0');
    cr_expect_str_eq(b->data, want);
    buf_fini(b);
}

Test(api_render, head)
{
    struct api_head h = { API_TEXT_COMPLETION, "x1", 7, "a \"model\"", "lacuna-1-2" };
    struct buf b = { 0 };
    api_render_head(&b, &h);
    expect(&b, "{\"id\":\"cmpl-x1\",\"object\":\"text_completion\",\"created\":7,"
               "\"model\":\"a \\\"model\\\"\",\"system_fingerprint\":\"lacuna-1-2\","
               "\"choices\":[");
}

Test(api_render, a_choice_that_goes_on)
{
    struct api_choice c = { .index = 3, .text = "hi\n", .text_len = 3, .stop_token = -1 };
    struct buf b = { 0 };
    api_render_choice(&b, &c);
    expect(&b, "{\"index\":3,\"text\":\"hi\\n\",\"logprobs\":null,\"finish_reason\":null,"
               "\"stop_reason\":null}");
}

Test(api_render, why_a_choice_stopped)
{
    struct api_choice c = { .text = "", .finish = SCHED_FINISH_STOP, .stop_token = -1 };
    struct buf b = { 0 };
    api_render_choice(&b, &c); /* an end token */
    cr_expect(memmem(b.data, b.len, "\"stop\",\"stop_reason\":null", 25));
    buf_clear(&b);
    c.stop_token = 12;
    api_render_choice(&b, &c);
    cr_expect(memmem(b.data, b.len, "\"stop_reason\":12", 16));
    buf_clear(&b);
    c.stop_string = "a\0b";
    c.stop_string_len = 3;
    api_render_choice(&b, &c);
    cr_expect(memmem(b.data, b.len, "\"stop_reason\":\"a\\u0000b\"", 24));
    buf_fini(&b);
}

Test(api_render, token_ids_when_asked_for)
{
    int32_t prompt[] = { 1, 2 };
    struct buf ids = { 0 }, b = { 0 };
    api_render_ids(&ids, (int32_t[]){ 30, 4 }, 2);
    struct api_choice c = { .text = "",
                            .stop_token = -1,
                            .finish = SCHED_FINISH_LENGTH,
                            .prompt_ids = prompt,
                            .n_prompt_ids = 2,
                            .token_ids = &ids };
    api_render_choice(&b, &c);
    expect(&b, "{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\","
               "\"stop_reason\":null,\"prompt_token_ids\":[1,2],\"token_ids\":[30,4]}");
    buf_fini(&ids);
}

Test(api_render, logprobs_lists_run_in_step)
{
    struct sched_logprobs entries[] = {
        { .token = 5 }, /* the first of an echo has none */
        { .token = 6,
          .text_offset = 2,
          .has_logprob = true,
          .logprob = -0.5f,
          .n_top = 2,
          .top = { { 7, -0.25f }, { 6, -0.5f } } },
        { .token = 8,
          .text_offset = 4,
          .has_logprob = true,
          .logprob = -INFINITY,
          .n_top = 1,
          .top = { { 7, -0.125f } } },
    };
    struct api_logprobs l = { 0 };
    struct buf b = { 0 };
    api_logprobs_add(&l, NULL, true, entries, 1);
    api_logprobs_add(&l, NULL, true, entries + 1, 2);
    api_render_logprobs(&b, &l);
    expect(&b, "{\"tokens\":[\"token_id:5\",\"token_id:6\",\"token_id:8\"],"
               "\"token_logprobs\":[null,-0.5,-9999.0],"
               "\"top_logprobs\":[null,{\"token_id:7\":-0.25,\"token_id:6\":-0.5},"
               "{\"token_id:7\":-0.125,\"token_id:8\":-9999.0}],"
               "\"text_offset\":[0,2,4]}");
    api_logprobs_clear(&l);
    cr_expect_eq(l.tokens.len, 0);
    api_logprobs_fini(&l);
}

Test(api_render, usage_adds_up)
{
    struct sched_usage u = { .prompt_tokens = UINT32_MAX,
                             .completion_tokens = 2,
                             .cached_tokens = 1 };
    const struct engine_info exact = { .n_experts_used = 4,
                                       .n_experts_used_exact = 4,
                                       .n_experts_kept = 4 };
    struct buf b = { 0 };
    api_render_usage(&b, &u, &exact);
    expect(&b, "{\"prompt_tokens\":4294967295,\"completion_tokens\":2,\"total_tokens\":4294967297,"
               "\"prompt_tokens_details\":{\"cached_tokens\":1},"
               "\"completion_tokens_details\":{\"reasoning_tokens\":0}}");
}

Test(api_render, usage_says_what_was_approximated)
{
    const struct engine_info info = { .n_experts_used = 3,
                                      .n_experts_used_exact = 4,
                                      .n_experts_kept = 2 };
    struct sched_usage u = { .completion_tokens = 2, .replaced_experts = 7 };
    struct buf b = { 0 };
    api_render_usage(&b, &u, &info);
    expect(&b, "{\"prompt_tokens\":0,\"completion_tokens\":2,\"total_tokens\":2,"
               "\"prompt_tokens_details\":{\"cached_tokens\":0},"
               "\"completion_tokens_details\":{\"reasoning_tokens\":0},"
               "\"lacuna\":{\"experts\":{\"used\":3,\"of\":4,\"kept\":2,\"replaced\":7}}}");
}

Test(api_render, timings)
{
    struct api_timings t = {
        .n_cached = 3, .n_prompt = 4, .n_predicted = 2, .prompt_ns = 8000000, .predicted_ns = 500000
    };
    struct buf b = { 0 };
    api_render_timings(&b, &t);
    expect(&b, "{\"cache_n\":3,\"prompt_n\":4,\"prompt_ms\":8.000,\"prompt_per_token_ms\":2.000,"
               "\"prompt_per_second\":500.000,\"predicted_n\":2,\"predicted_ms\":0.500,"
               "\"predicted_per_token_ms\":0.250,\"predicted_per_second\":4000.000}");
    api_render_timings(&b, &(struct api_timings){ 0 });
    expect(&b, "{\"cache_n\":0,\"prompt_n\":0,\"prompt_ms\":0.000,\"prompt_per_token_ms\":0.000,"
               "\"prompt_per_second\":0.000,\"predicted_n\":0,\"predicted_ms\":0.000,"
               "\"predicted_per_token_ms\":0.000,\"predicted_per_second\":0.000}");
}

Test(api_render, progress)
{
    struct sched_progress p = { .n_total = 9, .n_cached = 1, .n_done = 5, .ns = 12999999 };
    struct buf b = { 0 };
    api_render_progress(&b, &p);
    expect(&b, "{\"total\":9,\"cache\":1,\"processed\":5,\"time_ms\":12}");
}
