/* SPDX-License-Identifier: Apache-2.0
 *
 * api_error.h - what can be wrong with a request, and how the answer says it.
 *
 * One table (api_error.c) maps a kind to its HTTP status, type and code; nobody else knows them.
 */
#ifndef LACUNA_SERVER_API_ERROR_H
#define LACUNA_SERVER_API_ERROR_H

#include <stdint.h>

#include "engine/engine.h"
#include "scheduler/scheduler.h"
#include "server/buffer.h"

enum api_error_kind {
    API_OK = 0,
    API_BAD_REQUEST, /* as HTTP */
    API_INVALID_JSON,
    API_MISSING_PARAMETER,
    API_INVALID_TYPE,
    API_INVALID_VALUE,
    API_UNSUPPORTED_PARAMETER,
    API_UNKNOWN_PARAMETER,
    API_CONTEXT_LENGTH,
    API_INVALID_KEY,
    API_HOST_REFUSED,
    API_MODEL_NOT_FOUND,
    API_UNKNOWN_URL,
    API_METHOD_NOT_ALLOWED,
    API_BODY_TOO_LARGE,
    API_MEDIA_TYPE,
    API_QUEUE_FULL,
    API_TOKEN_BACKLOG,
    API_QUEUE_TIMEOUT,
    API_KEY_LIMIT,
    API_MODEL_LOADING,
    API_SHUTTING_DOWN,
    API_ENDPOINT_DISABLED,
    API_NO_SLOT,
    API_REQUEST_TIMEOUT,
    API_ENGINE_STUCK,
    API_STORAGE,
    API_INTERNAL,
    API_N_ERROR_KINDS,
};

struct api_error { /* zeroed: nothing is wrong */
    enum api_error_kind kind;
    char message[384];
    char param[96];                     /* the field, as a path; "" is null */
    uint32_t n_prompt_tokens, n_ctx;    /* API_CONTEXT_LENGTH */
    uint32_t retry_after_s;             /* 0: no header */
    uint64_t loaded_bytes, total_bytes; /* API_MODEL_LOADING, if known */
};

/* Fills *e unless it already holds an error (the first wins); always returns -1.  param may be
 * NULL. */
int api_fail(struct api_error *e, enum api_error_kind kind, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

unsigned api_error_status(enum api_error_kind kind);
const char *api_error_code(enum api_error_kind kind);
/* The value of `reason` in lacuna_requests_rejected_total; NULL if it is not counted there. */
const char *api_error_reason(enum api_error_kind kind);

/* {"error":{"message":...,"type":...,"param":...,"code":...}} */
void api_error_json(struct buf *b, const struct api_error *e);

/* From the lower folders' errors. */
void api_error_from_engine(struct api_error *e, const struct engine_err *from);
void api_error_from_refusal(struct api_error *e, enum sched_refusal refusal,
                            const struct engine_err *from, uint32_t retry_after_s);

#endif
