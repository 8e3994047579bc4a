/* SPDX-License-Identifier: Apache-2.0
 *
 * notify.c - tells systemd how far the daemon is: one datagram to the socket it named.  The
 * protocol is a dozen lines, less than a library would cost.
 */
#include "server/commands/commands.h"

#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void cmd_notify(const char *socket_path, const char *state)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    size_t len = socket_path ? strlen(socket_path) : 0;
    if (len < 2 || len >= sizeof(to.sun_path) || (socket_path[0] != '/' && socket_path[0] != '@'))
        return;
    memcpy(to.sun_path, socket_path, len);
    if (to.sun_path[0] == '@') /* an abstract address */
        to.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    /* Nobody listening is no reason to stop serving. */
    (void)sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&to,
                 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len));
    close(fd);
}
