/* SPDX-License-Identifier: Apache-2.0
 *
 * machine.h - what this process may use of the machine: cores and memory, within its affinity mask
 * and control groups (v1 and v2).
 */
#ifndef LACUNA_ENGINE_MACHINE_H
#define LACUNA_ENGINE_MACHINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* At least 1. */
uint32_t machine_cores(void);

/* Of the affinity mask alone: what machine_pin can choose from.  At least 1. */
uint32_t machine_affinity_cores(void);

/* Keeps a thread on one core: the index-th of those it may use now, in ascending order, but the second hardware
 * threads of cores behind all first ones.  Past the last it begins anew.  0 or an errno. */
int machine_pin(pthread_t thread, uint32_t index);

/* Bytes that can still be taken: the least of MemAvailable and what each control group leaves. */
uint64_t machine_memory_available(void);

/* For tests: the smallest limit named by a file `limit_file` in the folder root/path or one above
 * it; UINT64_MAX if there is none.  "max" and numbers of 2^62 and above mean no limit. */
uint64_t machine_cgroup_limit(const char *root, const char *path, const char *limit_file);

#endif
