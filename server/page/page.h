/* SPDX-License-Identifier: Apache-2.0
 *
 * page.h - the page at /: live numbers from /metrics and a prompt box, for people.
 *
 * It is one file without anything from elsewhere, embedded when lacuna is built (embed.cmake).
 */
#ifndef LACUNA_SERVER_PAGE_H
#define LACUNA_SERVER_PAGE_H

#include <stddef.h>

#include "server/http/http.h"

http_answer_fn page_answer;

/* Made by embed.cmake. */
extern const unsigned char page_html[];
extern const size_t page_html_bytes;
extern const char page_policy[]; /* Content-Security-Policy */

#endif
