/* SPDX-License-Identifier: Apache-2.0
 *
 * test_memory_plan.c - the plan is a pure function; control group limits are read from files.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/machine.h"
#include "engine/memory_plan.h"

static struct model_shape shape(void)
{
    return (struct model_shape){ .n_vocab = 1000,
                                 .n_embd = 256,
                                 .n_layers = 12,
                                 .n_ctx_train = 8192,
                                 .n_heads = 4,
                                 .n_kv_heads = 2,
                                 .head_dim = 64,
                                 .n_ff = 512,
                                 .n_groups = 2,
                                 .group_layers = { 2, 10 },
                                 .group_window = { 0, 512 } };
}

static struct memory_plan_input input(const struct model_shape *s)
{
    return (struct memory_plan_input){ .shape = s,
                                       .weight_bytes = 100 << 20,
                                       .available = (uint64_t)4 << 30,
                                       .n_threads = 2,
                                       .max_rows = 512,
                                       .max_logit_rows = 64,
                                       .http_bytes = 1 << 20 };
}

Test(memory_plan, adds_up_and_stays_within_what_is_there)
{
    struct model_shape s = shape();
    struct memory_plan_input in = input(&s);
    struct memory_plan p;
    cr_assert_eq(memory_plan(&p, &in, NULL), 0);
    cr_assert_eq(p.total, p.weights + p.kv_bytes + p.activations + p.sampling + p.http);
    cr_assert_lt(p.total, in.available);
    cr_assert_eq(p.n_ctx, 8192);
    cr_assert(!p.ctx_reduced);
    cr_assert_geq((uint64_t)p.kv.group[0].n_pages * KV_PAGE_TOKENS, 4 * 8192);
}

Test(memory_plan, windowed_layers_take_no_more_than_their_windows)
{
    struct model_shape s = shape();
    struct memory_plan_input in = input(&s);
    struct memory_plan p;
    in.n_ctx = 131072;
    in.available = (uint64_t)64 << 30;
    cr_assert_eq(memory_plan(&p, &in, NULL), 0);
    cr_assert_geq(p.kv.group[0].n_pages, 4 * 131072 / KV_PAGE_TOKENS);
    const struct kv_group_options window = { .window = 512 };
    cr_assert_leq(p.kv.group[1].n_pages, 32 * kv_pages_needed(&window, UINT32_MAX / 2, 512));
}

Test(memory_plan, as_many_windows_as_sequences_that_were_asked_for)
{
    struct model_shape s = shape();
    struct memory_plan_input in = input(&s);
    struct memory_plan p;
    in.n_sequences = 1;
    cr_assert_eq(memory_plan(&p, &in, NULL), 0);
    const struct kv_group_options window = { .window = 512 };
    cr_assert_eq(p.kv.group[0].n_pages, 8192 / KV_PAGE_TOKENS);
    cr_assert_eq(p.kv.group[1].n_pages, kv_pages_needed(&window, UINT32_MAX / 2, 512));
    in.n_sequences = 3;
    cr_assert_eq(memory_plan(&p, &in, NULL), 0);
    cr_assert_eq(p.kv.group[1].n_pages, 3 * kv_pages_needed(&window, UINT32_MAX / 2, 512));
    in.n_sequences = 1;
    s.kv = KERN_KV_Q8; /* its open page takes the place of more */
    cr_assert_eq(memory_plan(&p, &in, NULL), 0);
    cr_assert_eq(p.kv.group[1].n_pages,
                 kv_pages_needed(&window, UINT32_MAX / 2, 512) + p.kv.group[1].open_parts);
    cr_assert_gt(p.kv.group[1].open_parts, 0);
}

