/* SPDX-License-Identifier: Apache-2.0
 *
 * headers.c - what header values mean.  Pure functions of text from outside.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "server/http/http.h"

static const struct {
    const char *name;
    enum http_method method;
} method_names[] = {
    { "GET", HTTP_GET },
    { "HEAD", HTTP_HEAD },
    { "POST", HTTP_POST },
    { "OPTIONS", HTTP_OPTIONS },
};
enum { N_METHODS = sizeof(method_names) / sizeof(method_names[0]) };

enum http_method http_method_of(const char *name)
{
    for (size_t i = 0; i < N_METHODS; i++)
        if (strcmp(method_names[i].name, name) == 0)
            return method_names[i].method;
    return HTTP_OTHER;
}

void http_allow(unsigned methods, char *text, size_t cap)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < N_METHODS; i++)
        if (methods & method_names[i].method)
            used += (size_t)snprintf(text + used, cap - used, "%s%s", used ? ", " : "",
                                     method_names[i].name);
}

bool http_id_is_valid(const char *id)
{
    size_t len = strlen(id);
    if (len == 0 || len > 128)
        return false;
    for (const char *c = id; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("._-", *c))
            return false;
    return true;
}

bool http_is_json_type(const char *type)
{
    static const char json[] = "application/json";
    if (!type)
        return false;
    while (*type == ' ' || *type == '\t')
        type++;
    if (strncasecmp(type, json, sizeof(json) - 1) != 0)
        return false;
    type += sizeof(json) - 1;
    while (*type == ' ' || *type == '\t')
        type++;
    return *type == '\0' || *type == ';';
}

bool http_host_name(const char *header, char *host, size_t cap)
{
    size_t len;
    if (header[0] == '[') {
        const char *end = strchr(++header, ']');
        if (!end || (end[1] != '\0' && end[1] != ':'))
            return false;
        len = (size_t)(end - header);
    } else {
        len = strcspn(header, ":");
        if (header[len] == ':' && strchr(header + len + 1, ':'))
            return false; /* an IPv6 address without brackets */
    }
    if (len == 0 || len >= cap)
        return false;
    for (size_t i = 0; i < len; i++)
        host[i] = (char)tolower((unsigned char)header[i]);
    host[len] = '\0';
    return true;
}

bool http_is_loopback_name(const char *host)
{
    return strcmp(host, "localhost") == 0 || strcmp(host, "127.0.0.1") == 0 ||
           strcmp(host, "::1") == 0;
}

/* version "00", trace id, parent id, flags: all lower-case hex, no id all zero */
bool http_trace_id(const char *s, char id[33])
{
    if (strlen(s) != 55 || s[2] != '-' || s[35] != '-' || s[52] != '-')
        return false;
    for (size_t i = 0; i < 55; i++)
        if (i != 2 && i != 35 && i != 52 && !strchr("0123456789abcdef", s[i]))
            return false;
    if (strncmp(s, "ff", 2) == 0 || strspn(s + 3, "0") >= 32 || strspn(s + 36, "0") >= 16)
        return false;
    memcpy(id, s + 3, 32);
    id[32] = '\0';
    return true;
}

const char *http_bearer(const char *authorization)
{
    static const char scheme[] = "Bearer ";
    if (strncasecmp(authorization, scheme, sizeof(scheme) - 1) != 0)
        return NULL;
    authorization += sizeof(scheme) - 1;
    while (*authorization == ' ')
        authorization++;
    return *authorization ? authorization : NULL;
}
