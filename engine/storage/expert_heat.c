/* SPDX-License-Identifier: Apache-2.0
 *
 * expert_heat.c - a header, the heats, a hash of both.  In the byte order of the machine: another's file looks
 * damaged, and costs a cold start.
 */
#include "engine/storage/expert_heat.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/hash.h"
#include "engine/storage/io.h"
#include "engine/storage/replace_file.h"

static const char magic[8] = "LACHEAT";

struct header {
    char magic[sizeof(magic)];
    struct expert_heat_model model;
    uint64_t hash; /* of the heats, seeded with the hash of what is above */
};

static size_t n_heats(const struct expert_heat_model *model)
{
    return (size_t)model->n_layers * model->n_experts;
}

static struct header make_header(const struct expert_heat_model *model, const float *heat)
{
    struct header h = { .model = *model };
    memcpy(h.magic, magic, sizeof(magic));
    uint64_t seed = hash_bytes(&h, offsetof(struct header, hash), 0);
    h.hash = hash_bytes(heat, n_heats(model) * sizeof(*heat), seed);
    return h;
}

static int read_all(FILE *f, const char *path, const struct expert_heat_model *model, float *heat,
                    struct engine_err *err)
{
    struct header h, expected;
    size_t n = n_heats(model);
    size_t got = fread(&h, 1, sizeof(h), f);
    if (got == 0 && feof(f))
        return 1;
    if (got != sizeof(h) || memcmp(h.magic, magic, sizeof(magic)) != 0)
        return engine_fail(err, ENGINE_ERR_OPTION, "%s: no file of expert heats", path);
    if (memcmp(&h.model, model, sizeof(*model)) != 0)
        return engine_fail(err, ENGINE_ERR_FILE, "%s: expert heats of another model", path);
    if (fread(heat, sizeof(*heat), n, f) != n || fgetc(f) != EOF)
        return engine_fail(err, ENGINE_ERR_FILE, "%s: %zu expert heats expected", path, n);
    expected = make_header(model, heat);
    if (h.hash != expected.hash)
        return engine_fail(err, ENGINE_ERR_FILE, "%s: damaged (hash of its bytes)", path);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(heat[i]) || heat[i] < 0)
            return engine_fail(err, ENGINE_ERR_FILE, "%s: heat %zu is no number of tokens", path,
                               i);
    return 0;
}

int expert_heat_read(const char *path, const struct expert_heat_model *model, float *heat,
                     struct engine_err *err)
{
    FILE *f = fopen(path, "rbe");
    if (!f && errno == ENOENT)
        return 1;
    if (!f)
        return engine_fail(err, ENGINE_ERR_FILE, "%s: %s", path, io_errno_text(errno));
    int rc = read_all(f, path, model, heat, err);
    fclose(f);
    return rc;
}

int expert_heat_write(const char *path, const struct expert_heat_model *model, const float *heat,
                      struct engine_err *err)
{
    struct header h = make_header(model, heat);
    const struct iovec parts[] = { { &h, sizeof(h) },
                                   { (void *)(uintptr_t)heat, n_heats(model) * sizeof(*heat) } };
    return replace_file(path, parts, sizeof(parts) / sizeof(parts[0]), err);
}
