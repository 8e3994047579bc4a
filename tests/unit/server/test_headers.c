/* SPDX-License-Identifier: Apache-2.0
 *
 * test_headers.c - header values from outside mean what they should and nothing more.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "server/http/http.h"

static const char *host_of(const char *header)
{
    static char host[32];
    return http_host_name(header, host, sizeof(host)) ? host : "(none)";
}

Test(headers, host_is_found_without_port_and_brackets)
{
    cr_expect_str_eq(host_of("LocalHost:8080"), "localhost");
    cr_expect_str_eq(host_of("127.0.0.1"), "127.0.0.1");
    cr_expect_str_eq(host_of("[::1]:80"), "::1");
    cr_expect_str_eq(host_of("[::1]"), "::1");
}

Test(headers, what_is_no_host_is_refused)
{
    cr_expect_str_eq(host_of(""), "(none)");
    cr_expect_str_eq(host_of(":80"), "(none)");
    cr_expect_str_eq(host_of("[::1"), "(none)");
    cr_expect_str_eq(host_of("[::1]x"), "(none)");
    cr_expect_str_eq(host_of("::1"), "(none)");
    cr_expect_str_eq(host_of("a-name-that-is-longer-than-the-buffer.example"), "(none)");
}

Test(headers, only_true_loopback_names_are_loopback)
{
    cr_expect(http_is_loopback_name("localhost"));
    cr_expect(http_is_loopback_name("::1"));
    cr_expect_not(http_is_loopback_name("localhost.example"));
    cr_expect_not(http_is_loopback_name("127.0.0.1.example"));
}

Test(headers, json_is_one_media_type)
{
    cr_expect(http_is_json_type("application/json"));
    cr_expect(http_is_json_type("Application/JSON; charset=utf-8"));
    cr_expect(http_is_json_type(" application/json ;x"));
    cr_expect_not(http_is_json_type(NULL));
    cr_expect_not(http_is_json_type(""));
    cr_expect_not(http_is_json_type("application/jsonp"));
    cr_expect_not(http_is_json_type("text/plain; application/json"));
}

Test(headers, request_ids_cannot_forge_anything)
{
    char longest[130];
    memset(longest, 'a', sizeof(longest));
    longest[129] = '\0';
    cr_expect(http_id_is_valid("req-1.A_z"));
    cr_expect_not(http_id_is_valid(""));
    cr_expect_not(http_id_is_valid("a b"));
    cr_expect_not(http_id_is_valid("a\nb"));
    cr_expect_not(http_id_is_valid("\xc3\xa9"));
    cr_expect_not(http_id_is_valid(longest), "129 bytes");
    longest[128] = '\0';
    cr_expect(http_id_is_valid(longest), "128 bytes");
}

Test(headers, bearer_secrets)
{
    cr_expect_str_eq(http_bearer("Bearer abc"), "abc");
    cr_expect_str_eq(http_bearer("bearer  abc"), "abc");
    cr_expect_null(http_bearer("Bearer "));
    cr_expect_null(http_bearer("Basic abc"));
    cr_expect_null(http_bearer(""));
}

Test(headers, trace_ids_as_w3c_writes_them)
{
    char id[33];
    cr_expect(http_trace_id("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", id));
    cr_expect_str_eq(id, "0af7651916cd43dd8448eb211c80319c");
    cr_expect_not(http_trace_id("00-00000000000000000000000000000000-b7ad6b7169203331-01", id));
    cr_expect_not(http_trace_id("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", id));
    cr_expect_not(http_trace_id("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", id));
    cr_expect_not(http_trace_id("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", id));
    cr_expect_not(http_trace_id("", id));
}

Test(headers, allow_lists_the_methods)
{
    char text[48];
    http_allow(HTTP_GET | HTTP_HEAD, text, sizeof(text));
    cr_expect_str_eq(text, "GET, HEAD");
    http_allow(0, text, sizeof(text));
    cr_expect_str_eq(text, "");
    cr_expect_eq(http_method_of("get"), HTTP_OTHER, "methods are case-sensitive");
}

Test(headers, routes_are_found_by_path)
{
    cr_expect_str_eq(http_find_route("/v1/completions")->name, "/v1/completions");
    cr_expect_str_eq(http_find_route("/v1/models")->name, "/v1/models");
    cr_expect_str_eq(http_find_route("/v1/models/a/b")->name, "/v1/models/{id}");
    cr_expect_str_eq(http_find_route("/v1/models/")->name, "other");
    cr_expect_str_eq(http_find_route("/v1/completions/")->name, "other");
    cr_expect_str_eq(http_find_route("")->name, "other");
}
