# SPDX-License-Identifier: Apache-2.0
"""bench_serve.py overload: four times as many requests as the server can serve, for minutes."""
import asyncio
import collections
import math
import os
import random
import re
import statistics
import time

import harness
import http_load
from http_load import quantile

FACTOR = 4
BAR = 0.90
N_CLIENTS = (32, 96, 192)  # of the closed loop: the best of them is the capacity


def request(rng):
    return http_load.stream_bytes(http_load.words(rng, rng.randint(10, 200)), rng.randint(16, 64))


class Phase:
    """Answers, and the time in which their tokens count: also those of answers that end later, if they end well."""

    def __init__(self):
        self.begin = time.perf_counter()
        self.counted_from = self.end = math.inf
        self.answers = []

    def count_for(self, seconds, since=None):
        self.counted_from = time.perf_counter() if since is None else since
        self.end = self.counted_from + seconds

    def served(self):
        return [a for a in self.answers if a.is_good]

    def tokens_per_s(self):
        return sum(a.n_tokens(self.counted_from, self.end) for a in self.served()) / (self.end - self.counted_from)

    def requests_per_s(self):
        return self.tokens_per_s() / statistics.mean(a.n_tokens(-math.inf, math.inf) for a in self.served())


async def closed_loop(port, n_clients, seconds):
    """Counts once there were as many answers as clients: no longer do all want the same at the same time."""
    phase, rng = Phase(), random.Random()

    async def client():
        while time.perf_counter() < phase.end:
            answer = await http_load.ask(port, request(rng))
            phase.answers.append(answer)
            if not answer.is_good:  # at first, when all come at once
                await asyncio.sleep(0.2)
            elif phase.end == math.inf and len(phase.served()) >= n_clients:
                phase.count_for(seconds)

    await asyncio.gather(*[client() for _ in range(n_clients)])
    return phase


async def open_loop(port, rate, seconds):
    """Poisson arrivals; who is refused does not come again.  The first sixth, on an emptier server, does not count."""
    phase, rng, tasks = Phase(), random.Random(), set()
    phase.count_for(seconds * 5 / 6, phase.begin + seconds / 6)

    async def one():
        phase.answers.append(await http_load.ask(port, request(rng)))

    at = phase.begin
    while (at := at + rng.expovariate(rate)) < phase.end:
        await asyncio.sleep(at - time.perf_counter())
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return phase


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def watch_memory(pid, samples):
    """A sample a second, until cancelled."""
    while True:
        samples.append(resident_bytes(pid))
        await asyncio.sleep(1)


def is_right_refusal(answer):
    retry_after = answer.headers.get("retry-after", "")
    return (answer.status == 429 and not answer.error and re.fullmatch(r"\d+", retry_after) is not None
            and 1 <= int(retry_after) <= 60)


def report(capacity, phase, samples):
    refused = [a for a in phase.answers if not a.is_good and is_right_refusal(a)]
    wrong = collections.Counter(f"{a.status} {a.error or a.body[:200]}" for a in phase.answers
                                if not a.is_good and not is_right_refusal(a))
    served = phase.served()
    goodput = phase.tokens_per_s()
    print(f"overload: {len(phase.answers)} requests, {len(phase.answers) / (phase.end - phase.begin):.1f} a second; "
          f"goodput {goodput:.0f} tok/s of {capacity:.0f} ({100 * goodput / capacity:.0f} %; bar {100 * BAR:.0f} %)")
    retry_after = [int(a.headers["retry-after"]) for a in refused]
    print(f"  refused with 429 and Retry-After: {len(refused)} (Retry-After {spread(retry_after)} s; after "
          f"{middle_and_tail([a.seconds for a in refused])}); anything else: {dict(wrong) or 0} (bar 0)")
    print(f"  served: TTFT {middle_and_tail([a.seconds_to_first for a in served])}; whole answer "
          f"{middle_and_tail([a.seconds for a in served])}")
    n = len(samples)
    second, last = statistics.median(samples[n // 4:n // 2]), statistics.median(samples[3 * n // 4:])
    print(f"  resident memory, median of a quarter: second {second / 2**20:.1f} MiB, last {last / 2**20:.1f} MiB "
          f"({last / second:.3f}x; most {max(samples) / 2**20:.1f} MiB)")


def middle_and_tail(values):
    return f"p50 {quantile(values, 0.5):.3f} s, p95 {quantile(values, 0.95):.3f} s"


def spread(values):
    return f"{min(values)} to {max(values)}, median {statistics.median(values):.0f}" if values else "-"


async def bench(options):
    seconds = 60 * options.minutes
    with harness.Server("--log-level", "warn") as server:
        await closed_loop(server.port, 16, 1)  # a warm start
        before = {n: await closed_loop(server.port, n, seconds / 10) for n in N_CLIENTS}
        best = max(before, key=lambda n: before[n].tokens_per_s())
        rate = FACTOR * before[best].requests_per_s()
        print(f"capacity: {', '.join(f'{n} clients {phase.tokens_per_s():.0f} tok/s' for n, phase in before.items())}; "
              f"arrivals at {rate:.1f} a second", flush=True)
        samples = []
        watcher = asyncio.create_task(watch_memory(server.process.pid, samples))
        cpu_s, begin = time.process_time(), time.perf_counter()
        phase = await open_loop(server.port, rate, seconds)
        load = (time.process_time() - cpu_s) / (time.perf_counter() - begin)
        watcher.cancel()
        after = await closed_loop(server.port, best, seconds / 10)
    capacity = (before[best].tokens_per_s() + after.tokens_per_s()) / 2
    report(capacity, phase, samples)
    print(f"  capacity before {before[best].tokens_per_s():.0f}, after {after.tokens_per_s():.0f} tok/s; asking took "
          f"{100 * load:.0f} % of a core")
