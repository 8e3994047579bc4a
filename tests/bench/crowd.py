#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A crowd of bad clients as a process of its own: sockets and epoll, and as little computing as there can be.

usage: crowd.py PORT KIND COUNT

  headers  a request whose headers arrive a byte every 5 seconds
  body     half a body, and no more
  idle     a connection on which nothing is said
  unread   a stream that is soon made and not read: the echo of a prompt, more bytes than a socket's buffers take
  running  a long stream that is not read
  reading  the same long stream, read at once: what `running` is to be compared with

Says "ready" once all are connected and have said what they say first, or after a minute.  Whoever is hung up on comes
back, but for `unread` (after 30 seconds), whose work would be done again.  Ends when its standard input does, and then
says as JSON how many are connected, how often they connected and were hung up on, and what processor time that took.
"""
import errno
import json
import resource
import select
import socket
import sys
import time

TICK_S = 0.1
DRIP_S = 5
CONNECTS_PER_TICK = 200
READY_S = 60
HEAD = ("POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        "Content-Type: application/json\r\n")


def with_body(fields, n_missing=0):
    data = json.dumps(fields)
    return f"{HEAD}Content-Length: {len(data) + n_missing}\r\n\r\n{data}".encode()


LONG = with_body({"prompt": "1, 2, 3,", "max_tokens": 7000, "temperature": 0, "ignore_eos": True, "stream": True})
# A token is up to 64 dashes: many bytes, little to compute.
ECHO = with_body({"prompt": "-" * 200000, "max_tokens": 1, "echo": True, "stream": True})
FIRST_WORDS = {"headers": f"{HEAD}X-Slow: ".encode(), "body": with_body({"prompt": "a" * 400}, n_missing=500),
               "idle": b"", "unread": ECHO, "running": LONG, "reading": LONG}


class Crowd:
    def __init__(self, port, kind, count):
        self.port, self.kind, self.count = port, kind, count
        self.epoll = select.epoll()
        self.sockets = {}  # by descriptor
        self.n_speaking = self.n_connects = self.n_hung_up = 0
        self.drip_at = 0

    def connect(self):
        one = socket.socket()
        one.setblocking(False)
        if self.kind in ("unread", "running"):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        status = one.connect_ex(("127.0.0.1", self.port))
        if status not in (0, errno.EINPROGRESS):
            one.close()
            return
        self.sockets[one.fileno()] = one
        self.n_connects += 1
        self.epoll.register(one, select.EPOLLOUT | select.EPOLLRDHUP)

    def speak(self, one):
        """Once connected.  The first words fit a socket's buffer, or are not said again."""
        self.epoll.modify(one, select.EPOLLRDHUP | (select.EPOLLIN if self.kind == "reading" else 0))
        one.setblocking(self.kind == "unread")
        one.sendall(FIRST_WORDS[self.kind])
        one.setblocking(False)
        self.n_speaking += 1

    def drop(self, one):
        del self.sockets[one.fileno()]
        self.n_hung_up += 1
        one.close()

    def on_event(self, fd, events):
        one = self.sockets[fd]
        try:
            if events & (select.EPOLLHUP | select.EPOLLERR):
                self.drop(one)
            elif events & select.EPOLLOUT:
                self.speak(one)
            elif events & select.EPOLLIN and one.recv(65536):
                pass
            else:
                self.drop(one)
        except OSError:
            self.drop(one)

    def drip(self):
        """A byte to the part of the crowd whose turn it is."""
        n_turns = int(DRIP_S / TICK_S)
        self.drip_at = (self.drip_at + 1) % n_turns
        for fd, one in list(self.sockets.items()):
            if fd % n_turns == self.drip_at:
                try:
                    one.send(b"a")
                except BlockingIOError:
                    pass
                except OSError:
                    self.drop(one)

    def tick(self):
        n_wanted = self.count if self.kind != "unread" else self.count - self.n_hung_up
        for _ in range(min(CONNECTS_PER_TICK, n_wanted - len(self.sockets))):
            self.connect()
        if self.kind == "headers":
            self.drip()

    def run(self):
        self.epoll.register(0, select.EPOLLIN)
        is_ready, begin, next_tick = False, time.monotonic(), 0
        while True:
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_S
                self.tick()
            for fd, events in self.epoll.poll(TICK_S):
                if fd == 0:
                    return
                if fd in self.sockets:
                    self.on_event(fd, events)
            if not is_ready and (self.n_speaking >= self.count or time.monotonic() > begin + READY_S):
                is_ready = True
                print("ready", flush=True)


def main():
    if len(sys.argv) != 4 or sys.argv[2] not in FIRST_WORDS:
        sys.exit(__doc__)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crowd = Crowd(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    crowd.run()
    cpu_s = round(time.process_time(), 2)
    print(json.dumps({"open": len(crowd.sockets), "connects": crowd.n_connects, "hung_up": crowd.n_hung_up,
                      "cpu_s": cpu_s}))


if __name__ == "__main__":
    main()
