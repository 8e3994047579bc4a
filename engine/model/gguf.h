/* SPDX-License-Identifier: Apache-2.0
 *
 * gguf.h - reader of GGUF files, versions 2 and 3, little endian, split files included.
 *
 * Nothing in the file is trusted: every length, count, product and offset is checked before use,
 * and a refusal names the key or tensor, what was found and what the limit is.
 *
 * A file that `lacuna pack` wrote (pack_file.c) differs in two ways only: the types of tensors in
 * panels are GGUF_LAYOUT * KERN_LAYOUT_PANELS + the type, so that no other program takes them for rows, and
 * the key GGUF_PANELS_KEY has the version of kernels/packed.h, KERN_PANELS_VERSION.
 *
 * Opening reads the headers of all parts; gguf_load then maps or reads the tensor data.
 * Read-only after that: any thread may look.
 */
#ifndef LACUNA_ENGINE_GGUF_H
#define LACUNA_ENGINE_GGUF_H

#include "engine/engine.h"
#include "kernels/kernels.h"

enum gguf_type {
    GGUF_U8 = 0,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
};

enum { GGUF_LAYOUT = 1 << 16 };
#define GGUF_PANELS_KEY "lacuna.panels"

struct gguf;

/* A string in the file's memory: not NUL-terminated, may hold any byte. */
struct gguf_str {
    const char *data;
    size_t len;
};

bool gguf_str_is(struct gguf_str s, const char *text);

struct gguf_tensor {
    const char *name; /* NUL-terminated copy, holds no NUL */
    uint32_t type;    /* enum kern_type, or a number kern_type_info does not support */
    /* Of its ne[2] matrices in the file: rows, but for what `lacuna pack` wrote. */
    enum kern_layout layout;
    enum kern_layout target; /* in memory: the file's, unless gguf_aim said another */
    enum kern_layout twin;   /* and once more so, beside it; the same as target: only once */
    uint32_t n_dims;         /* 1 .. 4 */
    uint64_t ne[4];          /* fastest dimension first; unused are 1 */
    uint64_t bytes; /* 0 if nobody knows the type: accepted here, refused when weights are loaded */
    uint64_t offset; /* in its part's file */
    uint32_t part;
    bool on_demand; /* gguf_load leaves it in the file: see gguf_leave */
    /* NULL before gguf_load, if bytes is 0, if it was taken, or on demand; aligned as the offset is, so
     * perhaps not at all (general.alignment 1). */
    const void *data;
};

/* Opens path and, if it is one part of a split model, all other parts beside it.
 * Does not read tensor data. */
int gguf_open(struct gguf **out, const char *path, struct engine_err *err);
void gguf_close(struct gguf *g); /* NULL is fine; unmaps or frees the data */

/* The same checks over a header in memory, for tests and fuzzing.  buf is borrowed and must outlive
 * g; file_bytes is the size to check tensor offsets against (>= len). */
int gguf_open_memory(struct gguf **out, const void *buf, size_t len, uint64_t file_bytes,
                     struct engine_err *err);

struct gguf_load_options {
    bool read_file; /* read into 2 MiB pages; else map */
    enum engine_io io;
    engine_progress_fn *progress;
    void *progress_ctx;
    const volatile int *cancel;
    /* Called in the order of the file, on the calling thread, as a tensor's data comes: of its bytes the
     * first `ready` are there, and the first `taken` were taken before and must not be read again.
     * Returns how many are taken now, perhaps no more than before: their memory is given back.  Once all
     * are ready, a tensor must be taken whole, and its pointer is NULL from then on, or not at all. */
    uint64_t (*take)(void *ctx, const struct gguf_tensor *t, uint64_t taken, uint64_t ready);
    void *take_ctx;
};
/* Makes the data pointer of every tensor valid that `take` does not take.  With a map, the pages are also touched once, so that
 * the first step does not wait for the disk.  Once only; after a failure only gguf_close is left.
 */
int gguf_load(struct gguf *g, const struct gguf_load_options *opt, struct engine_err *err);

uint32_t gguf_version(const struct gguf *g);
uint64_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint64_t i);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *g,
                                           const char *name); /* or NULL; O(1) */
/* Before gguf_load: a tensor whose parts somebody reads from the file when they are wanted (experts.h). */
void gguf_leave(struct gguf *g, const struct gguf_tensor *t);
/* Before gguf_load: how a tensor whose layout in the file is rows shall lie in memory; twin: and once more. */
void gguf_aim(struct gguf *g, const struct gguf_tensor *t, enum kern_layout target,
              enum kern_layout twin);
uint64_t gguf_file_bytes(const struct gguf *g); /* all parts */
uint64_t gguf_data_bytes(const struct gguf *g); /* sum of the tensors */
int64_t gguf_mtime(const struct gguf *g);
uint64_t gguf_hash(const struct gguf *g); /* XXH3 of the tensor table: names, types, shapes */
const char *
gguf_io_name(const struct gguf *g); /* "mmap", "io_uring", "pread", or "none" before load */

/* ---- metadata ---- */

uint64_t gguf_n_keys(const struct gguf *g);
struct gguf_str gguf_key_at(const struct gguf *g, uint64_t i, enum gguf_type *type);

bool gguf_has(const struct gguf *g, const char *key);

/* Each returns 0 and sets *out, or returns -1: with *err untouched if the key is absent and
 * `required` is false (*out then keeps its value: set the default before), else with *err naming
 * the key. Integers are converted between widths and signs when the value fits, and refused when
 * not. A scalar where an array of equal values was stored is accepted by gguf_get_u32 (and the
 * first used). */
int gguf_get_u32(const struct gguf *g, const char *key, bool required, uint32_t *out,
                 struct engine_err *err);
int gguf_get_i32(const struct gguf *g, const char *key, bool required, int32_t *out,
                 struct engine_err *err);
int gguf_get_f32(const struct gguf *g, const char *key, bool required, float *out,
                 struct engine_err *err); /* finite only */
int gguf_get_bool(const struct gguf *g, const char *key, bool required, bool *out,
                  struct engine_err *err);
int gguf_get_str(const struct gguf *g, const char *key, bool required, struct gguf_str *out,
                 struct engine_err *err);

/* Arrays.  The handle points into g.  An array of any integer type may be asked for as any other if
 * all elements fit it, float32 and float64 as each other: read numbers with the two functions
 * below, or look at out->type, which is the stored one.  Of arrays in arrays only n is told. */
struct gguf_array {
    enum gguf_type type; /* of the elements */
    uint64_t n;
    const void *data;               /* packed elements, unaligned; NULL for strings */
    const struct gguf_str *strings; /* for GGUF_STRING */
};
int gguf_get_array(const struct gguf *g, const char *key, bool required, enum gguf_type type,
                   struct gguf_array *out, struct engine_err *err);
/* Element i of an array of any integer or float type, converted.  i < n. */
int64_t gguf_array_int(const struct gguf_array *a, uint64_t i);
double gguf_array_float(const struct gguf_array *a, uint64_t i);

#endif
