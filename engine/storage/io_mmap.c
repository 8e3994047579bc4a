/* SPDX-License-Identifier: Apache-2.0
 *
 * io_mmap.c - attempts that are copies from a mapping of the file, which go through the page cache.
 *
 * What one process has read, others find there, and the next start.  A mapping outlives neither its attempt
 * nor the file: one that became shorter, or whose storage fails, would end whoever touches the mapping
 * (SIGBUS), so the kernel is asked for the copy (process_vm_readv, of our own memory) and says EFAULT.
 */
#include "engine/storage/io_internal.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int64_t copy_own(void *dst, void *src, size_t bytes)
{
    struct iovec to = { dst, bytes }, from = { src, bytes };
    ssize_t n = process_vm_readv(getpid(), &to, 1, &from, 1, 0);
    return n < 0 ? -(int64_t)errno : (int64_t)n;
}

/* Bytes of the file from `offset` on; -errno. */
static int64_t bytes_behind(int fd, uint64_t offset)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -(int64_t)errno;
    return (uint64_t)st.st_size > offset ? (int64_t)((uint64_t)st.st_size - offset) : 0;
}

int64_t io_mmap_copy(int fd, uint64_t offset, size_t bytes, void *dst)
{
    size_t skip = (size_t)(offset % (uint64_t)sysconf(_SC_PAGESIZE));
    char *map = mmap(NULL, skip + bytes, PROT_READ, MAP_SHARED, fd, (off_t)(offset - skip));
    if (map == MAP_FAILED)
        return -(int64_t)errno;
    /* All of it is read at once; by touching it, it would be little by little. */
    madvise(map, skip + bytes, MADV_WILLNEED);
    int64_t copied = copy_own(dst, map + skip, bytes);
    munmap(map, skip + bytes);
    return copied == -EFAULT ? -EIO : copied;
}

int64_t io_mmap_attempt(const struct io_read *r, size_t bytes)
{
    uint64_t offset = r->offset + r->done_bytes;
    int64_t left = bytes_behind(r->fd, offset);
    if (left <= 0)
        return left;
    int64_t n = io_mmap_copy(r->fd, offset, (uint64_t)left < bytes ? (size_t)left : bytes,
                             (char *)r->dst + r->done_bytes);
    /* What a file has lost meanwhile looks like zeros up to the end of its last page. */
    left = bytes_behind(r->fd, offset);
    return n < left || n < 0 ? n : left;
}

int io_mmap_probe(char reason[IO_REASON_BYTES])
{
    char a = 0, b = 1;
    int64_t n = copy_own(&a, &b, 1);
    if (n == 1)
        return 0;
    snprintf(reason, IO_REASON_BYTES, "process_vm_readv: %s", io_errno_text((int)-n));
    return -1;
}

const struct io_backend io_backend_mmap = {
    .name = "mmap",
    .start = io_pool_start,
    .collect = io_pool_collect,
    .close = io_pool_close,
};
