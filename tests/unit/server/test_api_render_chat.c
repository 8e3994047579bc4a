/* SPDX-License-Identifier: Apache-2.0
 *
 * test_api_render_chat.c - the parts of chats' answers, byte for byte.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "server/api/api.h"

static void expect(struct buf *b, const char *want)
{
    buf_char(b, '\0');
    cr_expect_str_eq(b->data, want);
    buf_fini(b);
}

Test(api_render_chat, heads)
{
    struct api_head h = { API_CHAT_COMPLETION, "x1", 7, "m", "f" };
    struct buf b = { 0 };
    api_render_head(&b, &h);
    expect(&b,
           "{\"id\":\"chatcmpl-x1\",\"object\":\"chat.completion\",\"created\":7,\"model\":\"m\","
           "\"system_fingerprint\":\"f\",\"choices\":[");
    h.object = API_CHAT_CHUNK;
    api_render_head(&b, &h);
    cr_expect(memmem(b.data, b.len, "\"chat.completion.chunk\"", 23));
    buf_fini(&b);
}

Test(api_render_chat, a_whole_choice)
{
    struct api_choice c = { .index = 1,
                            .text = "h\"i",
                            .text_len = 3,
                            .finish = SCHED_FINISH_STOP,
                            .stop_token = -1,
                            .stop_string = "x",
                            .stop_string_len = 1 };
    struct buf b = { 0 };
    api_render_chat_choice(&b, &c);
    expect(
        &b,
        "{\"index\":1,\"message\":{\"role\":\"assistant\",\"content\":\"h\\\"i\",\"refusal\":null},"
        "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":\"x\"}");
}

Test(api_render_chat, begin_delta_and_end_share_one_choice)
{
    int32_t prompt[] = { 8, 9 };
    struct buf ids = { 0 }, b = { 0 };
    api_render_ids(&ids, (int32_t[]){ 4 }, 1);
    struct api_choice c = { .text = "hi",
                            .text_len = 2,
                            .finish = SCHED_FINISH_STOP,
                            .stop_token = 5,
                            .prompt_ids = prompt,
                            .n_prompt_ids = 2,
                            .token_ids = &ids };
    api_render_chat_begin(&b, &c);
    expect(&b, "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
               "\"finish_reason\":null,\"stop_reason\":null,\"prompt_token_ids\":[8,9]}");
    api_render_chat_delta(&b, &c);
    expect(&b,
           "{\"index\":0,\"delta\":{\"content\":\"hi\"},\"logprobs\":null,\"finish_reason\":null,"
           "\"stop_reason\":null,\"token_ids\":[4]}");
    api_render_chat_end(&b, &c);
    expect(&b, "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_"
               "reason\":5}");
    buf_fini(&ids);
}
