# SPDX-License-Identifier: Apache-2.0
"""bench_serve.py hostile: the latency of well-behaved clients alone and beside a crowd of bad ones."""
import asyncio
import collections
import json
import math
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import time

import harness
import http_load
from crowd import ECHO
from http_load import quantile

BAR = 1.10
# Kind of the crowd (crowd.py), how many, the crowd it is compared with, and what the line calls it.
CROWDS = (("headers", 500, None, "dribbled headers"),
          ("body", 500, None, "half-open bodies"),
          ("idle", 2000, None, "idle connections"),
          ("unread", 16, None, "streams that are made and not read"),
          ("running", 4, "reading", "running streams that are not read, against the same ones read"))


class Crowd:
    """crowd.py, from its "ready" to leave()."""

    def __init__(self, port, kind, count):
        program = pathlib.Path(__file__).with_name("crowd.py")
        self.process = subprocess.Popen([sys.executable, "-B", program, str(port), kind, str(count)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == "ready\n"

    def leave(self):
        self.process.stdin.close()
        counts = json.loads(self.process.stdout.readline())
        assert self.process.wait() == 0
        return counts


async def well_behaved(port, options):
    """Latencies of short completions, each over a connection of its own; of those that failed, infinite."""
    rng = random.Random()
    latencies = []
    end = time.perf_counter() + options.seconds

    async def client():
        while time.perf_counter() < end:
            body = {"prompt": http_load.words(rng, 12), "max_tokens": 8, "temperature": 0, "ignore_eos": True}
            answer = await http_load.ask(port, http_load.request_bytes("/v1/completions", body), 30)
            latencies.append(answer.seconds if answer.is_good else math.inf)

    await asyncio.gather(*[client() for _ in range(options.clients)])
    return latencies


async def settle(port):
    """Until the last crowd is gone: the one connection left is the one that asks."""
    await http_load.until(port, "lacuna_requests_running", lambda n: n == 0)
    await http_load.until(port, "lacuna_http_connections", lambda n: n == 1)


async def measure(port, options, kind, count):
    """The well-behaved clients beside this crowd (None: alone): p95, failures, and what the crowd says of itself."""
    if kind is None:
        return figures(await well_behaved(port, options), {})
    if kind == "unread":  # making is not what this is about, but holding what was made
        assert (await http_load.ask(port, ECHO)).is_good  # now its prompt is in the cache
    n_made = await http_load.sum_of(port, "lacuna_request_success_total")
    crowd = Crowd(port, kind, count)
    if kind == "unread":
        await http_load.until(port, "lacuna_request_success_total", lambda n: n == n_made + count)
        n_held = await http_load.sum_of(port, "lacuna_sse_streams")
        assert n_held == count, f"{n_held} of {count} streams wait for their readers"
    latencies = await well_behaved(port, options)
    counts = crowd.leave()
    await settle(port)
    return figures(latencies, counts)


def figures(latencies, counts):
    return quantile(latencies, 0.95), latencies.count(math.inf), collections.Counter(counts)


async def pair(port, options, crowd, is_first_alone):
    kind, count, peer, _ = crowd
    halves = {}
    for name in (peer, kind) if is_first_alone else (kind, peer):
        halves[name] = await measure(port, options, name, count)
    return halves[peer], halves[kind]


async def bench(options):
    if options.files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options.files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    # Until it is tokenized, a prompt counts among the waiting ones with its bytes: those of the crowd are large.
    with harness.Server("--max-queue-tokens", "10000000") as server:
        print(f"well-behaved: {options.clients} clients; the server may open "
              f"{await http_load.sum_of(server.port, 'process_max_fds'):.0f} files")
        await well_behaved(server.port, options)  # a warm start
        for crowd in CROWDS:
            if options.crowd and crowd[0] not in options.crowd:
                continue
            pairs = [await pair(server.port, options, crowd, i % 2 == 0) for i in range(options.rounds)]
            report(crowd, pairs)


def report(crowd, pairs):
    _, count, _, name = crowd
    ratios = [beside[0] / alone[0] for alone, beside in pairs]
    alone, beside = (statistics.median(half[0] for half in column) * 1e3 for column in zip(*pairs))
    counts = sum((half[2] for _, half in pairs), collections.Counter())
    n_failed = [sum(half[1] for half in column) for column in zip(*pairs)]
    print(f"{count} {name}: p95 of the others {alone:.1f} ms -> {beside:.1f} ms, {statistics.median(ratios):.2f}x "
          f"(bar {BAR:.2f}x; pairs {' '.join(f'{r:.2f}' for r in ratios)}); failed {n_failed[0]} -> {n_failed[1]}\n"
          f"  the crowd: {counts['open'] / len(pairs):.0f} open at the end, {counts['connects']} connects, "
          f"{counts['hung_up']} hung up on, {counts['cpu_s']:.1f} s of CPU", flush=True)
