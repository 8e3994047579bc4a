/* SPDX-License-Identifier: Apache-2.0
 *
 * metrics_process.c - what the operating system and the allocator say of this process.
 *
 * Scrapes may come every 50 ms: these numbers cost the most of one, so they are kept for a second.
 */
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "server/metrics_store.h"

const char *const metrics_memory_names[6] = { "allocated", "active", "metadata",
                                              "resident",  "mapped", "retained" };

static void read_sizes(struct metrics_process *p)
{
    unsigned long long size = 0, resident = 0;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f)
        return;
    if (fscanf(f, "%llu %llu", &size, &resident) == 2) {
        p->virtual_bytes = size * page;
        p->resident_bytes = resident * page;
    }
    fclose(f);
}

static uint64_t count_fds(void)
{
    enum { DOTS_AND_DIR = 3 }; /* ".", ".." and the directory's own descriptor */
    DIR *dir = opendir("/proc/self/fd");
    uint64_t n = 0;
    if (!dir)
        return 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n > DOTS_AND_DIR ? n - DOTS_AND_DIR : 0;
}

static double seconds(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* Field 22 of stat is the start in ticks after boot; the name, field 2, may hold spaces. */
static double read_start_time(void)
{
    char text[1024];
    unsigned long long ticks = 0;
    FILE *f = fopen("/proc/self/stat", "re");
    if (!f)
        return 0;
    size_t n = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    text[n] = '\0';
    const char *at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (!at || sscanf(at, "%llu", &ticks) != 1)
        return 0;
    double since_boot = (double)ticks / (double)sysconf(_SC_CLK_TCK);
    return seconds(CLOCK_REALTIME) - seconds(CLOCK_BOOTTIME) + since_boot;
}

#ifdef LACUNA_JEMALLOC
/* Weak: programs that link the server without the allocator (tests) have none. */
extern int mallctl(const char *name, void *old, size_t *old_len, void *new, size_t new_len)
    __attribute__((weak));

static bool read_memory(uint64_t memory[6])
{
    uint64_t epoch = 1;
    size_t len = sizeof(epoch);
    if (!mallctl || mallctl("epoch", &epoch, &len, &epoch, len) != 0)
        return false;
    for (int i = 0; i < 6; i++) {
        char name[32];
        size_t value = 0;
        len = sizeof(value);
        snprintf(name, sizeof(name), "stats.%s", metrics_memory_names[i]);
        if (mallctl(name, &value, &len, NULL, 0) == 0)
            memory[i] = value;
    }
    return true;
}
#else
static bool read_memory(uint64_t memory[6])
{
    (void)memory;
    return false;
}
#endif

static void refresh(struct metrics_process *p)
{
    struct rlimit limit;
    read_sizes(p);
    p->open_fds = count_fds();
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        p->max_fds = limit.rlim_cur;
    if (p->start_time_seconds == 0)
        p->start_time_seconds = read_start_time();
    p->has_memory = read_memory(p->memory);
}

void metrics_read_process(struct metrics_process *out)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct metrics_process kept;
    static uint64_t kept_since_ns;
    uint64_t now_ns = srv_now_ns();
    pthread_mutex_lock(&lock);
    if (kept_since_ns == 0 || now_ns - kept_since_ns > 1000000000) {
        refresh(&kept);
        kept_since_ns = now_ns;
    }
    *out = kept;
    pthread_mutex_unlock(&lock);
}
