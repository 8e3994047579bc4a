/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_sidecar.c - the reader of calibrations over arbitrary bytes: whatever it accepts can be used.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/sparsity/sparsity.h"

enum { N_LAYERS = 2, N_FF = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void use_point(struct sparsity *s, uint32_t i)
{
    const struct operating_point *p = s->points[i];
    require(sparsity_find(s, p->info.name) == (int)i);
    require(p->info.same_top >= 0 && p->info.same_top <= 1 && p->info.weights <= 1);
    for (uint32_t l = 0; l < N_LAYERS; l++)
        for (uint32_t site = 0; site < SPARSITY_SITES; site++)
            require(p->layer[l].limit[site] >= 0 && isfinite(p->layer[l].limit[site]));
}

static void use(struct sparsity *s)
{
    require(sparsity_is_calibrated(s) && s->n_points >= 1);
    for (uint32_t i = 0; i < s->n_points; i++)
        use_point(s, i);
    for (uint32_t site = 0; site < SPARSITY_SITES; site++)
        for (double share = 0; share < 1; share += 0.01)
            require(sparsity_limit(s, site, N_LAYERS - 1, share) <=
                    sparsity_limit(s, site, N_LAYERS - 1, share + 0.01));
    require(sparsity_find(s, "0.5") >= 0 && sparsity_find(s, "1") >= 0);
    if (s->n_points < SPARSITY_MAX_POINTS)
        require(sparsity_parse(s, "up=0.5+down=0.3", NULL) > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct layer_shape layers[N_LAYERS];
    static const struct arch arch;
    struct model_shape shape = {
        .arch = &arch, .n_layers = N_LAYERS, .n_ff = N_FF, .layer = layers
    };
    struct sparsity *s;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    char path[64];
    int fd = memfd_create("sidecar", MFD_CLOEXEC);
    require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    require(sparsity_open(&s, &shape, NULL) == 0);
    int rc = sidecar_read(s, path, &err);
    require((rc == 0) == (err.code == ENGINE_ERR_NONE));
    if (rc == 0)
        use(s);
    sparsity_close(s);
    close(fd);
    return 0;
}
