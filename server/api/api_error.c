/* SPDX-License-Identifier: Apache-2.0
 *
 * api_error.c - the one table of errors: kind -> HTTP status, type, code.
 */
#include "server/api/api_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char bad_request[] = "invalid_request_error";
static const char busy[] = "rate_limit_error";
static const char unavailable[] = "unavailable_error";

static const struct {
    unsigned status;
    const char *type;
    const char *code;
    const char *reason; /* see api_error_reason */
} table[API_N_ERROR_KINDS] = {
    [API_OK] = { 200, "", "", NULL },
    [API_BAD_REQUEST] = { 400, bad_request, "bad_request", "invalid" },
    [API_INVALID_JSON] = { 400, bad_request, "invalid_json", "invalid" },
    [API_MISSING_PARAMETER] = { 400, bad_request, "missing_required_parameter", "invalid" },
    [API_INVALID_TYPE] = { 400, bad_request, "invalid_type", "invalid" },
    [API_INVALID_VALUE] = { 400, bad_request, "invalid_value", "invalid" },
    [API_UNSUPPORTED_PARAMETER] = { 400, bad_request, "unsupported_parameter", "invalid" },
    [API_UNKNOWN_PARAMETER] = { 400, bad_request, "unknown_parameter", "invalid" },
    [API_CONTEXT_LENGTH] = { 400, bad_request, "context_length_exceeded", "too_long" },
    [API_INVALID_KEY] = { 401, "authentication_error", "invalid_api_key", NULL },
    [API_HOST_REFUSED] = { 403, "permission_error", "host_not_allowed", NULL },
    [API_MODEL_NOT_FOUND] = { 404, bad_request, "model_not_found", "invalid" },
    [API_UNKNOWN_URL] = { 404, bad_request, "unknown_url", NULL },
    [API_METHOD_NOT_ALLOWED] = { 405, bad_request, "method_not_allowed", NULL },
    [API_BODY_TOO_LARGE] = { 413, bad_request, "body_too_large", "invalid" },
    [API_MEDIA_TYPE] = { 415, bad_request, "unsupported_media_type", "invalid" },
    [API_QUEUE_FULL] = { 429, busy, "queue_full", "queue_full" },
    [API_TOKEN_BACKLOG] = { 429, busy, "token_backlog_full", "token_backlog" },
    [API_QUEUE_TIMEOUT] = { 429, busy, "queue_timeout", "queue_timeout" },
    [API_KEY_LIMIT] = { 429, busy, "rate_limit_exceeded", "key_limit" },
    [API_MODEL_LOADING] = { 503, unavailable, "model_loading", "loading" },
    [API_SHUTTING_DOWN] = { 503, unavailable, "shutting_down", "draining" },
    [API_ENDPOINT_DISABLED] = { 501, "not_supported_error", "endpoint_disabled", NULL },
    [API_NO_SLOT] = { 503, unavailable, "no_slot_available", NULL },
    [API_REQUEST_TIMEOUT] = { 504, "server_error", "request_timeout", NULL },
    [API_ENGINE_STUCK] = { 503, unavailable, "engine_stuck", NULL },
    [API_STORAGE] = { 503, unavailable, "storage_error", NULL },
    [API_INTERNAL] = { 500, "server_error", "internal_error", NULL },
};

int api_fail(struct api_error *e, enum api_error_kind kind, const char *param, const char *fmt, ...)
{
    if (e->kind != API_OK)
        return -1;
    e->kind = kind;
    snprintf(e->param, sizeof(e->param), "%s", param ? param : "");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof(e->message), fmt, ap);
    va_end(ap);
    return -1;
}

unsigned api_error_status(enum api_error_kind kind)
{
    return table[kind].status;
}

const char *api_error_code(enum api_error_kind kind)
{
    return table[kind].code;
}

const char *api_error_reason(enum api_error_kind kind)
{
    return table[kind].reason;
}

void api_error_json(struct buf *b, const struct api_error *e)
{
    buf_str(b, "{\"error\":{\"message\":");
    buf_json_str(b, e->message);
    buf_printf(b, ",\"type\":\"%s\",\"param\":", table[e->kind].type);
    buf_json_str(b, e->param[0] ? e->param : NULL);
    buf_printf(b, ",\"code\":\"%s\"", table[e->kind].code);
    if (e->kind == API_CONTEXT_LENGTH)
        buf_printf(b, ",\"n_prompt_tokens\":%u,\"n_ctx\":%u", e->n_prompt_tokens, e->n_ctx);
    if (e->total_bytes > 0)
        buf_printf(b, ",\"loaded_bytes\":%llu,\"total_bytes\":%llu",
                   (unsigned long long)e->loaded_bytes, (unsigned long long)e->total_bytes);
    buf_str(b, "}}");
}

void api_error_from_engine(struct api_error *e, const struct engine_err *from)
{
    switch (from->code) {
    case ENGINE_ERR_INPUT:
        api_fail(e, API_INVALID_VALUE, "prompt", "%s", from->text);
        break;
    case ENGINE_ERR_CONTEXT:
        api_fail(e, API_CONTEXT_LENGTH, "prompt", "%s", from->text);
        break;
    case ENGINE_ERR_CAPACITY:
        api_fail(e, API_QUEUE_TIMEOUT, NULL, "%s", from->text);
        break;
    case ENGINE_ERR_IO: /* which part of which file is for the log */
        api_fail(e, API_STORAGE, NULL, "Reading the model's file failed; try again");
        break;
    default: /* what went wrong inside is for the log, not for the peer */
        api_fail(e, API_INTERNAL, NULL, "Internal error; the server's log has more");
    }
}

void api_error_from_refusal(struct api_error *e, enum sched_refusal refusal,
                            const struct engine_err *from, uint32_t retry_after_s)
{
    switch (refusal) {
    case SCHED_REFUSED_QUEUE_FULL:
        api_fail(e, API_QUEUE_FULL, NULL, "Too many requests are waiting; try again in %u s",
                 retry_after_s);
        break;
    case SCHED_REFUSED_TOKEN_BACKLOG:
        api_fail(e, API_TOKEN_BACKLOG, NULL,
                 "Too many prompt tokens are waiting; try again in %u s", retry_after_s);
        break;
    case SCHED_REFUSED_TOO_LARGE:
        api_fail(e, API_INVALID_VALUE, "prompt", "%s", from->text);
        break;
    case SCHED_REFUSED_CLOSING:
        api_fail(e, API_SHUTTING_DOWN, NULL, "The server is shutting down");
        break;
    default:
        api_fail(e, API_INTERNAL, NULL, "Internal error; the server's log has more");
    }
    if (api_error_status(e->kind) == 429)
        e->retry_after_s = retry_after_s;
}
