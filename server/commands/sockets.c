/* SPDX-License-Identifier: Apache-2.0
 *
 * sockets.c - listening sockets that systemd opened for us (socket activation): the daemon can be
 * restarted without a moment in which nobody listens, and may listen where it has no right to bind.
 */
#include "server/commands/notify.h"

#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "server/server.h"

static const char metrics_name[] = "metrics";

int notify_take_sockets(struct srv_socket *out, int cap)
{
    char **names = NULL;
    int n = sd_listen_fds_with_names(1, &names);
    for (int i = 0; i < n && i < cap; i++)
        out[i] = (struct srv_socket){
            .fd = SD_LISTEN_FDS_START + i,
            .metrics_only = names && strcmp(names[i], metrics_name) == 0,
        };
    for (int i = 0; names && names[i]; i++)
        free(names[i]);
    free(names);
    return n < 0 || n > cap ? -1 : n;
}
