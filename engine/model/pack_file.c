/* SPDX-License-Identifier: Apache-2.0
 *
 * pack_file.c - `lacuna pack`: a model as loading would lay it out in memory, in one file, so that later
 * starts only map it.
 *
 * The keys are copied byte by byte, but for those that speak of the file itself (split.*,
 * general.alignment); tensors keep names, shapes and order.  The new file is written under another
 * name beside the one that was asked for, and takes it when it is complete.
 *
 * Thread: the calling one; panels are made by a pool of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/huge.h"
#include "engine/machine.h"
#include "engine/model/gguf_internal.h"
#include "engine/model/gguf_write.h"
#include "engine/model/repack.h"
#include "engine/storage/io.h"
#include "kernels/kernels.h"

enum { ALIGNMENT = 4096 }; /* a page, and what direct reads of experts need */

struct packer {
    const struct engine_pack_options *opt;
    struct engine_err *err;
    struct gguf *g;
    struct workers *workers;
    char *part; /* the file's name until it is complete */
    int fd;
    uint8_t *panels; /* of the tensor at hand */
    size_t panels_bytes;
    uint64_t *offset; /* by tensor, of its data */
    uint64_t data_start, end;
    int stop; /* tells the loader that writing failed, or that the caller gave up */
};

/* ---- writing ---- */

static int refuse_write(const struct packer *p, const char *what)
{
    return engine_fail(p->err, ENGINE_ERR_IO, "%s: %s failed: %s", p->opt->out, what,
                       io_errno_text(errno));
}

static int write_all(const struct packer *p, const void *data, size_t n, uint64_t at)
{
    for (size_t done = 0; done < n;) {
        ssize_t rc = pwrite(p->fd, (const char *)data + done, n - done, (off_t)(at + done));
        if (rc < 0 && errno == EINTR)
            continue;
        if (rc == 0)
            errno = EIO;
        if (rc <= 0)
            return refuse_write(p, "writing");
        done += (size_t)rc;
    }
    return 0;
}

/* ---- the header ---- */

static bool is_of_the_file(struct gguf_str key)
{
    static const char alignment[] = "general.alignment", split[] = "split.";
    return (key.len == sizeof(alignment) - 1 && memcmp(key.data, alignment, key.len) == 0) ||
           (key.len >= sizeof(split) - 1 && memcmp(key.data, split, sizeof(split) - 1) == 0);
}

static void put_keys(FILE *out, const struct gguf_meta *meta)
{
    for (uint64_t i = 0; i < meta->n; i++)
        if (!is_of_the_file(meta->kv[i].key))
            gguf_put(out, meta->kv[i].stored.data, meta->kv[i].stored.len);
    gguf_put_u32_key(out, "general.alignment", ALIGNMENT);
    gguf_put_u32_key(out, GGUF_PANELS_KEY, KERN_PANELS_VERSION);
}

static uint64_t n_keys(const struct gguf_meta *meta)
{
    uint64_t n = 2;
    for (uint64_t i = 0; i < meta->n; i++)
        n += !is_of_the_file(meta->kv[i].key);
    return n;
}