Test(memory_plan, a_default_context_shrinks_but_an_asked_one_is_refused)
{
    struct model_shape s = shape();
    struct memory_plan_input in = input(&s);
    struct memory_plan p;
    struct engine_err err = { 0 };
    in.available = (uint64_t)190 << 20;
    cr_assert_eq(memory_plan(&p, &in, NULL), 0);
    cr_assert(p.ctx_reduced);
    cr_assert_lt(p.n_ctx, 8192);
    cr_assert_lt(p.total, in.available);
    in.n_ctx = 8192;
    cr_assert_eq(memory_plan(&p, &in, &err), -1);
    cr_assert_eq(err.code, ENGINE_ERR_MEMORY);
    cr_assert_not_null(strstr(err.text, "190 MiB are available"), "%s", err.text);
}

Test(memory_plan, kv_bytes_is_a_limit)
{
    struct model_shape s = shape();
    struct memory_plan_input in = input(&s);
    struct memory_plan p;
    struct engine_err err = { 0 };
    in.kv_bytes = 60 << 20;
    cr_assert_eq(memory_plan(&p, &in, NULL), 0);
    cr_assert_leq(p.kv_bytes, in.kv_bytes);
    cr_assert_gt(p.kv_bytes, in.kv_bytes / 2);
    in.kv_bytes = 1 << 20;
    in.n_ctx = 8192;
    cr_assert_eq(memory_plan(&p, &in, &err), -1);
    cr_assert_eq(err.code, ENGINE_ERR_MEMORY);
}

static struct memory_plan_input input_with_experts(const struct model_shape *s)
{
    struct memory_plan_input in = input(s);
    in.experts.all = (uint64_t)2 << 30;
    in.experts.least = 4 << 20;
    in.experts.staging = 16 << 20;
    return in;
}

Test(memory_plan, experts_are_weights_if_there_is_room)
{
    struct model_shape s = shape();
    struct memory_plan_input in = input_with_experts(&s);
    struct memory_plan p;
    cr_assert_eq(memory_plan(&p, &in, NULL), 0);
    cr_assert_eq(p.weights, in.weight_bytes + in.experts.all);
    cr_assert_eq(p.expert_slots + p.expert_staging, 0);
    in.expert_bytes = in.experts.all; /* as much as there is: nothing to read on demand */
    cr_assert_eq(memory_plan(&p, &in, NULL), 0);
    cr_assert_eq(p.expert_slots, 0);
}

Test(memory_plan, experts_have_most_of_what_is_left_if_they_do_not_fit)
{
    struct model_shape s = shape();
    struct memory_plan_input in = input_with_experts(&s);
    struct memory_plan p;
    in.available = (uint64_t)1 << 30;
    cr_assert_eq(memory_plan(&p, &in, NULL), 0);
    cr_assert_eq(p.weights, in.weight_bytes);
    cr_assert_eq(p.expert_staging, in.experts.staging);
    cr_assert_gt(p.expert_slots, in.available / 2);
    cr_assert_eq(p.total, p.weights + p.expert_slots + p.expert_staging + p.kv_bytes +
                              p.activations + p.sampling + p.http);
    cr_assert_lt(p.total, in.available);
    cr_assert_eq(p.n_ctx, 8192);
}

Test(memory_plan, slots_take_the_memory_of_rows_that_are_only_looked_up)
{
    struct model_shape s = shape();
    struct memory_plan_input in = input_with_experts(&s);
    struct memory_plan p, more;
    in.kv_bytes = 256 << 20;
    in.available = (uint64_t)1 << 30;
    cr_assert_eq(memory_plan(&p, &in, NULL), 0);
    in.lookup_bytes = 40 << 20;
    cr_assert_eq(memory_plan(&more, &in, NULL), 0);
    cr_assert_eq(more.weights, in.weight_bytes - in.lookup_bytes);
    cr_assert_eq(more.expert_slots, p.expert_slots + in.lookup_bytes);
    in.available = (uint64_t)8 << 30; /* they all fit: nothing has to go */
    cr_assert_eq(memory_plan(&more, &in, NULL), 0);
    cr_assert_eq(more.weights, in.weight_bytes + in.experts.all);
}

