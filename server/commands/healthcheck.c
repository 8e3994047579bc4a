/* SPDX-License-Identifier: Apache-2.0
 *
 * healthcheck.c - `lacuna --healthcheck`: a GET by plain sockets, for images that hold no curl.
 */
#include "server/commands/commands.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { TIMEOUT_S = 5 };

struct target {
    char host[256];
    char port[8];
    const char *path;
};

/* "http://HOST[:PORT][/PATH]", HOST a name, an IPv4 or an [IPv6] address. */
static bool parse_url(const char *url, struct target *out)
{
    static const char scheme[] = "http://";
    if (strncmp(url, scheme, sizeof(scheme) - 1) != 0)
        return false;
    const char *host = url + sizeof(scheme) - 1;
    bool bracket = host[0] == '[';
    host += bracket;
    size_t n = strcspn(host, bracket ? "]" : ":/");
    if (n == 0 || n >= sizeof(out->host) || (bracket && host[n] != ']'))
        return false;
    memcpy(out->host, host, n);
    out->host[n] = '\0';
    const char *rest = host + n + bracket;
    strcpy(out->port, "80");
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

/* The status of the answer, 0 without one. */
static int get_status(int fd, const struct target *t)
{
    char text[2048];
    int n = snprintf(text, sizeof(text),
                     "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nAccept: */*\r\n\r\n",
                     t->path, strchr(t->host, ':') ? "localhost" : t->host);
    if (n < 0 || (size_t)n >= sizeof(text) || send(fd, text, (size_t)n, MSG_NOSIGNAL) != n)
        return 0;
    size_t have = 0;
    while (have < 12) { /* "HTTP/1.1 200" */
        ssize_t got = recv(fd, text + have, sizeof(text) - 1 - have, 0);
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

int cmd_healthcheck(const char *url)
{
    struct target t;
    if (!parse_url(url, &t))
        return cmd_fail(EX_USAGE, "--healthcheck: '%.200s' is not http://HOST[:PORT][/PATH]", url);
    int fd = connect_to(&t);
    if (fd < 0)
        return EXIT_UNHEALTHY;
    int status = get_status(fd, &t);
    close(fd);
    if (status == 200)
        return 0;
    if (status == 0)
        return cmd_fail(EXIT_UNHEALTHY, "healthcheck: no HTTP answer within %d s", TIMEOUT_S);
    return cmd_fail(EXIT_UNHEALTHY, "healthcheck: status %d", status);
}
