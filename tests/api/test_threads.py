# SPDX-License-Identifier: Apache-2.0
"""Which thread may run where: --pin-threads is about those that compute, and about no others."""
import os
import pathlib

from harness import until


def affinities(process):
    """The CPUs of each thread, by the threads' names."""
    found = {}
    for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
        found.setdefault((task / "comm").read_text().strip(), []).append(os.sched_getaffinity(int(task.name)))
    return found


def test_pinned_threads_are_those_that_compute(start):
    client = start("--pin-threads", "--threads", "2")
    allowed = os.sched_getaffinity(0)
    assert client.complete(max_tokens=2)["usage"]["completion_tokens"] == 2
    until(lambda: "lacuna-worker" in affinities(client.server.process))
    found = affinities(client.server.process)
    computing = found.pop("lacuna-sched") + found.pop("lacuna-worker")
    assert [len(cpus) for cpus in computing] == [1, 1]
    assert len(set.union(*computing)) == min(2, len(allowed))
    assert all(cpus == allowed for others in found.values() for cpus in others)


def test_no_thread_is_pinned_unasked(client):
    allowed = os.sched_getaffinity(0)
    assert all(cpus == allowed for cpus in sum(affinities(client.server.process).values(), []))


def test_more_pinned_threads_than_cores_are_said(start):
    n = len(os.sched_getaffinity(0)) + 1
    server = start("--pin-threads", "--threads", str(n)).server
    assert f"{n} threads are pinned to" in server.log()