static uint64_t aligned(uint64_t at)
{
    return (at + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Their data is written in the order in which it is loaded. */
static void place_tensors(struct packer *p)
{
    uint64_t offset = 0;
    for (uint64_t i = 0; i < p->g->n_tensors; i++) {
        p->offset[p->g->order[i]] = offset;
        offset = aligned(offset + repack_memory_bytes(&p->g->tensors[p->g->order[i]]));
    }
}

static void put_tensors(FILE *out, const struct packer *p)
{
    for (uint64_t i = 0; i < p->g->n_tensors; i++) {
        const struct gguf_tensor *t = &p->g->tensors[i];
        gguf_put_tensor(out, t->name, t->n_dims, t->ne, t->type + GGUF_LAYOUT * t->target,
                        p->offset[i]);
    }
}

static int write_header(struct packer *p)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    if (!out)
        return engine_fail(p->err, ENGINE_ERR_MEMORY, "no memory for the header");
    gguf_put_header(out, p->g->n_tensors, n_keys(&p->g->meta));
    put_keys(out, &p->g->meta);
    put_tensors(out, p);
    bool is_whole = !ferror(out);
    is_whole = fclose(out) == 0 && is_whole;
    int rc = is_whole ? write_all(p, text, len, 0)
                      : engine_fail(p->err, ENGINE_ERR_MEMORY, "no memory for the header");
    free(text);
    p->data_start = aligned(len);
    p->end = p->data_start;
    return rc;
}

/* ---- tensors ---- */

static bool is_cancelled(const struct packer *p)
{
    return p->opt->cancel && __atomic_load_n(p->opt->cancel, __ATOMIC_RELAXED);
}

/* For gguf_load: everything is taken, each tensor at once. */
static uint64_t write_tensor(void *ctx, const struct gguf_tensor *t, uint64_t taken, uint64_t ready)
{
    struct packer *p = ctx;
    const void *data = t->data;
    if (ready < t->bytes)
        return taken;
    uint64_t bytes = repack_memory_bytes(t);
    if (!p->stop && is_cancelled(p)) {
        engine_fail(p->err, ENGINE_ERR_CANCELLED, "packing was cancelled");
        p->stop = 1;
    }
    if (p->stop)
        return t->bytes;
    if (repack_wants(t)) {
        repack_make(p->workers, t, 0, t->bytes, p->panels);
        data = p->panels;
    }
    uint64_t at = p->data_start + p->offset[t - p->g->tensors];
    if (write_all(p, data, bytes, at) != 0)
        p->stop = 1;
    p->end = aligned(at + bytes);
    return t->bytes;
}

/* Room for the largest tensor in panels; refuses what there is nothing to do for. */
static int plan(struct packer *p)
{
    struct repack_rules rules = { .skips_zeros = false };
    repack_choose(p->g, &rules);
    p->offset = calloc(p->g->n_tensors + 1, sizeof(*p->offset));
    if (!p->offset)
        return engine_fail(p->err, ENGINE_ERR_MEMORY, "no memory for the list of tensors");
    if (gguf_has(p->g, GGUF_PANELS_KEY))
        return engine_fail(p->err, ENGINE_ERR_INPUT, "%s is packed already", p->opt->in);
    for (uint64_t i = 0; i < p->g->n_tensors; i++) {
        const struct gguf_tensor *t = &p->g->tensors[i];
        if (t->bytes == 0)
            return engine_fail(p->err, ENGINE_ERR_UNSUPPORTED,
                               "tensor \"%s\" has type %u, which is unknown", t->name, t->type);
        if (repack_wants(t) && repack_bytes(t) > p->panels_bytes)
            p->panels_bytes = repack_bytes(t);
    }
    if (p->panels_bytes > 0 && !(p->panels = huge_alloc(p->panels_bytes)))
        return engine_fail(p->err, ENGINE_ERR_MEMORY, "no memory for %zu bytes of panels",
                           p->panels_bytes);
    place_tensors(p);
    return 0;
}

/* ---- the file ---- */

/* No part of the model may be replaced by what is made of it. */
static int check_other_file(const struct packer *p)
{
    struct stat in, out;
    if (stat(p->opt->out, &out) != 0)
        return 0;
    for (uint32_t i = 0; i < p->g->n_parts; i++)
        if (fstat(p->g->parts[i].fd, &in) == 0 && in.st_dev == out.st_dev &&
            in.st_ino == out.st_ino)
            return engine_fail(p->err, ENGINE_ERR_OPTION, "%s is the model itself", p->opt->out);
    return 0;
}

/* A name that no other file has; who may read the model may read this. */
static int open_part(struct packer *p)
{
    struct stat in;
    if (asprintf(&p->part, "%s.XXXXXX", p->opt->out) < 0) {
        p->part = NULL;
        return engine_fail(p->err, ENGINE_ERR_MEMORY, "no memory for a name");
    }
    p->fd = mkostemp(p->part, O_CLOEXEC);
    if (p->fd < 0)
        return refuse_write(p, "opening");
    if (fstat(p->g->parts[0].fd, &in) == 0 && fchmod(p->fd, in.st_mode & 0777) != 0)
        return refuse_write(p, "setting its mode");
    return 0;
}

static int write_parts(struct packer *p)
{
    struct gguf_load_options load = { .progress = p->opt->progress,
                                      .progress_ctx = p->opt->progress_ctx,
                                      .cancel = &p->stop,
                                      .take = write_tensor,
                                      .take_ctx = p };
    struct engine_err err = { 0 };
    if (write_header(p) != 0)
        return -1;
    int rc = gguf_load(p->g, &load, &err);
    if (p->stop)
        return -1; /* p->err says why */
    return rc == 0 ? 0 : engine_fail(p->err, err.code, "%s", err.text);
}

static int complete(struct packer *p)
{
    /* The last tensor's padding, too: what maps the file maps whole pages. */
    if (ftruncate(p->fd, (off_t)p->end) != 0 || fsync(p->fd) != 0)
        return refuse_write(p, "writing");
    if (rename(p->part, p->opt->out) != 0)
        return refuse_write(p, "renaming");
    return 0;
}

static void packer_fini(struct packer *p, bool is_complete)
{
    if (p->fd >= 0)
        close(p->fd);
    if (p->fd >= 0 && !is_complete)
        unlink(p->part);
    free(p->part);
    free(p->offset);
    huge_free(p->panels, p->panels_bytes);
    workers_close(p->workers);
    gguf_close(p->g);
}

int engine_pack(const struct engine_pack_options *opt, struct engine_err *err)
{
    struct packer p = { .opt = opt, .err = err, .fd = -1 };
    uint32_t n_threads = opt->n_threads ? opt->n_threads : machine_cores();
    bool is_complete = gguf_open(&p.g, opt->in, err) == 0 && check_other_file(&p) == 0 &&
                       plan(&p) == 0 && workers_open(&p.workers, n_threads, false, err) == 0 &&
                       open_part(&p) == 0 && write_parts(&p) == 0 && complete(&p) == 0;
    packer_fini(&p, is_complete);
    return is_complete ? 0 : -1;
}
