/* SPDX-License-Identifier: Apache-2.0
 *
 * test_gguf_load.c - files on a disk: opening, split models, mapping and reading.
 *
 * Each test works in a folder of its own, removed at the end.
 */
#include "engine/model/gguf.h"
#include "kernels/kernels.h"
#include "tests/support/gguf_build.h"

#include <criterion/criterion.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/lacuna-test-XXXXXX";
static char path_buffer[4][256];

static void set_up(void)
{
    cr_assert(mkdtemp(folder) != NULL);
}

static void tear_down(void)
{
    char command[300];
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    cr_assert(system(command) == 0);
}

TestSuite(gguf_load, .init = set_up, .fini = tear_down);

/* The path of a file in the test's folder; good for three further calls. */
static const char *path_of(const char *name)
{
    static unsigned n;
    char *path = path_buffer[n++ % 4];
    snprintf(path, sizeof(path_buffer[0]), "%s/%s", folder, name);
    return path;
}

/* Value i of the tensor number `which`. */
static float value_of(uint64_t which, uint64_t i)
{
    return (float)(which * 1000003 + i);
}

static void put_tensor(struct gguf_build *b, const char *name, uint64_t which, uint64_t n)
{
    float *values = malloc(n * sizeof(float));
    cr_assert(values != NULL);
    for (uint64_t i = 0; i < n; i++)
        values[i] = value_of(which, i);
    gguf_build_tensor(b, name, KERN_TYPE_F32, 1, &n, values, n * sizeof(float));
    free(values);
}

static void expect_tensor(const struct gguf *g, const char *name, uint64_t which, uint64_t n)
{
    const struct gguf_tensor *t = gguf_find_tensor(g, name);
    cr_assert(t && t->data && t->ne[0] == n, "%s", name);
    for (uint64_t i = 0; i < n; i++) {
        float x, expected = value_of(which, i);
        memcpy(&x, (const char *)t->data + i * sizeof(x), sizeof(x));
        cr_assert(memcmp(&x, &expected, sizeof(x)) == 0, "%s[%d]", name, (int)i);
    }
}

static void expect_open_refused(const char *path, enum engine_err_code code, const char *words)
{
    struct gguf *g;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_expect(gguf_open(&g, path, &err) == -1 && g == NULL);
    cr_expect(err.code == code, "code %d: %s", (int)err.code, err.text);
    cr_expect(strstr(err.text, words) != NULL, "said \"%s\", not \"%s\"", err.text, words);
}

static struct gguf *open_good(const char *path)
{
    struct gguf *g;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_assert(gguf_open(&g, path, &err) == 0, "%s", err.text);
    return g;
}

/* ---- one file ---- */

enum { SMALL = 1000, LARGE = 5000000 }; /* floats: 4 KB and 20 MB, above every piece */

static const char *write_model(uint32_t alignment)
{
    struct gguf_build b = GGUF_BUILD_INIT;
    b.alignment = alignment;
    gguf_build_u32(&b, "general.alignment", alignment);
    put_tensor(&b, "small", 1, SMALL);
    put_tensor(&b, "large", 2, LARGE);
    put_tensor(&b, "last", 3, 1);
    const char *path = path_of("model.gguf");
    cr_assert(gguf_build_write(&b, path) == 0);
    return path;
}

static const struct gguf_load_options ways[] = {
    { .read_file = false },
    { .read_file = true },
    { .read_file = true, .io = ENGINE_IO_PREAD },
};
enum { N_WAYS = sizeof(ways) / sizeof(*ways) };

