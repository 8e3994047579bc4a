/* SPDX-License-Identifier: Apache-2.0
 *
 * tls.h - certificates, what the daemon needs to serve them, and a client that knows no more than a
 * health check does.  tls.c alone knows GnuTLS.
 */
#ifndef LACUNA_SERVER_TLS_H
#define LACUNA_SERVER_TLS_H

#include <sys/types.h>

#include "engine/engine.h"

struct MHD_Connection;
struct MHD_OptionItem;

/* ---- a certificate chain and its key ---- */

/* Read-only once opened, counted by references; any thread. */
struct tls_pair;

/* Reads both files (PEM; the server's own certificate first, then those that signed it) and holds
 * the key against the certificate.  ENGINE_ERR_OPTION names the file that is wrong. */
int tls_pair_open(struct tls_pair **out, const char *cert_file, const char *key_file,
                  struct engine_err *err);
struct tls_pair *tls_pair_get(struct tls_pair *p); /* another reference */
void tls_pair_put(struct tls_pair *p);             /* NULL is fine */

const char *tls_pair_serial(const struct tls_pair *p);  /* hexadecimal */
const char *tls_pair_expires(const struct tls_pair *p); /* "2027-01-31T12:00:00Z" */
/* A sentence on a certificate that is not valid at the time it was opened; NULL if it is. */
const char *tls_pair_warning(const struct tls_pair *p);

/* ---- the daemon's side: connection.c ---- */

enum { TLS_N_OPTIONS = 2 };
/* Fills the TLS_N_OPTIONS items that a daemon with MHD_USE_TLS is to be started with.  The pair is
 * the one of srv->live at the time of each handshake. */
void tls_daemon_options(struct MHD_OptionItem *items);
/* For each new connection, once its context is set and before it is read from. */
void tls_begin(struct MHD_Connection *mhd, int fd);

/* ---- a client ---- */

struct tls_client;

/* Shakes hands on a connected, blocking socket, which stays the caller's.  With verify the answer
 * must come with a certificate for host that the machine's authorities signed.  ENGINE_ERR_IO says
 * why not. */
int tls_client_open(struct tls_client **out, int fd, const char *host, bool verify,
                    struct engine_err *err);
ssize_t tls_client_send(struct tls_client *c, const void *src, size_t n); /* all of it, or -1 */
ssize_t tls_client_recv(struct tls_client *c, void *dst, size_t n);       /* as recv */
void tls_client_close(struct tls_client *c);                              /* NULL is fine */

#endif
