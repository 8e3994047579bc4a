# SPDX-License-Identifier: Apache-2.0
"""A server process of any make, for as long as its clients need it."""
import asyncio
import contextlib
import os
import socket
import subprocess
import time

import http_load

READY_SECONDS, STOP_SECONDS = 120, 30


def with_libraries(folder):
    """The environment of a program whose libraries lie beside it."""
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")]))
    return dict(os.environ, LD_LIBRARY_PATH=paths)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def wait_ready(server, port):
    deadline = time.perf_counter() + READY_SECONDS
    while not (await http_load.ask(port, http_load.request_bytes("/health"), 5)).is_good:
        if server.poll() is not None:
            raise SystemExit(f"{server.args[0]} ended with {server.returncode}")
        if time.perf_counter() > deadline:
            raise SystemExit(f"{server.args[0]} is not ready after {READY_SECONDS} s")
        await asyncio.sleep(0.1)


@contextlib.contextmanager
def serving(command, port, environment=None):
    """The process, ready on that port; it is stopped afterwards."""
    server = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              env=environment)
    try:
        asyncio.run(wait_ready(server, port))
        yield server
    finally:
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
