/* SPDX-License-Identifier: Apache-2.0
 *
 * log.h - the only place that writes log lines: one JSON object (or key=value text) per line on
 * stderr.  Values are escaped, so that nothing from outside can forge a line.  Any thread.
 */
#ifndef LACUNA_SERVER_LOG_H
#define LACUNA_SERVER_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG_LEVEL, LOG_INFO_LEVEL, LOG_WARN_LEVEL, LOG_ERROR_LEVEL };

/* Before threads start (or on SIGHUP for the level). */
void log_configure(enum log_level least, bool json);
bool log_enabled(enum log_level level);

/* One value of a line.  The LOG_ macros make them: log_event(LOG_INFO_LEVEL, "ready",
 * LOG_STR("model", name), LOG_U64("ms", ms), LOG_END). */
struct log_field {
    const char *key; /* NULL ends the list */
    enum { LOG_FIELD_STR, LOG_FIELD_U64, LOG_FIELD_F64, LOG_FIELD_BOOL } kind;
    const char *str; /* NULL is written as null */
    uint64_t u64;
    double f64;
};
#define LOG_STR(k, v) ((struct log_field){ .key = (k), .kind = LOG_FIELD_STR, .str = (v) })
#define LOG_U64(k, v) ((struct log_field){ .key = (k), .kind = LOG_FIELD_U64, .u64 = (v) })
#define LOG_F64(k, v) ((struct log_field){ .key = (k), .kind = LOG_FIELD_F64, .f64 = (v) })
#define LOG_BOOL(k, v) ((struct log_field){ .key = (k), .kind = LOG_FIELD_BOOL, .u64 = (v) })
#define LOG_END ((struct log_field){ .key = 0 })

/* Writes one line: ts, level, event, then the fields; fields end with LOG_END. */
void log_fields(enum log_level level, const char *event, const struct log_field *fields);
#define log_event(level, event, ...)                                                               \
    log_fields((level), (event), (const struct log_field[]){ __VA_ARGS__ })

uint64_t log_count(enum log_level level); /* lines written, for lacuna_log_messages_total */

#endif
