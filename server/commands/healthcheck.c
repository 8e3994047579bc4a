/* SPDX-License-Identifier: Apache-2.0
 *
 * healthcheck.c - `lacuna --healthcheck`: a GET by plain sockets or TLS, for images that hold no curl.
 */
#include "server/commands/commands.h"
#include "server/http/http.h"
#include "server/http/tls.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { TIMEOUT_S = 5 };
static const char default_url[] = "http://127.0.0.1:8080/ready";

struct target {
    bool is_tls;
    char host[256];
    char port[8];
    const char *path;
};

/* "http://HOST[:PORT][/PATH]" or https, HOST a name, an IPv4 or an [IPv6] address. */
static bool parse_url(const char *url, struct target *out)
{
    static const char http[] = "http://", https[] = "https://";
    out->is_tls = strncmp(url, https, sizeof(https) - 1) == 0;
    if (!out->is_tls && strncmp(url, http, sizeof(http) - 1) != 0)
        return false;
    const char *host = url + (out->is_tls ? sizeof(https) : sizeof(http)) - 1;
    bool bracket = host[0] == '[';
    host += bracket;
    size_t n = strcspn(host, bracket ? "]" : ":/");
    if (n == 0 || n >= sizeof(out->host) || (bracket && host[n] != ']'))
        return false;
    memcpy(out->host, host, n);
    out->host[n] = '\0';
    const char *rest = host + n + bracket;
    strcpy(out->port, out->is_tls ? "443" : "80");
    if (rest[0] == ':') {
        size_t digits = strspn(++rest, "0123456789");
        if (digits == 0 || digits > 5)
            return false;
        memcpy(out->port, rest, digits);
        out->port[digits] = '\0';
        rest += digits;
    }
    out->path = rest[0] ? rest : "/";
    return out->path[0] == '/';
}

static int connect_to(const struct target *t)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list;
    struct timeval timeout = { .tv_sec = TIMEOUT_S };
    int fd = -1;
    int rc = getaddrinfo(t->host, t->port, &hints, &list);
    if (rc) {
        cmd_fail(0, "healthcheck: %s: %s", t->host, gai_strerror(rc));
        return -1;
    }
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
        if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
            continue;
        int saved = errno;
        close(fd);
        errno = saved;
        fd = -1;
    }
    if (fd < 0)
        cmd_fail(0, "healthcheck: cannot connect to %s port %s: %s", t->host, t->port,
                 strerror(errno));
    freeaddrinfo(list);
    return fd;
}

/* ---- the connection ---- */

struct link {
    int fd;
    struct tls_client *tls; /* NULL: plain */
};

static bool is_loopback(int fd)
{
    struct sockaddr_storage peer = { 0 };
    socklen_t len = sizeof(peer);
    return getpeername(fd, (struct sockaddr *)&peer, &len) == 0 &&
           http_is_loopback((const struct sockaddr *)&peer);
}

/* On a loopback address the certificate is not verified: it is the own server that is asked, whose
 * certificate is for the name that others call it by. */
static bool open_link(struct link *l, const struct target *t)
{
    struct engine_err err = { 0 };
    *l = (struct link){ .fd = connect_to(t) };
    if (l->fd < 0)
        return false;
    if (!t->is_tls || tls_client_open(&l->tls, l->fd, t->host, !is_loopback(l->fd), &err) == 0)
        return true;
    cmd_fail(0, "healthcheck: %s", err.text);
    close(l->fd);
    return false;
}

static void close_link(struct link *l)
{
    tls_client_close(l->tls);
    close(l->fd);
}

static bool send_all(const struct link *l, const char *src, size_t n)
{
    ssize_t sent = l->tls ? tls_client_send(l->tls, src, n) : send(l->fd, src, n, MSG_NOSIGNAL);
    return sent == (ssize_t)n;
}

static ssize_t receive(const struct link *l, char *dst, size_t n)
{
    return l->tls ? tls_client_recv(l->tls, dst, n) : recv(l->fd, dst, n, 0);
}

/* ---- the question ---- */

/* The status of the answer, 0 without one. */
static int get_status(const struct link *l, const struct target *t)
{
    char text[2048];
    int n = snprintf(text, sizeof(text),
                     "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nAccept: */*\r\n\r\n",
                     t->path, strchr(t->host, ':') ? "localhost" : t->host);
    if (n < 0 || (size_t)n >= sizeof(text) || !send_all(l, text, (size_t)n))
        return 0;
    size_t have = 0;
    while (have < 12) { /* "HTTP/1.1 200" */
        ssize_t got = receive(l, text + have, sizeof(text) - 1 - have);
        if (got <= 0)
            return 0;
        have += (size_t)got;
    }
    text[have] = '\0';
    int status = 0;
    if (sscanf(text, "HTTP/1.%*1[01] %3d", &status) != 1)
        return 0;
    return status;
}

/* -1: no connection, which was said. */
static int ask(const struct target *t)
{
    struct link l;
    if (!open_link(&l, t))
        return -1;
    int status = get_status(&l, t);
    close_link(&l);
    return status;
}

int cmd_healthcheck(const char *url)
{
    struct target t;
    if (!parse_url(url ? url : default_url, &t))
        return cmd_fail(EX_USAGE,
                        "--healthcheck: '%.200s' is not http://HOST[:PORT][/PATH], nor https", url);
    int status = ask(&t);
    if (status == 0 && !url) { /* a port that speaks TLS closes such a connection */
        t.is_tls = true;
        status = ask(&t);
    }
    if (status < 0)
        return EXIT_UNHEALTHY;
    if (status == 200)
        return 0;
    if (status == 0)
        return cmd_fail(EXIT_UNHEALTHY, "healthcheck: no HTTP answer within %d s", TIMEOUT_S);
    return cmd_fail(EXIT_UNHEALTHY, "healthcheck: status %d", status);
}