Test(gguf_load, every_way_gives_the_same_data)
{
    static const uint32_t alignments[] = { 1, 8, 64 };
    for (size_t a = 0; a < sizeof(alignments) / sizeof(*alignments); a++) {
        const char *path = write_model(alignments[a]);
        for (int w = 0; w < N_WAYS; w++) {
            struct gguf *g = open_good(path);
            struct engine_err err = { .code = ENGINE_ERR_NONE };
            cr_assert(gguf_load(g, &ways[w], &err) == 0, "%s", err.text);
            expect_tensor(g, "small", 1, SMALL);
            expect_tensor(g, "large", 2, LARGE);
            expect_tensor(g, "last", 3, 1);
            uint64_t address = (uintptr_t)gguf_find_tensor(g, "large")->data;
            cr_expect(address % alignments[a] == 0);
            gguf_close(g);
        }
    }
}

Test(gguf_load, names_the_way_it_took)
{
    const char *path = write_model(32);
    static const char *const names[N_WAYS] = { "mmap", NULL, "pread" };
    for (int w = 0; w < N_WAYS; w++) {
        struct gguf *g = open_good(path);
        cr_expect(strcmp(gguf_io_name(g), "none") == 0);
        cr_assert(gguf_load(g, &ways[w], NULL) == 0);
        const char *name = gguf_io_name(g);
        if (names[w])
            cr_expect(strcmp(name, names[w]) == 0, "%s", name);
        else
            cr_expect(strcmp(name, "io_uring") == 0 || strcmp(name, "pread") == 0, "%s", name);
        gguf_close(g);
    }
}

Test(gguf_load, file_facts_are_the_files)
{
    const char *path = write_model(32);
    struct stat st;
    cr_assert(stat(path, &st) == 0);
    struct gguf *g = open_good(path);
    cr_expect(gguf_file_bytes(g) == (uint64_t)st.st_size);
    cr_expect(gguf_mtime(g) == st.st_mtim.tv_sec);
    cr_expect(gguf_data_bytes(g) == 4 * (SMALL + LARGE + 1));
    gguf_close(g);
}

Test(gguf_load, model_without_tensors_loads)
{
    struct gguf_build b = GGUF_BUILD_INIT;
    gguf_build_str(&b, "general.architecture", "none");
    const char *path = path_of("empty.gguf");
    cr_assert(gguf_build_write(&b, path) == 0);
    for (int w = 0; w < N_WAYS; w++) {
        struct gguf *g = open_good(path);
        cr_expect(gguf_load(g, &ways[w], NULL) == 0);
        cr_expect(gguf_n_tensors(g) == 0);
        gguf_close(g);
    }
}

struct progress {
    uint64_t last, total;
    uint32_t n_calls;
    bool is_ascending;
    int cancel; /* set at the first call */
    bool cancels;
};

static void on_progress(void *ctx, enum engine_phase phase, uint64_t done, uint64_t total)
{
    struct progress *p = ctx;
    p->is_ascending &= phase == ENGINE_PHASE_WEIGHTS && done >= p->last && done <= total;
    p->last = done;
    p->total = total;
    p->n_calls++;
    p->cancel = p->cancels;
}

Test(gguf_load, progress_goes_from_nothing_to_all)
{
    const char *path = write_model(32);
    for (int w = 0; w < N_WAYS; w++) {
        struct progress p = { .is_ascending = true };
        struct gguf_load_options opt = ways[w];
        opt.progress = on_progress;
        opt.progress_ctx = &p;
        struct gguf *g = open_good(path);
        cr_assert(gguf_load(g, &opt, NULL) == 0);
        cr_expect(p.is_ascending && p.n_calls >= 2);
        cr_expect(p.last == p.total && p.total >= 4 * (SMALL + LARGE + 1));
        gguf_close(g);
    }
}

Test(gguf_load, what_no_tensor_claims_is_not_read)
{
    enum { GAP = 3 << 20 };
    struct gguf_build b = GGUF_BUILD_INIT;
    put_tensor(&b, "a", 1, SMALL);
    unsigned char *gap = calloc(1, GAP);
    gguf_build_put(&b.data, gap, GAP);
    free(gap);
    put_tensor(&b, "b", 2, SMALL);
    const char *path = path_of("gap.gguf");
    cr_assert(gguf_build_write(&b, path) == 0);
    for (int w = 0; w < N_WAYS; w++) {
        struct progress p = { .is_ascending = true };
        struct gguf_load_options opt = ways[w];
        opt.progress = on_progress;
        opt.progress_ctx = &p;
        struct gguf *g = open_good(path);
        cr_assert(gguf_load(g, &opt, NULL) == 0);
        expect_tensor(g, "a", 1, SMALL);
        expect_tensor(g, "b", 2, SMALL);
        cr_expect(p.is_ascending && p.total == 8 * SMALL && p.last == p.total);
        gguf_close(g);
    }
}

