/* SPDX-License-Identifier: Apache-2.0
 *
 * progress.c - how far loading is: one rewritten line on a terminal, a log line at each tenth
 * elsewhere, and always the server's own answer to those who ask meanwhile.
 */
#include "server/commands/commands.h"
#include "server/log.h"
#include "server/server.h"

#include <stdio.h>

static const char *phase_name(enum engine_phase phase)
{
    switch (phase) {
    case ENGINE_PHASE_HEADER:
        return "header";
    case ENGINE_PHASE_TOKENIZER:
        return "tokenizer";
    case ENGINE_PHASE_WEIGHTS:
        return "weights";
    case ENGINE_PHASE_EXPERTS:
        return "experts";
    case ENGINE_PHASE_WARMUP:
        return "warm-up";
    }
    return "loading";
}

static uint32_t percent(uint64_t done, uint64_t total)
{
    if (total == 0)
        return 0;
    return done >= total ? 100 : (uint32_t)((double)done / (double)total * 100);
}

static void draw(struct cmd_progress *p, const char *phase, uint64_t done, uint64_t total)
{
    char d[CMD_BYTES_MAX], t[CMD_BYTES_MAX];
    cmd_bytes_text(done, d);
    cmd_bytes_text(total, t);
    p->drawn = true;
    if (total)
        fprintf(stderr, "\r\033[Kloading %s: %u %% (%s of %s)", phase, percent(done, total), d, t);
    else
        fprintf(stderr, "\r\033[Kloading %s", phase);
    fflush(stderr);
}

static void log_tenth(struct cmd_progress *p, const char *phase, uint64_t done, uint64_t total)
{
    uint32_t tenths = percent(done, total) / 10;
    if (phase != p->phase)
        p->tenths = 0;
    p->phase = phase;
    if (tenths <= p->tenths)
        return;
    p->tenths = tenths;
    log_event(LOG_INFO_LEVEL, "loading", LOG_STR("phase", phase), LOG_U64("percent", tenths * 10),
              LOG_U64("done_bytes", done), LOG_U64("total_bytes", total), LOG_END);
}

void cmd_progress_show(void *ctx, enum engine_phase phase, uint64_t done_bytes,
                       uint64_t total_bytes)
{
    struct cmd_progress *p = ctx;
    if (p->srv)
        srv_loading(p->srv, done_bytes, total_bytes);
    if (p->line)
        draw(p, phase_name(phase), done_bytes, total_bytes);
    if (p->log)
        log_tenth(p, phase_name(phase), done_bytes, total_bytes);
}

void cmd_progress_end(struct cmd_progress *p)
{
    if (p->drawn)
        fputs("\r\033[K", stderr);
    p->drawn = false;
}
