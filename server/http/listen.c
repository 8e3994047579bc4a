/* SPDX-License-Identifier: Apache-2.0
 *
 * listen.c - listening sockets: "127.0.0.1:8080", "[::1]:8080", "unix:/path".
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/http/http.h"

enum {
    LISTEN_BACKLOG = 1024,
    /* What the kernel may hold for one client that does not read: small enough that a slow reader
     * is noticed, and that thousands of them cost little. */
    LISTEN_SEND_BYTES = 128 << 10,
};

static int bad_address(const char *address, const char *what, struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_OPTION, "cannot listen on '%s': %s", address, what);
}

/* ---- Unix sockets ---- */

/* A socket that nobody listens on any more may be replaced; anything else may not. */
static int remove_stale(const struct sockaddr_un *sa, const char *address, struct engine_err *err)
{
    struct stat st;
    if (lstat(sa->sun_path, &st) != 0)
        return 0;
    if (!S_ISSOCK(st.st_mode))
        return bad_address(address, "the path exists and is not a socket", err);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool is_used = fd >= 0 && connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) == 0;
    if (fd >= 0)
        close(fd);
    if (is_used)
        return bad_address(address, "another process listens there", err);
    unlink(sa->sun_path);
    return 0;
}

static int listen_unix(struct http_listener *l, const char *address, struct engine_err *err)
{
    const char *path = address + strlen("unix:");
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    if (!*path || strlen(path) >= sizeof(sa.sun_path))
        return bad_address(address, "the path must be 1 to 107 bytes long", err);
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
    if (remove_stale(&sa, address, err) != 0)
        return -1;
    l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0 || bind(l->fd, (struct sockaddr *)&sa, sizeof(sa)) != 0)
        return bad_address(address, strerror(errno), err);
    snprintf(l->unix_path, sizeof(l->unix_path), "%s", path);
    snprintf(l->address, sizeof(l->address), "%s", address);
    l->is_unix = true;
    return 0;
}

/* ---- IP ---- */

static bool is_port(const char *s)
{
    size_t len = strlen(s);
    return len > 0 && len <= 5 && strspn(s, "0123456789") == len && atoi(s) <= 65535;
}

/* "host:port" or "[v6]:port" */
static int split_address(const char *address, char *host, size_t host_cap, char *port,
                         size_t port_cap, struct engine_err *err)
{
    const char *colon = strrchr(address, ':');
    const char *start = address;
    const char *end = colon;
    if (!colon || !is_port(colon + 1) || strlen(colon + 1) >= port_cap)
        return bad_address(address, "expected HOST:PORT, [IPV6]:PORT or unix:PATH", err);
    if (address[0] == '[') {
        start++;
        end = colon - 1;
        if (*end != ']')
            return bad_address(address, "expected [IPV6]:PORT", err);
    } else if (memchr(address, ':', (size_t)(colon - address))) {
        return bad_address(address, "write an IPv6 address in brackets", err);
    }
    size_t len = end > start ? (size_t)(end - start) : 0;
    if (len == 0 || len >= host_cap)
        return bad_address(address, "the host is missing or too long", err);
    memcpy(host, start, len);
    host[len] = '\0';
    snprintf(port, port_cap, "%s", colon + 1);
    return 0;
}

bool http_is_loopback(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)(const void *)sa)->sin_addr.s_addr) >> 24) ==
               127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr);
}

static int bind_ip(struct http_listener *l, const char *address, const struct addrinfo *ai,
                   struct engine_err *err)
{
    int on = 1, off = 0, send_bytes = LISTEN_SEND_BYTES;
    l->fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0)
        return bad_address(address, strerror(errno), err);
    setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    setsockopt(l->fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof(send_bytes));
    if (ai->ai_family == AF_INET6) /* [::] serves IPv4 too */
        setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (bind(l->fd, ai->ai_addr, ai->ai_addrlen) != 0)
        return bad_address(address, strerror(errno), err);
    return 0;
}

/* The address as bound: the port may have been 0. */
static void note_address(struct http_listener *l)
{
    struct sockaddr_storage sa = { 0 };
    socklen_t len = sizeof(sa);
    char port[8] = "";
    getsockname(l->fd, (struct sockaddr *)&sa, &len);
    getnameinfo((struct sockaddr *)&sa, len, l->host, sizeof(l->host), port, sizeof(port),
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(l->address, sizeof(l->address), sa.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s",
             l->host, port);
    l->is_loopback = http_is_loopback((const struct sockaddr *)&sa);
}

static int listen_ip(struct http_listener *l, const char *address, struct engine_err *err)
{
    char host[64], port[8];
    if (split_address(address, host, sizeof(host), port, sizeof(port), err) != 0)
        return -1;
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
    struct addrinfo *ai = NULL;
    int rc = getaddrinfo(host, port, &hints, &ai);
    if (rc != 0)
        return bad_address(address, gai_strerror(rc), err);
    rc = bind_ip(l, address, ai, err);
    freeaddrinfo(ai);
    if (rc == 0)
        note_address(l);
    return rc;
}

/* ---- sockets that somebody else opened ---- */

static int bad_socket(int fd, const char *what, struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_OPTION, "the socket handed over as descriptor %d: %s", fd,
                       what);
}

static int check_socket(int fd, int *family, struct engine_err *err)
{
    int type = 0, is_listening = 0;
    socklen_t type_len = sizeof(type), listening_len = sizeof(is_listening),
              family_len = sizeof(*family);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &listening_len) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, family, &family_len) != 0)
        return bad_socket(fd, strerror(errno), err);
    if (type != SOCK_STREAM || !is_listening)
        return bad_socket(fd, "not a listening stream socket (Accept=yes is not supported)", err);
    if (*family != AF_INET && *family != AF_INET6 && *family != AF_UNIX)
        return bad_socket(fd, "neither IPv4, IPv6 nor Unix", err);
    return 0;
}

/* The path stays its owner's: unix_path, which is removed at the end, is not set. */
static void note_unix_address(struct http_listener *l)
{
    struct sockaddr_un sa = { 0 };
    socklen_t len = sizeof(sa);
    getsockname(l->fd, (struct sockaddr *)&sa, &len);
    snprintf(l->address, sizeof(l->address), "unix:%.*s", (int)sizeof(sa.sun_path), sa.sun_path);
    l->is_unix = true;
}

int http_listen_on(struct http_listener *l, int fd, struct engine_err *err)
{
    int family, send_bytes = LISTEN_SEND_BYTES;
    l->fd = fd;
    if (check_socket(fd, &family, err) != 0) {
        http_unlisten(l);
        return -1;
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    if (family == AF_UNIX) {
        note_unix_address(l);
        return 0;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof(send_bytes));
    note_address(l);
    return 0;
}

/* ---- either ---- */

int http_listen(struct http_listener *l, const char *address, struct engine_err *err)
{
    l->fd = -1;
    int rc = strncmp(address, "unix:", 5) == 0 ? listen_unix(l, address, err)
                                               : listen_ip(l, address, err);
    if (rc == 0 && listen(l->fd, LISTEN_BACKLOG) != 0)
        rc = bad_address(address, strerror(errno), err);
    if (rc != 0)
        http_unlisten(l);
    return rc;
}

void http_unlisten(struct http_listener *l)
{
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    if (l->unix_path[0])
        unlink(l->unix_path);
    l->unix_path[0] = '\0';
}