/* Takes every tensor but what `keeps` names, in pieces of whole floats; `n` counts the tensors. */
struct taker {
    const char *keeps;
    uint32_t n, n_calls;
    uint64_t taken;
    bool all_there;
};

static uint64_t take_some(void *ctx, const struct gguf_tensor *t, uint64_t taken, uint64_t ready)
{
    static const char *const order[] = { "small", "large", "last" };
    struct taker *taker = ctx;
    uint64_t which = taker->n + 1;
    cr_assert(taker->n < 3 && strcmp(t->name, order[taker->n]) == 0, "%s", t->name);
    cr_assert(taken == taker->taken && taken < ready && ready <= t->bytes);
    for (uint64_t i = taken / sizeof(float); i < ready / sizeof(float); i += 1001) {
        float x;
        memcpy(&x, (const char *)t->data + i * sizeof(x), sizeof(x));
        taker->all_there = taker->all_there && x == value_of(which, i);
    }
    bool is_whole = ready == t->bytes, keeps = strcmp(t->name, taker->keeps) == 0;
    taker->n += is_whole;
    taker->n_calls++;
    /* Some is left for the next time, as of a panel whose last rows are missing. */
    uint64_t now = keeps ? 0 : is_whole ? ready : ready - 100;
    taker->taken = is_whole ? 0 : now;
    return now;
}

static struct gguf *load_taking(const char *path, int way, struct taker *taker)
{
    struct gguf *g = open_good(path);
    struct gguf_load_options opt = ways[way];
    opt.take = take_some;
    opt.take_ctx = taker;
    cr_assert(gguf_load(g, &opt, NULL) == 0);
    return g;
}

Test(gguf_load, tensors_are_offered_once_they_are_there_and_go_if_taken)
{
    const char *path = write_model(8);
    for (int w = 0; w < N_WAYS; w++) {
        struct taker taker = { .keeps = "large", .all_there = true };
        struct gguf *g = load_taking(path, w, &taker);
        cr_expect(taker.n == 3 && taker.all_there);
        cr_expect(gguf_find_tensor(g, "small")->data == NULL);
        cr_expect(gguf_find_tensor(g, "last")->data == NULL);
        expect_tensor(g, "large", 2, LARGE);
        gguf_close(g);
    }
}

/* How often it was asked to take something. */
static uint32_t calls_of_a_load(const char *path, int way)
{
    struct taker taker = { .keeps = "small", .all_there = true };
    struct gguf *g = load_taking(path, way, &taker);
    cr_expect(taker.n == 3 && taker.all_there);
    expect_tensor(g, "small", 1, SMALL);
    cr_expect(gguf_find_tensor(g, "large")->data == NULL);
    gguf_close(g);
    return taker.n_calls;
}

/* A map is touched in order.  Of what is read the first piece may come last, and then all is there at
 * once; but not time and again. */
Test(gguf_load, a_large_tensor_is_offered_piece_by_piece)
{
    const char *path = write_model(8);
    for (int w = 0; w < N_WAYS; w++) {
        uint32_t n_loads = 1, most_loads = ways[w].read_file ? 50 : 1;
        while (calls_of_a_load(path, w) <= 3 && n_loads <= most_loads)
            n_loads++;
        cr_expect(n_loads <= most_loads, "way %d", w);
    }
}

static uint64_t take_all_but_b(void *ctx, const struct gguf_tensor *t, uint64_t taken,
                               uint64_t ready)
{
    (void)ctx, (void)taken;
    return t->name[0] != 'b' ? ready : 0;
}

