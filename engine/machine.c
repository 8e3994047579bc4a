/* SPDX-License-Identifier: Apache-2.0
 *
 * machine.c - reads /proc, /sys and the control group files.  A file that is not there sets no limit.
 */
#include "engine/machine.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CGROUP_ROOT "/sys/fs/cgroup"
#define NO_LIMIT UINT64_MAX

enum { PATH_CAP = 1024 };

/* The first line of a file; false if it cannot be read. */
static bool read_line(const char *path, char *line, size_t cap)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool ok = fgets(line, (int)cap, f) != NULL;
    fclose(f);
    return ok;
}

static uint64_t parse_limit(const char *line)
{
    uint64_t v;
    if (sscanf(line, "%" SCNu64, &v) != 1 || v >= (uint64_t)1 << 62)
        return NO_LIMIT;
    return v;
}

static uint64_t read_limit(const char *dir, const char *name)
{
    char path[PATH_CAP + 64], line[128];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return read_line(path, line, sizeof(line)) ? parse_limit(line) : NO_LIMIT;
}

/* Calls fn for root/path and every folder above it down to root itself. */
static void walk_up(const char *root, const char *path, void (*fn)(void *ctx, const char *dir),
                    void *ctx)
{
    char dir[PATH_CAP];
    size_t root_len = strlen(root);
    if ((size_t)snprintf(dir, sizeof(dir), "%s%s", root, path) >= sizeof(dir))
        return;
    for (;;) {
        fn(ctx, dir);
        char *slash = strrchr(dir, '/');
        if (!slash || (size_t)(slash - dir) < root_len)
            return;
        *slash = '\0';
    }
}

struct limit_search {
    const char *name;
    uint64_t least;
};

static void look_for_limit(void *ctx, const char *dir)
{
    struct limit_search *s = ctx;
    uint64_t v = read_limit(dir, s->name);
    s->least = v < s->least ? v : s->least;
}

uint64_t machine_cgroup_limit(const char *root, const char *path, const char *limit_file)
{
    struct limit_search s = { limit_file, NO_LIMIT };
    walk_up(root, path, look_for_limit, &s);
    return s.least;
}

/* What one folder leaves: its limit less its use, file cache that can be dropped given back. */
struct memory_search {
    const char *limit, *usage;
    uint64_t least;
};

static uint64_t inactive_file(const char *dir)
{
    char path[PATH_CAP + 64], key[64];
    uint64_t v, found = 0;
    snprintf(path, sizeof(path), "%s/memory.stat", dir);
    FILE *f = fopen(path, "re");
    while (f && fscanf(f, "%63s %" SCNu64, key, &v) == 2)
        if (strcmp(key, "inactive_file") == 0 || strcmp(key, "active_file") == 0)
            found += v;
    if (f)
        fclose(f);
    return found;
}

static void look_for_memory(void *ctx, const char *dir)
{
    struct memory_search *s = ctx;
    uint64_t limit = read_limit(dir, s->limit), used = read_limit(dir, s->usage);
    if (limit == NO_LIMIT)
        return;
    if (used != NO_LIMIT) {
        uint64_t cache = inactive_file(dir);
        used -= cache < used ? cache : used;
        limit -= used < limit ? used : limit;
    }
    s->least = limit < s->least ? limit : s->least;
}

/* The share of cores a folder allows, in thousandths. */
static void look_for_cpu(void *ctx, const char *dir)
{
    uint64_t *least = ctx;
    char path[PATH_CAP + 64], line[128];
    uint64_t quota = NO_LIMIT, period = 0;
    snprintf(path, sizeof(path), "%s/cpu.max", dir);
    if (read_line(path, line, sizeof(line))) {
        if (sscanf(line, "%" SCNu64 " %" SCNu64, &quota, &period) != 2)
            return;
    } else {
        quota = read_limit(dir, "cpu.cfs_quota_us"); /* -1, which is no number here, if unlimited */
        period = read_limit(dir, "cpu.cfs_period_us");
    }
    if (quota == NO_LIMIT || period == 0 || period == NO_LIMIT)
        return;
    uint64_t share = quota * 1000 / period;
    *least = share < *least ? share : *least;
}

/* Is word one of the comma-separated names?  ("cpu" is none of "cpuset,memory".) */
static bool lists(const char *names, const char *word)
{
    size_t len = strlen(word);
    for (const char *at = names; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, word, len) == 0 && (at[len] == ',' || at[len] == '\0'))
            return true;
    }
    return false;
}

/* Walks this process's control groups: the v2 one, and v1's for the named controller. */
static void walk_own(const char *controller, void (*fn)(void *ctx, const char *dir), void *ctx)
{
    char line[PATH_CAP], root[256];
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof(line), f)) {
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        names++;
        path[strcspn(path, "\n")] = '\0';
        if (*names == '\0')
            snprintf(root, sizeof(root), "%s", CGROUP_ROOT);
        else if (lists(names, controller))
            snprintf(root, sizeof(root), "%s/%s", CGROUP_ROOT, controller);
        else
            continue;
        walk_up(root, strcmp(path, "/") == 0 ? "" : path, fn, ctx);
    }
    if (f)
        fclose(f);
}

uint32_t machine_affinity_cores(void)
{
    cpu_set_t set;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        return (uint32_t)CPU_COUNT(&set);
    return online > 0 ? (uint32_t)online : 1;
}

uint32_t machine_cores(void)
{
    uint64_t share = NO_LIMIT, n = machine_affinity_cores();
    walk_own("cpu", look_for_cpu, &share);
    if (share != NO_LIMIT && (share + 999) / 1000 < n)
        n = (share + 999) / 1000;
    return n > 0 ? (uint32_t)n : 1; /* a quota of nothing */
}

/* Does a core have a hardware thread of a lower number in the set? */
static bool is_second_thread(int cpu, const cpu_set_t *set)
{
    char path[128], line[128];
    int first = cpu;
    snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
             cpu);
    if (!read_line(path, line, sizeof(line)) || sscanf(line, "%d", &first) != 1)
        return false;
    return first >= 0 && first < cpu && CPU_ISSET((size_t)first, set);
}

/* The index-th of the n cores of a set in the order of machine_pin. */
static int core_at(const cpu_set_t *set, uint32_t index)
{
    for (int second = 0; second < 2; second++)
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET((size_t)cpu, set) && is_second_thread(cpu, set) == second && index-- == 0)
                return cpu;
    return -1;
}

int machine_pin(pthread_t thread, uint32_t index)
{
    cpu_set_t set, one;
    int rc = pthread_getaffinity_np(thread, sizeof(set), &set);
    if (rc != 0)
        return rc;
    CPU_ZERO(&one);
    CPU_SET((size_t)core_at(&set, index % (uint32_t)CPU_COUNT(&set)), &one);
    return pthread_setaffinity_np(thread, sizeof(one), &one);
}

static uint64_t mem_available(void)
{
    char line[256];
    uint64_t kib = NO_LIMIT >> 10;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib << 10;
}

uint64_t machine_memory_available(void)
{
    struct memory_search v2 = { "memory.max", "memory.current", NO_LIMIT };
    struct memory_search v1 = { "memory.limit_in_bytes", "memory.usage_in_bytes", NO_LIMIT };
    uint64_t least = mem_available();
    walk_own("memory", look_for_memory, &v2);
    walk_own("memory", look_for_memory, &v1);
    least = v2.least < least ? v2.least : least;
    return v1.least < least ? v1.least : least;
}
