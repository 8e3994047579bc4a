/* SPDX-License-Identifier: Apache-2.0
 *
 * tls.c - HTTPS: the only file that knows GnuTLS.
 *
 * libmicrohttpd runs the sessions; ours are the certificates, and two things that it leaves open:
 *
 * Which pair a handshake uses is asked for by callback, so that a reload takes effect with the next
 * connection.  GnuTLS borrows the pair for the session's life: the connection holds a reference.
 *
 * A handshake that waits for the client must not keep the thread busy.  libmicrohttpd 0.9.75 goes on
 * taking a connection for readable until a read of *the request* found nothing, so a client that
 * sends one byte and falls silent would cost a whole core.  Reads therefore go through `pull`, which
 * suspends a connection whose handshake found nothing to read; the watch resumes it.
 */
#include "server/http/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <microhttpd.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "server/http/http.h"
#include "server/live.h"

enum {
    TLS_MAX_FILE = 1 << 20,
    TLS_SERIAL_BYTES = 32, /* RFC 5280 allows 20 */
    TLS_ID_BYTES = 32,     /* SHA-256 */
};
/* Nothing older than TLS 1.2, whatever the machine's policy allows; DTLS is not spoken at all. */
static const char tls_priorities[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";

struct tls_pair {
    atomic_uint refs;
    gnutls_pcert_st *certs;
    unsigned n_certs;
    gnutls_privkey_t key;
    char serial[2 * TLS_SERIAL_BYTES + 1];
    char expires[32];
    char warning[400]; /* "": none */
};

/* ---- reading the files ---- */

static int bad_file(const char *option, const char *path, const char *what, struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_OPTION, "%s '%.200s': %s", option, path, what);
}

static int no_memory(struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the TLS certificate");
}

static int read_text(const char *option, const char *path, gnutls_datum_t *out,
                     struct engine_err *err)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return bad_file(option, path, strerror(errno), err);
    *out = (gnutls_datum_t){ .data = malloc(TLS_MAX_FILE) };
    size_t n = out->data ? fread(out->data, 1, TLS_MAX_FILE, f) : 0;
    int failed = ferror(f) ? errno : 0;
    fclose(f);
    out->size = (unsigned)n;
    if (!out->data)
        return no_memory(err);
    if (failed)
        return bad_file(option, path, strerror(failed), err);
    return n < TLS_MAX_FILE ? 0 : bad_file(option, path, "larger than 1 MiB", err);
}

static void free_text(gnutls_datum_t *text)
{
    if (text->data)
        explicit_bzero(text->data, text->size);
    free(text->data);
}

static int import_chain(const char *path, gnutls_x509_crt_t **out, unsigned *n,
                        struct engine_err *err)
{
    gnutls_datum_t text = { 0 };
    int rc = read_text("tls-cert", path, &text, err);
    if (rc == 0) {
        int code = gnutls_x509_crt_list_import2(out, n, &text, GNUTLS_X509_FMT_PEM, 0);
        if (code == GNUTLS_E_NO_CERTIFICATE_FOUND || code == GNUTLS_E_BASE64_DECODING_ERROR)
            rc = bad_file("tls-cert", path, "holds no certificate in PEM", err);
        else if (code < 0)
            rc = bad_file("tls-cert", path, gnutls_strerror(code), err);
    }
    free_text(&text);
    return rc;
}

