/* SPDX-License-Identifier: Apache-2.0
 *
 * clock.h - the time that the folder's files measure with.
 */
#ifndef LACUNA_ENGINE_CLOCK_H
#define LACUNA_ENGINE_CLOCK_H

#include <stdint.h>

uint64_t engine_clock_ns(void); /* CLOCK_MONOTONIC */

#endif
