/* SPDX-License-Identifier: Apache-2.0
 *
 * amx_emulated.h - the AMX variant without AMX.
 */
#ifndef LACUNA_TESTS_AMX_EMULATED_H
#define LACUNA_TESTS_AMX_EMULATED_H

#include <stdint.h>

#include "kernels/kernels.h"

/* The variant's table, for processors with AVX-512 VNNI; one thread at a time.  What the instructions would
 * refuse fails the test. */
const struct kern_table *amx_emulated(void);

/* TDPBSUD instructions that were emulated so far. */
uint32_t amx_n_products(void);

#endif