static const char *key_problem(int code)
{
    if (code == GNUTLS_E_DECRYPTION_FAILED)
        return "asks for a pass phrase; the key must be stored without";
    if (code == GNUTLS_E_NO_CERTIFICATE_FOUND || code == GNUTLS_E_BASE64_DECODING_ERROR ||
        code == GNUTLS_E_BASE64_UNEXPECTED_HEADER_ERROR ||
        code == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
        return "holds no private key in PEM";
    return gnutls_strerror(code);
}

/* *out is to be freed even on failure, if it is not NULL. */
static int import_key(const char *path, gnutls_x509_privkey_t *out, struct engine_err *err)
{
    gnutls_datum_t text = { 0 };
    int rc = read_text("tls-key", path, &text, err);
    if (rc == 0 && gnutls_x509_privkey_init(out) < 0)
        rc = no_memory(err);
    if (rc == 0) {
        int code = gnutls_x509_privkey_import2(*out, &text, GNUTLS_X509_FMT_PEM, NULL, 0);
        if (code < 0)
            rc = bad_file("tls-key", path, key_problem(code), err);
    }
    free_text(&text);
    return rc;
}

static bool belong_together(gnutls_x509_crt_t cert, gnutls_x509_privkey_t key)
{
    unsigned char of_cert[TLS_ID_BYTES], of_key[TLS_ID_BYTES];
    size_t n_cert = sizeof(of_cert), n_key = sizeof(of_key);
    if (gnutls_x509_crt_get_key_id(cert, GNUTLS_KEYID_USE_SHA256, of_cert, &n_cert) < 0 ||
        gnutls_x509_privkey_get_key_id(key, GNUTLS_KEYID_USE_SHA256, of_key, &n_key) < 0)
        return false;
    return n_cert == n_key && memcmp(of_cert, of_key, n_cert) == 0;
}

/* ---- what is to be said of a certificate ---- */

static void time_text(time_t t, char *out, size_t cap)
{
    struct tm utc;
    if (!gmtime_r(&t, &utc) || strftime(out, cap, "%Y-%m-%dT%H:%M:%SZ", &utc) == 0)
        snprintf(out, cap, "never");
}

static void note_serial(struct tls_pair *p, gnutls_x509_crt_t cert)
{
    unsigned char serial[TLS_SERIAL_BYTES];
    size_t n = sizeof(serial);
    if (gnutls_x509_crt_get_serial(cert, serial, &n) < 0)
        n = 0;
    for (size_t i = 0; i < n; i++)
        snprintf(p->serial + 2 * i, 3, "%02x", serial[i]);
}

static void note_facts(struct tls_pair *p, gnutls_x509_crt_t cert, const char *path)
{
    time_t now = time(NULL), from = gnutls_x509_crt_get_activation_time(cert),
           to = gnutls_x509_crt_get_expiration_time(cert);
    char begins[32];
    note_serial(p, cert);
    time_text(to, p->expires, sizeof(p->expires));
    time_text(from, begins, sizeof(begins));
    if (now > to)
        snprintf(p->warning, sizeof(p->warning),
                 "tls-cert '%.200s': the certificate expired at %s: clients will refuse it", path,
                 p->expires);
    else if (now < from)
        snprintf(
            p->warning, sizeof(p->warning),
            "tls-cert '%.200s': the certificate is not valid before %s: clients will refuse it",
            path, begins);
}

const char *tls_pair_serial(const struct tls_pair *p)
{
    return p->serial;
}

const char *tls_pair_expires(const struct tls_pair *p)
{
    return p->expires;
}

const char *tls_pair_warning(const struct tls_pair *p)
{
    return p->warning[0] ? p->warning : NULL;
}

/* ---- the pair ---- */

static void pair_free(struct tls_pair *p)
{
    for (unsigned i = 0; i < p->n_certs; i++)
        gnutls_pcert_deinit(&p->certs[i]);
    free(p->certs);
    if (p->key)
        gnutls_privkey_deinit(p->key);
    free(p);
}

/* In the form that sessions take; key is copied. */
static int fill_pair(struct tls_pair *p, gnutls_x509_crt_t *chain, unsigned n,
                     gnutls_x509_privkey_t key, struct engine_err *err)
{
    p->certs = calloc(n, sizeof(*p->certs));
    if (!p->certs || gnutls_privkey_init(&p->key) < 0)
        return no_memory(err);
    for (; p->n_certs < n; p->n_certs++)
        if (gnutls_pcert_import_x509(&p->certs[p->n_certs], chain[p->n_certs], 0) < 0)
            return no_memory(err);
    return gnutls_privkey_import_x509(p->key, key, GNUTLS_PRIVKEY_IMPORT_COPY) < 0 ? no_memory(err)
                                                                                   : 0;
}

static int make_pair(struct tls_pair **out, gnutls_x509_crt_t *chain, unsigned n,
                     gnutls_x509_privkey_t key, const char *cert_file, struct engine_err *err)
{
    struct tls_pair *p = calloc(1, sizeof(*p));
    if (!p)
        return no_memory(err);
    atomic_init(&p->refs, 1);
    note_facts(p, chain[0], cert_file);
    if (fill_pair(p, chain, n, key, err) != 0) {
        pair_free(p);
        return -1;
    }
    *out = p;
    return 0;
}

int tls_pair_open(struct tls_pair **out, const char *cert_file, const char *key_file,
                  struct engine_err *err)
{
    gnutls_x509_crt_t *chain = NULL;
    gnutls_x509_privkey_t key = NULL;
    unsigned n = 0;
    *out = NULL;
    int rc = import_chain(cert_file, &chain, &n, err);
    if (rc == 0)
        rc = import_key(key_file, &key, err);
    if (rc == 0 && !belong_together(chain[0], key))
        rc = engine_fail(err, ENGINE_ERR_OPTION,
                         "tls-key '%.200s' is not the key of the first certificate in '%.200s'",
                         key_file, cert_file);
    if (rc == 0)
        rc = make_pair(out, chain, n, key, cert_file, err);
    for (unsigned i = 0; i < n; i++)
        gnutls_x509_crt_deinit(chain[i]);
    gnutls_free(chain);
    if (key)
        gnutls_x509_privkey_deinit(key);
    return rc;
}

struct tls_pair *tls_pair_get(struct tls_pair *p)
{
    atomic_fetch_add(&p->refs, 1);
    return p;
}

void tls_pair_put(struct tls_pair *p)
{
    if (p && atomic_fetch_sub(&p->refs, 1) == 1)
        pair_free(p);
}

/* ---- the daemon's side ---- */

static gnutls_session_t session_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(
        mhd, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    return info ? info->tls_session : NULL;
}

/* gnutls_certificate_retrieve_function2: the certificate that counts now, for whatever is asked. */
static int choose_pair(gnutls_session_t session, const gnutls_datum_t *authorities,
                       int n_authorities, const gnutls_pk_algorithm_t *algorithms, int n_algorithms,
                       gnutls_pcert_st **certs, unsigned *n_certs, gnutls_privkey_t *key)
{
    (void)authorities, (void)n_authorities, (void)algorithms, (void)n_algorithms;
    struct http_conn *conn = http_conn_of(gnutls_transport_get_ptr(session));
    if (!conn)
        return -1;
    struct live *live = srv_live(conn->listener->http->srv);
    tls_pair_put(conn->pair); /* of a first attempt at the same handshake */
    conn->pair = live->tls ? tls_pair_get(live->tls) : NULL;
    live_put(live);
    if (!conn->pair)
        return -1;
    *certs = conn->pair->certs;
    *n_certs = conn->pair->n_certs;
    *key = conn->pair->key;
    return 0;
}

/* gnutls_handshake_hook_func: "finished" is the last message that a client sends, in TLS 1.2 and
 * 1.3. */
static int on_finished(gnutls_session_t session, unsigned type, unsigned when, unsigned incoming,
                       const gnutls_datum_t *message)
{
    (void)type, (void)when, (void)message;
    struct http_conn *conn = http_conn_of(gnutls_transport_get_ptr(session));
    int on = 1;
    if (!conn || !incoming)
        return 0;
    conn->is_secured = true;
    /* Nothing is sent back in TLS 1.3: a client without TCP_NODELAY would hold its request back until
     * this message is acknowledged, which the kernel otherwise puts off for 40 ms. */
    setsockopt(conn->fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
    return 0;
}

/* gnutls_pull_func: recv, by the rules at the top of this file. */
static ssize_t pull(gnutls_transport_ptr_t ptr, void *dst, size_t n)
{
    struct http_conn *conn = http_conn_of(ptr);
    if (!conn)
        return 0; /* there was no memory for it: as if the client had gone */
    ssize_t got = recv(conn->fd, dst, n, 0);
    int saved = errno;
    if (got < 0 && saved == EAGAIN && !conn->is_secured)
        watch_suspend(conn);
    errno = saved;
    return got;
}

void tls_begin(struct MHD_Connection *mhd, int fd)
{
    gnutls_session_t session = session_of(mhd);
    if (!session)
        return;
    gnutls_handshake_set_hook_function(session, GNUTLS_HANDSHAKE_FINISHED, GNUTLS_HOOK_POST,
                                       on_finished);
    gnutls_transport_set_pull_function(session, pull);
    gnutls_transport_set_ptr2(session, mhd, (gnutls_transport_ptr_t)(intptr_t)fd);
}

void tls_daemon_options(struct MHD_OptionItem *items)
{
    gnutls_certificate_retrieve_function2 *callback = choose_pair;
    items[0] = (struct MHD_OptionItem){ MHD_OPTION_HTTPS_PRIORITIES, 0,
                                        (void *)(uintptr_t)tls_priorities };
    items[1] = (struct MHD_OptionItem){ MHD_OPTION_HTTPS_CERT_CALLBACK, 0,
                                        (void *)(uintptr_t)callback };
}

/* ---- a client ---- */

struct tls_client {
    gnutls_session_t session;
    gnutls_certificate_credentials_t credentials;
};

static int client_failed(const char *what, int code, struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_IO, "TLS: %s: %s", what, gnutls_strerror(code));
}

static bool is_ip(const char *host)
{
    unsigned char address[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

static int prepare_client(struct tls_client *c, int fd, const char *host, bool verify)
{
    int code = gnutls_init(&c->session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL);
    if (code >= 0)
        code = gnutls_certificate_allocate_credentials(&c->credentials);
    if (code >= 0)
        code = gnutls_priority_set_direct(c->session, tls_priorities, NULL);
    if (code >= 0)
        code = gnutls_credentials_set(c->session, GNUTLS_CRD_CERTIFICATE, c->credentials);
    if (code >= 0 && !is_ip(host)) /* names only: RFC 6066 */
        code = gnutls_server_name_set(c->session, GNUTLS_NAME_DNS, host, strlen(host));
    if (code >= 0 && verify) {
        code = gnutls_certificate_set_x509_system_trust(c->credentials);
        gnutls_session_set_verify_cert(c->session, host, 0);
    }
    if (code >= 0)
        gnutls_transport_set_int(c->session, fd);
    return code;
}

static int shake_hands(struct tls_client *c, struct engine_err *err)
{
    int code;
    do /* EAGAIN is the socket's time limit */
        code = gnutls_handshake(c->session);
    while (code < 0 && code != GNUTLS_E_AGAIN && !gnutls_error_is_fatal(code));
    if (code == GNUTLS_E_AGAIN)
        return engine_fail(err, ENGINE_ERR_IO, "TLS: no handshake in time");
    if (code == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR)
        return engine_fail(err, ENGINE_ERR_IO, "TLS: its certificate is not to be trusted");
    return code < 0 ? client_failed("handshake", code, err) : 0;
}

int tls_client_open(struct tls_client **out, int fd, const char *host, bool verify,
                    struct engine_err *err)
{
    *out = NULL;
    struct tls_client *c = calloc(1, sizeof(*c));
    if (!c)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for TLS");
    int code = prepare_client(c, fd, host, verify);
    if (code < 0)
        client_failed("cannot start", code, err);
    if (code < 0 || shake_hands(c, err) != 0) {
        tls_client_close(c);
        return -1;
    }
    *out = c;
    return 0;
}

ssize_t tls_client_send(struct tls_client *c, const void *src, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t sent = gnutls_record_send(c->session, (const char *)src + at, n - at);
        if (sent <= 0 && sent != GNUTLS_E_INTERRUPTED)
            return -1;
        if (sent > 0)
            at += (size_t)sent;
    }
    return (ssize_t)n;
}

ssize_t tls_client_recv(struct tls_client *c, void *dst, size_t n)
{
    ssize_t got;
    do { /* EAGAIN also comes after a message of the protocol's own, such as a ticket */
        errno = 0;
        got = gnutls_record_recv(c->session, dst, n);
    } while (got == GNUTLS_E_INTERRUPTED || (got == GNUTLS_E_AGAIN && errno != EAGAIN));
    return got < 0 ? -1 : got;
}

void tls_client_close(struct tls_client *c)
{
    if (!c)
        return;
    if (c->session)
        gnutls_deinit(c->session);
    if (c->credentials)
        gnutls_certificate_free_credentials(c->credentials);
    free(c);
}
