/* SPDX-License-Identifier: Apache-2.0
 *
 * io_pread.c - attempts that are calls of pread.
 */
#include "engine/storage/io_internal.h"

#include <errno.h>
#include <unistd.h>

int64_t io_pread_attempt(const struct io_read *r, size_t bytes)
{
    ssize_t n = pread(r->fd, (char *)r->dst + r->done_bytes, bytes,
                      (off_t)(r->offset + r->done_bytes));
    return n < 0 ? -(int64_t)errno : (int64_t)n;
}

const struct io_backend io_backend_pread = {
    .name = "pread",
    .start = io_pool_start,
    .collect = io_pool_collect,
    .close = io_pool_close,
};
