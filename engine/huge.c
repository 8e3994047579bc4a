/* SPDX-License-Identifier: Apache-2.0
 *
 * huge.c - mmap and madvise for memory without a file.
 */
#include "engine/huge.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HUGE_PAGE_BYTES = 2 << 20 };

static size_t whole_pages(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

void *huge_alloc(size_t bytes)
{
    size_t with_start;
    if (__builtin_add_overflow(whole_pages(bytes), (size_t)HUGE_PAGE_BYTES, &with_start))
        return NULL;
    char *mem = mmap(NULL, with_start, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mem == MAP_FAILED)
        return NULL;
    size_t before = (size_t)(-(uintptr_t)mem) % HUGE_PAGE_BYTES;
    size_t behind = with_start - before - whole_pages(bytes);
    if (before > 0)
        munmap(mem, before);
    if (behind > 0)
        munmap(mem + before + whole_pages(bytes), behind);
    madvise(mem + before, bytes, MADV_HUGEPAGE); /* a wish */
    return mem + before;
}

void huge_free(void *mem, size_t bytes)
{
    if (mem)
        munmap(mem, whole_pages(bytes));
}

void huge_drop(void *mem, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)mem + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)mem + bytes) / page * page;
    if (begin < end)
        madvise((void *)begin, end - begin, MADV_DONTNEED); /* a wish */
}
