/* SPDX-License-Identifier: Apache-2.0
 *
 * race_server.c - a whole server under clients that ask, stream, leave in the middle, send half a
 * request or only look; it loads, reloads its options, drains and closes under them.  Meant for ThreadSanitizer; also
 * checks that every answer is whole and one that may come, and that something was computed.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/engine.h"
#include "server/log.h"
#include "server/server.h"

enum {
    N_CLIENTS = 6,
    N_OPENS = 3,
    LOAD_MS = 50,
    RUN_MS = 2500,
    N_BRIEF = 100,
    BRIEF_MS = 5,
    ANSWER_CAP = 1 << 20,
};

static const char model[] = "tests/golden/arch/llama.gguf";

struct client {
    uint16_t port;
    pthread_t thread;
    uint64_t random;
    char *answer;
};

static atomic_bool stopping;
static atomic_uint n_good, n_refused, n_left, n_wrong;

static uint32_t draw(struct client *c, uint32_t n)
{
    c->random = c->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(c->random >> 33) % n;
}

/* -1: nobody listens any more. */
static int dial(const struct client *c)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET,
        .sin_port = htons(c->port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&to, sizeof(to)) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static bool say(int fd, const char *text, size_t len)
{
    return send(fd, text, len, MSG_NOSIGNAL) == (ssize_t)len;
}

