/* SPDX-License-Identifier: Apache-2.0
 *
 * page.c - answers GET /.
 *
 * The page itself holds no secret and needs no key; what it shows it asks for as any client does,
 * with the key that its user gives.  It stays in the tab: nothing is loaded from elsewhere, nothing
 * may frame it, and its policy lets no script run but its own.
 */
#include "server/page/page.h"

void page_answer(struct http_exchange *x)
{
    struct buf b = { 0 };
    buf_add(&b, (const char *)page_html, page_html_bytes);
    http_header_fixed(x, "Content-Security-Policy", page_policy);
    http_header_fixed(x, "X-Content-Type-Options", "nosniff");
    http_header_fixed(x, "Referrer-Policy", "no-referrer");
    http_header_fixed(x, "Cross-Origin-Opener-Policy", "same-origin");
    http_header_fixed(x, "Cache-Control", "no-cache");
    http_reply(x, 200, "text/html; charset=utf-8", &b);
}