Test(memory_plan, experts_have_what_was_asked_for_or_it_is_refused)
{
    struct model_shape s = shape();
    struct memory_plan_input in = input_with_experts(&s);
    struct memory_plan p;
    struct engine_err err = { 0 };
    in.expert_bytes = 500 << 20;
    cr_assert_eq(memory_plan(&p, &in, NULL), 0);
    cr_assert_eq(p.expert_slots, in.expert_bytes);
    cr_assert_geq((uint64_t)p.kv.group[0].n_pages * KV_PAGE_TOKENS, 4 * 8192, "pages as without");
    in.available = 500 << 20;
    cr_assert_eq(memory_plan(&p, &in, &err), -1);
    cr_assert(strstr(err.text, "experts 516") && strstr(err.text, "--expert-cache"), "%s",
              err.text);
}

Test(memory_plan, keys_and_values_of_8_bits_hold_more_in_the_same_memory)
{
    struct model_shape s = shape();
    struct memory_plan_input in = input(&s);
    struct memory_plan p, q8;
    in.kv_bytes = 60 << 20;
    s.group_window[1] = 0; /* nothing but memory limits the pools */
    cr_assert_eq(memory_plan(&p, &in, NULL), 0);
    s.kv = KERN_KV_Q8;
    cr_assert_eq(memory_plan(&q8, &in, NULL), 0);
    cr_assert_leq(q8.kv_bytes, in.kv_bytes);
    cr_assert_geq(q8.kv.group[0].n_pages, p.kv.group[0].n_pages * 18 / 10);
    in.kv_bytes = 0;
    for (in.n_ctx = 512; in.n_ctx < 4096; in.n_ctx += 500) { /* it can hold what it promises */
        cr_assert_eq(memory_plan(&q8, &in, NULL), 0);
        for (uint32_t g = 0; g < 2; g++)
            cr_assert_leq(4 * kv_pages_needed(&q8.kv.group[g], in.n_ctx, in.max_rows),
                          q8.kv.group[g].n_pages);
    }
}

Test(memory_plan, weights_that_do_not_fit_are_refused_with_the_numbers)
{
    struct model_shape s = shape();
    struct memory_plan_input in = input(&s);
    struct memory_plan p;
    struct engine_err err = { 0 };
    in.weight_bytes = (uint64_t)8 << 30;
    cr_assert_eq(memory_plan(&p, &in, &err), -1);
    cr_assert_not_null(strstr(err.text, "weights 8192"), "%s", err.text);
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
}

Test(machine, the_smallest_limit_on_the_way_up_counts)
{
    char root[] = "/tmp/lacuna-cgroup-XXXXXX", dir[128];
    cr_assert_not_null(mkdtemp(root));
    snprintf(dir, sizeof(dir), "%s/a", root);
    mkdir(dir, 0700);
    write_file(dir, "memory.max", "5000\n");
    snprintf(dir, sizeof(dir), "%s/a/b", root);
    mkdir(dir, 0700);
    write_file(dir, "memory.max", "max\n");
    cr_assert_eq(machine_cgroup_limit(root, "/a/b", "memory.max"), 5000);
    write_file(dir, "memory.max", "4096\n");
    cr_assert_eq(machine_cgroup_limit(root, "/a/b", "memory.max"), 4096);
    cr_assert_eq(machine_cgroup_limit(root, "/other", "memory.max"), UINT64_MAX);
    write_file(dir, "memory.limit_in_bytes", "9223372036854771712\n"); /* v1's "no limit" */
    cr_assert_eq(machine_cgroup_limit(root, "/a/b", "memory.limit_in_bytes"), UINT64_MAX);
}

Test(machine, has_cores_and_memory)
{
    cr_assert_geq(machine_cores(), 1);
    cr_assert_gt(machine_memory_available(), 1 << 20);
}
