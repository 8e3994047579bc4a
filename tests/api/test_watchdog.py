# SPDX-License-Identifier: Apache-2.0
"""An engine that stands still: the probes say so, then the process ends for its supervisor.

A thread is made to stand still as a debugger does it: stopped by ptrace, alone.
"""
import ctypes
import os
import pathlib
import threading
import time

import httpx
import pytest

from harness import SANITIZED, Server, Systemd, until

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
ANY_THREAD = 0x40000000  # __WALL: also those that are no process's first
LONG = {"prompt": "1, 2, 3,", "max_tokens": 4000, "temperature": 0, "ignore_eos": True}

pytestmark = pytest.mark.skipif(SANITIZED, reason="a sanitizer's own ptrace, and its slowness, are in the way")


def threads_of(process, name):
    tasks = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
    return [int(task.name) for task in tasks if (task / "comm").read_text().strip() == name]


class Stopped:
    """Holds one thread of a process.  ptrace belongs to the thread that called it: one for all calls."""

    def __init__(self, tid):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        self.tid = tid

    def call(self, request):
        if self.libc.ptrace(request, self.tid, None, None) != 0:
            pytest.skip(f"ptrace is not allowed here: {os.strerror(ctypes.get_errno())}")

    def __enter__(self):
        self.call(PTRACE_SEIZE)
        self.call(PTRACE_INTERRUPT)
        os.waitpid(self.tid, ANY_THREAD)
        return self

    def __exit__(self, *_):
        # A thread that was ended meanwhile is no longer there to let go, and is waited for here, even if it ends just now:
        # else its process does not end for anybody.
        ended, _ = os.waitpid(self.tid, ANY_THREAD | os.WNOHANG)
        if not ended and self.libc.ptrace(PTRACE_DETACH, self.tid, None, None) != 0:
            os.waitpid(self.tid, ANY_THREAD)


def begin_long(server):
    def run():
        try:
            httpx.post(server.url + "/v1/completions", json=LONG, timeout=120)
        except httpx.TransportError:
            pass  # the process ends under it
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    metric = "lacuna_requests_running"
    until(lambda: any(line.startswith(metric + "{") and not line.endswith(" 0")
                      for line in httpx.get(server.url + "/metrics", timeout=10).text.splitlines()),
          20, "a running request")
    return thread


def test_an_engine_that_stands_still_fails_the_probes_then_ends_with_70():
    server = Server("--watchdog", "1s")
    try:
        begin_long(server)
        [tid] = threads_of(server.process, "lacuna-sched")
        with Stopped(tid):
            until(lambda: httpx.get(server.url + "/live", timeout=5).status_code == 503, 10, "/live 503")
            assert httpx.get(server.url + "/ready", timeout=5).status_code == 503
            refused = httpx.post(server.url + "/v1/completions", json={"prompt": "a"}, timeout=5)
            assert refused.status_code in (500, 503)
            assert refused.json()["error"]["message"]
            assert "engine_dead" not in server.log(), "the second watchdog time is for those who recover"
            until(lambda: "engine_dead" in server.log(), 10, "the end")
        assert server.wait_exit(20) == 70, server.log()
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def test_an_engine_that_moves_again_is_served_by_again():
    with Server("--watchdog", "2s", "--drain-timeout", "1s") as server:
        begin_long(server)
        [tid] = threads_of(server.process, "lacuna-sched")
        with Stopped(tid):
            until(lambda: httpx.get(server.url + "/live", timeout=5).status_code == 503, 10, "/live 503")
        until(lambda: httpx.get(server.url + "/live", timeout=5).status_code == 200, 10, "/live 200")
        answer = httpx.post(server.url + "/v1/completions", json={"prompt": "a", "max_tokens": 1}, timeout=30)
        assert answer.status_code == 200


def test_systemd_hears_nothing_of_an_engine_that_stands_still(tmp_path):
    systemd = Systemd(tmp_path)
    environment = {"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "1500000"}
    with Server("--drain-timeout", "1s", environment=environment) as server:
        begin_long(server)
        said = systemd.times_of("WATCHDOG=1")
        until(lambda: len(systemd.times_of("WATCHDOG=1")) >= len(said) + 3, 5, "alive under load")
        [tid] = threads_of(server.process, "lacuna-sched")
        with Stopped(tid):
            stopped = time.monotonic()
            time.sleep(4)
            assert [t for t in systemd.times_of("WATCHDOG=1") if t > stopped + 1.25] == []
        moving = time.monotonic()
        until(lambda: [t for t in systemd.times_of("WATCHDOG=1") if t > moving], 5, "alive again")
