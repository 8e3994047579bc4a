/* SPDX-License-Identifier: Apache-2.0
 *
 * gguf_internal.h - what the gguf*.c files share.
 *
 *   gguf_parse.c  the header of one part: bytes -> metadata and tensor table, every check of a
 *                 single entry
 *   gguf.c        open and close, split files, the checks that need the whole table, the accessors
 *   gguf_meta.c   names -> values, conversion of numbers
 *   gguf_load.c   tensor data: map or read
 *   pack_file.c   another file with the same keys, and tensors in panels
 */
#ifndef LACUNA_ENGINE_GGUF_INTERNAL_H
#define LACUNA_ENGINE_GGUF_INTERNAL_H

#include "engine/model/gguf.h"

/* What is refused beyond the format's own rules.  Far above any real file; they bound the memory
 * and the time that a damaged or hostile one can take. */
enum {
    GGUF_MAX_HEADER_BYTES = 256 << 20, /* a vocabulary of 262k tokens takes 7 MiB */
    GGUF_MAX_KEYS = 1 << 16,
    GGUF_MAX_KEY_BYTES = (1 << 16) - 1, /* the format's rule */
    GGUF_MAX_TENSORS = 1 << 20,         /* of all parts */
    GGUF_MAX_NAME_BYTES = 255,          /* of a tensor */
    GGUF_MAX_DEPTH = 4,                 /* of arrays in arrays */
    GGUF_MAX_PARTS = 1000,              /* one open file each until loaded */
    GGUF_MAX_ALIGNMENT = 1 << 30,
    GGUF_DEFAULT_ALIGNMENT = 32,
    GGUF_PANELS_ALIGNMENT = 64, /* of tensors in panels: the kernels read whole lines */
};

/* ---- names: a hash table of borrowed names ---- */

#define GGUF_NO_INDEX UINT32_MAX

struct gguf_name {
    const char *data; /* NULL: free slot */
    uint32_t len, index;
};

struct gguf_names {
    struct gguf_name *slots;
    uint32_t mask;
    uint64_t seed; /* differs per run: a file cannot aim at one chain */
};

int gguf_names_init(struct gguf_names *names, uint64_t n); /* 0, or -1: no memory */
void gguf_names_fini(struct gguf_names *names);            /* zeroed is fine */
/* Adds name -> index; returns index, or the one that the name already has. */
uint32_t gguf_names_add(struct gguf_names *names, struct gguf_str name, uint32_t index);
uint32_t gguf_names_find(const struct gguf_names *names, struct gguf_str name); /* GGUF_NO_INDEX */

/* ---- metadata ---- */

/* One value.  A scalar is kept as an array of one element. */
struct gguf_kv {
    struct gguf_str key;
    bool is_array;
    struct gguf_array value;
    struct gguf_str scalar; /* what value.strings points at, if it is one string */
    struct gguf_str *owned; /* what value.strings points at, if they are many */
    struct gguf_str stored; /* the whole entry, as it lies in the header */
};

struct gguf_meta {
    struct gguf_kv *kv;
    uint64_t n;
    struct gguf_names names;
};

void gguf_meta_fini(struct gguf_meta *meta);
const char *gguf_value_type_name(enum gguf_type type);
uint32_t gguf_value_type_bytes(enum gguf_type type); /* 0: string or array */

/* The number under key if it is a whole one in min .. max.  label goes before the message. */
int gguf_meta_int(const struct gguf_meta *meta, const char *label, const char *key, bool required,
                  int64_t min, int64_t max, int64_t *out, struct engine_err *err);

/* ---- parts ---- */

struct gguf_part {
    char *path;  /* NULL: from memory */
    char *label; /* "model.gguf: ", printable; "" from memory */
    int fd;      /* -1: from memory, or loaded */
    uint64_t file_bytes;
    int64_t mtime;
    /* The header: [0, head_filled) is there.  From a file it is a private copy that grows as the
     * parser asks, so a file that shrinks is an error and not a SIGBUS. */
    const unsigned char *head;
    unsigned char *head_own; /* head, if it is a copy; NULL: borrowed */
    size_t head_filled;
    size_t head_cap;     /* parsing ends here: the file's end or GGUF_MAX_HEADER_BYTES */
    size_t head_end;     /* where the keys and tensors ended */
    uint64_t data_start; /* offset in the file */
    uint64_t alignment;
    uint64_t n_tensors;
    /* Tensor data once loaded: bytes [data_offset, data_offset + data_bytes) of the file. */
    void *data;
    uint64_t data_offset;
    size_t data_bytes;
};

struct gguf {
    uint32_t version;
    struct gguf_part *parts;
    uint32_t n_parts;
    struct gguf_meta meta; /* of the first part */
    struct gguf_tensor *tensors;
    uint64_t n_tensors;
    uint32_t *order; /* tensors by part and offset */
    struct gguf_names names;
    uint64_t data_bytes;
    const char *io_name;
};

/* Parses the header of g's part `index` into *meta and appends its tensors to g. */
int gguf_parse_part(struct gguf *g, uint32_t index, struct gguf_meta *meta, struct engine_err *err);

/* ---- messages ---- */

/* A name from a file, fit for a message: printable ASCII, shortened. */
struct gguf_quoted {
    char text[96];
};
struct gguf_quoted gguf_quote(struct gguf_str s);
struct gguf_str gguf_str_of(const char *text);

#endif
