/* SPDX-License-Identifier: Apache-2.0
 *
 * hang.c - storage that does not answer, for a program that reads with pread: preloaded, it holds each read
 * while the file exists that LACUNA_TEST_HANG names.
 */
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

ssize_t pread(int fd, void *buf, size_t n, off_t at)
{
    const char *path = getenv("LACUNA_TEST_HANG");
    while (path && access(path, F_OK) == 0)
        usleep(10000);
    return syscall(SYS_pread64, fd, buf, n, at);
}

ssize_t pread64(int fd, void *buf, size_t n, off_t at)
{
    return pread(fd, buf, n, at);
}
