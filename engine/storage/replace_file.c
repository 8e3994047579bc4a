/* SPDX-License-Identifier: Apache-2.0
 *
 * replace_file.c - written beside the file, which it takes the name of once it is complete.
 */
#include "engine/storage/replace_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/storage/io.h"

/* 0, or errno. */
static int write_parts(const char *path, const struct iovec *parts, uint32_t n_parts)
{
    FILE *f = fopen(path, "wbe");
    int error = 0;
    if (!f)
        return errno;
    for (uint32_t i = 0; i < n_parts && !error; i++)
        if (fwrite(parts[i].iov_base, 1, parts[i].iov_len, f) != parts[i].iov_len)
            error = errno ? errno : EIO;
    if (fclose(f) != 0 && !error)
        error = errno;
    return error;
}

int replace_file(const char *path, const struct iovec *parts, uint32_t n_parts,
                 struct engine_err *err)
{
    char *part;
    if (asprintf(&part, "%s.part", path) < 0)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for a file name");
    int error = write_parts(part, parts, n_parts);
    if (!error && rename(part, path) != 0)
        error = errno;
    if (error)
        remove(part);
    free(part);
    return error ? engine_fail(err, ENGINE_ERR_FILE, "%s: %s", path, io_errno_text(error)) : 0;
}