Test(gguf_load, what_is_kept_survives_between_neighbours_that_go)
{
    struct gguf_build b = GGUF_BUILD_INIT;
    put_tensor(&b, "a", 1, 100 * SMALL);
    put_tensor(&b, "b", 2, SMALL / 2); /* less than a page, in the midst of them */
    put_tensor(&b, "c", 3, 100 * SMALL);
    const char *path = path_of("model.gguf");
    cr_assert(gguf_build_write(&b, path) == 0);
    for (int w = 0; w < N_WAYS; w++) {
        struct gguf *g = open_good(path);
        struct gguf_load_options opt = ways[w];
        opt.take = take_all_but_b;
        cr_assert(gguf_load(g, &opt, NULL) == 0);
        expect_tensor(g, "b", 2, SMALL / 2);
        gguf_close(g);
    }
}

Test(gguf_load, cancel_stops_it)
{
    const char *path = write_model(32);
    for (int w = 0; w < N_WAYS; w++) {
        struct progress p = { .cancels = true };
        struct gguf_load_options opt = ways[w];
        opt.progress = on_progress;
        opt.progress_ctx = &p;
        opt.cancel = &p.cancel;
        struct gguf *g = open_good(path);
        struct engine_err err = { .code = ENGINE_ERR_NONE };
        cr_expect(gguf_load(g, &opt, &err) == -1);
        cr_expect(err.code == ENGINE_ERR_CANCELLED, "%s", err.text);
        cr_expect(gguf_tensor_at(g, 0)->data == NULL);
        gguf_close(g);
    }
}

Test(gguf_load, file_cut_after_opening_is_an_error)
{
    for (int w = 0; w < N_WAYS; w++) {
        const char *path = write_model(32);
        struct gguf *g = open_good(path);
        cr_assert(truncate(path, 3000000) == 0);
        struct engine_err err = { .code = ENGINE_ERR_NONE };
        cr_expect(gguf_load(g, &ways[w], &err) == -1);
        cr_expect(err.code == ENGINE_ERR_FILE, "%s", err.text);
        cr_expect(strstr(err.text, "model.gguf: the file ended at byte 3000000, though it had 20"),
                  "%s", err.text);
        gguf_close(g);
    }
}

/* ---- files that cannot be opened ---- */

Test(gguf_load, missing_file_is_named)
{
    expect_open_refused(path_of("no-such.gguf"), ENGINE_ERR_FILE,
                        "no-such.gguf: No such file or directory");
}

Test(gguf_load, only_regular_files_are_opened)
{
    expect_open_refused(folder, ENGINE_ERR_FILE, "it is not a regular file");
    const char *fifo = path_of("fifo.gguf"); /* without O_NONBLOCK this would wait for ever */
    cr_assert(mkfifo(fifo, 0600) == 0);
    expect_open_refused(fifo, ENGINE_ERR_FILE, "it is not a regular file");
}

Test(gguf_load, refusal_starts_with_the_files_name)
{
    const char *path = path_of("bad.gguf");
    struct gguf_build b = GGUF_BUILD_INIT;
    gguf_build_key(&b, "k", 99);
    gguf_build_put_u64(&b.keys, 0);
    cr_assert(gguf_build_write(&b, path) == 0);
    expect_open_refused(path, ENGINE_ERR_FILE, "bad.gguf: key \"k\": has type 99");
    cr_assert(truncate(path, 0) == 0);
    expect_open_refused(path, ENGINE_ERR_FILE, "bad.gguf: the file is empty");
}