/* Reads at most `cap` bytes, or to the end.  Returns how many. */
static size_t hear(int fd, char *to, size_t cap)
{
    size_t n = 0;
    while (n < cap) {
        ssize_t got = recv(fd, to + n, cap - n, 0);
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    return n;
}

static void judge(struct client *c, size_t n, const char *must_end)
{
    c->answer[n] = '\0';
    int status = n > 12 ? atoi(c->answer + strlen("HTTP/1.1 ")) : 0;
    if (n == 0 && atomic_load(&stopping))
        return; /* closed under it */
    if (status == 429 || status == 503)
        atomic_fetch_add(&n_refused, 1);
    else if (status == 200 && strstr(c->answer, must_end))
        atomic_fetch_add(&n_good, 1);
    else if (!atomic_load(&stopping))
        atomic_fetch_add(&n_wrong, 1);
}

static int make_post(char *to, size_t cap, const char *path, const char *body)
{
    return snprintf(to, cap,
                    "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    "Connection: close\r\nContent-Length: %zu\r\n\r\n%s",
                    path, strlen(body), body);
}

static void make_completion(struct client *c, bool stream, char *to, size_t cap)
{
    snprintf(to, cap,
             "{\"prompt\":[\"%c the\",\"page %u\"],\"n\":%u,\"max_tokens\":%u,\"stream\":%s,"
             "\"ignore_eos\":true,\"logprobs\":%u}",
             'a' + (int)draw(c, 26), draw(c, 1000), 1 + draw(c, 2), 1 + draw(c, 30),
             stream ? "true" : "false", draw(c, 3));
}

/* One request in one of the ways that clients have. */
static void ask(struct client *c, int fd)
{
    char body[512], request[1024];
    uint32_t way = draw(c, 8);
    bool stream = way == 0 || way == 1 || way == 2;
    int len;
    make_completion(c, stream, body, sizeof(body));
    if (way == 6)
        len = make_post(request, sizeof(request), "/tokenize", "{\"content\":\"the page\"}");
    else if (way == 7)
        len = snprintf(request, sizeof(request),
                       "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                       draw(c, 2) ? "/metrics" : "/v1/models");
    else
        len = make_post(request, sizeof(request), "/v1/completions", body);
    if (way == 5)
        len -= 1 + (int)draw(c, (uint32_t)strlen(body)); /* and the rest never comes */
    if (!say(fd, request, (size_t)len))
        return;
    if (way == 2 || way == 4 || way == 5) {
        usleep(draw(c, 3000));
        hear(fd, c->answer, way == 2 ? 1 + draw(c, 600) : 0);
        atomic_fetch_add(&n_left, 1);
        return;
    }
    size_t n = hear(fd, c->answer, ANSWER_CAP - 1);
    judge(c, n, stream ? "data: [DONE]" : way == 7 ? "" : "}");
}

static void *client_main(void *arg)
{
    struct client *c = arg;
    int fd;
    while (!atomic_load(&stopping) && (fd = dial(c)) >= 0) {
        ask(c, fd);
        close(fd);
    }
    return NULL;
}

static uint16_t port_of(const struct srv *s)
{
    return (uint16_t)atoi(strrchr(srv_address(s, 0), ':') + 1);
}

static void start_clients(struct client *clients, uint16_t port, uint32_t seed)
{
    for (uint32_t i = 0; i < N_CLIENTS; i++) {
        clients[i] = (struct client){ .port = port, .random = seed * N_CLIENTS + i };
        clients[i].answer = malloc(ANSWER_CAP);
        if (!clients[i].answer ||
            pthread_create(&clients[i].thread, NULL, client_main, &clients[i]))
            abort();
    }
}

/* What SIGHUP may change, changed again and again. */
static int reload_for_ms(struct srv *s, struct srv_options opt, int ms, struct engine_err *err)
{
    static const char *const origins[] = { "https://a.example", "https://b.example" };
    enum { EVERY_MS = 20 };
    for (int i = 0; i < ms / EVERY_MS; i++) {
        opt.cors_origins = origins;
        opt.n_cors_origins = (uint32_t)i % 3;
        opt.max_queue = 8 + (uint32_t)i % 4;
        opt.max_logprobs = 3 + (uint32_t)i % 2;
        if (srv_reload(s, &opt, err) != 0)
            return -1;
        usleep(EVERY_MS * 1000);
    }
    return 0;
}

static void join_clients(struct client *clients)
{
    for (uint32_t i = 0; i < N_CLIENTS; i++) {
        pthread_join(clients[i].thread, NULL);
        free(clients[i].answer);
    }
}

static const char *const listen_to[] = { "127.0.0.1:0" };

/* Closes while clients come in, before there is a model.  libmicrohttpd's own way of not accepting
 * any more aborted the process at one close in some hundreds. */
static int live_briefly(uint32_t round)
{
    struct srv_options opt = { .listen = listen_to, .n_listen = 1, .model_file = "llama.gguf" };
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    struct client clients[N_CLIENTS];
    struct srv *s;
    atomic_store(&stopping, false);
    if (srv_open(&s, &opt, &err) != 0) {
        fprintf(stderr, "race_server: %s\n", err.text);
        return -1;
    }
    start_clients(clients, port_of(s), round);
    usleep(BRIEF_MS * 1000);
    atomic_store(&stopping, true);
    srv_close(s);
    join_clients(clients);
    return 0;
}

/* Loads, serves, drains and closes once, all under load. */
static int live(uint32_t round)
{
    static const volatile int no_hurry = 0;
    struct srv_options opt = { .listen = listen_to,
                               .n_listen = 1,
                               .model_file = "llama.gguf",
                               .max_seqs = 5,
                               .max_queue = 8 };
    struct engine_options engine_opt = { .model_path = model, .n_threads = 2, .n_ctx = 256 };
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    struct client clients[N_CLIENTS];
    struct engine *engine = NULL;
    struct srv *s;
    atomic_store(&stopping, false);
    int rc = srv_open(&s, &opt, &err);
    if (rc == 0) {
        start_clients(clients, port_of(s), round);
        usleep(LOAD_MS * 1000);
        rc = engine_open(&engine, &engine_opt, &err) || srv_attach(s, engine, &err);
        if (rc == 0)
            rc = reload_for_ms(s, opt, RUN_MS, &err);
        if (round == 1)
            atomic_store(&stopping, true); /* the others notice by themselves */
        srv_drain(s, 0, round, &no_hurry);
        atomic_store(&stopping, true);
        srv_close(s);
        join_clients(clients);
    }
    engine_close(engine);
    if (rc != 0)
        fprintf(stderr, "race_server: %s\n", err.text);
    return rc;
}

int main(void)
{
    log_configure(LOG_ERROR_LEVEL, true);
    for (uint32_t round = 0; round < N_OPENS; round++)
        if (live(round) != 0)
            return 1;
    for (uint32_t round = 0; round < N_BRIEF; round++)
        if (live_briefly(round) != 0)
            return 1;
    printf("race_server: %u answered, %u refused, %u left, %u wrong\n", atomic_load(&n_good),
           atomic_load(&n_refused), atomic_load(&n_left), atomic_load(&n_wrong));
    return n_good > 0 && n_refused > 0 && n_left > 0 && n_wrong == 0 ? 0 : 1;
}
