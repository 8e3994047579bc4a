/* SPDX-License-Identifier: Apache-2.0
 *
 * replace_file.h - small files that are there whole or not at all.
 */
#ifndef LACUNA_ENGINE_REPLACE_FILE_H
#define LACUNA_ENGINE_REPLACE_FILE_H

#include <sys/uio.h>

#include "engine/engine.h"

/* The file at `path` is these parts from now on; or on failure (ENGINE_ERR_FILE, _MEMORY) what it was.  Written under
 * the name with ".part" behind it. */
int replace_file(const char *path, const struct iovec *parts, uint32_t n_parts,
                 struct engine_err *err);

#endif