/* A header of more than one piece must be read in several. */
Test(gguf_load, long_header_is_read_to_its_end)
{
    enum { N = 200000 };
    struct gguf_build b = GGUF_BUILD_INIT;
    const char **texts = malloc(N * sizeof(*texts));
    for (int i = 0; i < N; i++)
        texts[i] = i % 3 ? "a longer token" : "b";
    gguf_build_strings(&b, "tokens", N, texts);
    put_tensor(&b, "t", 1, 10);
    const char *path = path_of("long.gguf");
    cr_assert(gguf_build_write(&b, path) == 0);
    struct gguf *g = open_good(path);
    struct gguf_array a;
    cr_assert(gguf_get_array(g, "tokens", true, GGUF_STRING, &a, NULL) == 0 && a.n == N);
    for (int i = 0; i < N; i++)
        cr_assert(a.strings[i].len == strlen(texts[i]) &&
                  memcmp(a.strings[i].data, texts[i], a.strings[i].len) == 0);
    cr_assert(gguf_load(g, &ways[0], NULL) == 0);
    expect_tensor(g, "t", 1, 10);
    gguf_close(g);
    free(texts);
}

/* A claim of a huge array in a large file must not be believed. */
Test(gguf_load, header_has_a_limit)
{
    struct gguf_build b = GGUF_BUILD_INIT;
    gguf_build_array(&b, "k", GGUF_U8, 300 << 20, NULL, 0);
    const char *path = path_of("sparse.gguf");
    cr_assert(gguf_build_write(&b, path) == 0);
    cr_assert(truncate(path, INT64_C(1) << 40) == 0); /* holes: takes no space */
    expect_open_refused(path, ENGINE_ERR_FILE, "key \"k\": an array of 314572800 values (uint8)");
}

/* ---- split models ---- */

/* What the three parts say; a test changes it to make them disagree. */
struct split {
    uint32_t no[3], count[3];
    int32_t n_tensors;
    uint32_t alignment[3];
    const char *names[3]; /* of the tensors */
};

static const struct split good_split = { .no = { 0, 1, 2 },
                                         .count = { 3, 3, 3 },
                                         .n_tensors = 4,
                                         .alignment = { 32, 64, 1 },
                                         .names = { "a", "b", "c" } };

static const char *part_name(int i)
{
    char name[64];
    snprintf(name, sizeof(name), "m-%05d-of-00003.gguf", i + 1);
    return path_of(name);
}

static void write_split(const struct split *s)
{
    for (int i = 0; i < 3; i++) {
        struct gguf_build b = GGUF_BUILD_INIT;
        b.alignment = s->alignment[i];
        gguf_build_u32(&b, "split.no", s->no[i]);
        gguf_build_u32(&b, "split.count", s->count[i]);
        gguf_build_i32(&b, "split.tensors.count", s->n_tensors);
        gguf_build_u32(&b, "general.alignment", s->alignment[i]);
        if (i == 0)
            gguf_build_str(&b, "general.architecture", "llama");
        if (i == 1)
            put_tensor(&b, "first of b", 7, 3);
        put_tensor(&b, s->names[i], (uint64_t)i, 1000 + (uint64_t)i);
        cr_assert(gguf_build_write(&b, part_name(i)) == 0);
    }
}

Test(gguf_load, any_part_opens_all)
{
    write_split(&good_split);
    for (int named = 0; named < 3; named++) {
        for (int w = 0; w < N_WAYS; w++) {
            struct gguf *g = open_good(part_name(named));
            struct gguf_str arch;
            cr_expect(gguf_n_tensors(g) == 4);
            cr_assert(gguf_get_str(g, "general.architecture", true, &arch, NULL) == 0);
            cr_expect(arch.len == 5 && memcmp(arch.data, "llama", 5) == 0);
            cr_assert(gguf_load(g, &ways[w], NULL) == 0);
            expect_tensor(g, "a", 0, 1000);
            expect_tensor(g, "b", 1, 1001);
            expect_tensor(g, "c", 2, 1002);
            expect_tensor(g, "first of b", 7, 3);
            cr_expect(gguf_find_tensor(g, "b")->part == 1);
            gguf_close(g);
        }
    }
}

Test(gguf_load, split_model_adds_up_its_parts)
{
    write_split(&good_split);
    uint64_t sum = 0;
    for (int i = 0; i < 3; i++) {
        struct stat st;
        cr_assert(stat(part_name(i), &st) == 0);
        sum += (uint64_t)st.st_size;
    }
    struct gguf *g = open_good(part_name(1));
    cr_expect(gguf_file_bytes(g) == sum);
    cr_expect(gguf_data_bytes(g) == 4 * (1000 + 1001 + 1002 + 3));
    gguf_close(g);
}

Test(gguf_load, split_model_has_the_hash_of_the_whole)
{
    write_split(&good_split);
    struct gguf *g = open_good(part_name(0));
    uint64_t hash = gguf_hash(g);
    gguf_close(g);
    struct gguf_build b = GGUF_BUILD_INIT;
    put_tensor(&b, "a", 0, 1000);
    put_tensor(&b, "first of b", 0, 3);
    put_tensor(&b, "b", 0, 1001);
    put_tensor(&b, "c", 0, 1002);
    cr_assert(gguf_build_write(&b, path_of("whole.gguf")) == 0);
    g = open_good(path_of("whole.gguf"));
    cr_expect(gguf_hash(g) == hash);
    gguf_close(g);
}

Test(gguf_load, missing_part_is_named)
{
    write_split(&good_split);
    cr_assert(unlink(part_name(1)) == 0);
    expect_open_refused(part_name(0), ENGINE_ERR_FILE,
                        "m-00002-of-00003.gguf: No such file or directory");
    expect_open_refused(part_name(2), ENGINE_ERR_FILE,
                        "m-00002-of-00003.gguf: No such file or directory");
}

Test(gguf_load, parts_must_agree)
{
    struct split s = good_split;
    s.no[1] = 2;
    write_split(&s);
    expect_open_refused(part_name(0), ENGINE_ERR_FILE,
                        "m-00002-of-00003.gguf: says that it is part 3 of 3, but its name says "
                        "part 2 of 3");
    s = good_split;
    s.count[2] = 4;
    write_split(&s);
    expect_open_refused(part_name(0), ENGINE_ERR_FILE, "says that it is part 3 of 4, but its name");
    s = good_split;
    s.n_tensors = 5;
    write_split(&s);
    expect_open_refused(part_name(0), ENGINE_ERR_FILE,
                        "key \"split.tensors.count\": is 5, but the 3 parts have 4 tensors");
    s = good_split;
    s.no[1] = 3;
    write_split(&s);
    expect_open_refused(part_name(0), ENGINE_ERR_FILE,
                        "m-00002-of-00003.gguf: key \"split.no\": is 3, it must be 0 to 2");
    s = good_split;
    s.count[0] = 1001;
    write_split(&s);
    expect_open_refused(
        part_name(0), ENGINE_ERR_FILE,
        "m-00001-of-00003.gguf: key \"split.count\": is 1001, it must be 0 to 1000");
}

Test(gguf_load, tensor_in_two_parts_is_refused)
{
    struct split s = good_split;
    s.names[2] = "a";
    write_split(&s);
    expect_open_refused(part_name(0), ENGINE_ERR_FILE,
                        "m-00003-of-00003.gguf: tensor \"a\": is there twice");
}

Test(gguf_load, part_under_another_name_is_refused)
{
    write_split(&good_split);
    cr_assert(rename(part_name(0), path_of("renamed.gguf")) == 0);
    expect_open_refused(path_of("renamed.gguf"), ENGINE_ERR_FILE,
                        "renamed.gguf: is part 1 of 3 of a split model, so its name must end in "
                        "\"-00001-of-00003.gguf\"");
}

Test(gguf_load, truncated_part_is_named)
{
    write_split(&good_split);
    struct stat st;
    cr_assert(stat(part_name(2), &st) == 0 && truncate(part_name(2), st.st_size - 1) == 0);
    expect_open_refused(part_name(0), ENGINE_ERR_FILE,
                        "m-00003-of-00003.gguf: tensor \"c\": needs bytes");
}
