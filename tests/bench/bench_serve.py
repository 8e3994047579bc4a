#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What users of a loaded server feel, each figure beside its baseline of the same run.

usage: bench_serve.py [OPTION...] [itl|prefix|choices|probes|streams|speculate|hostile|overload ...]  (default: the first six)

  itl      gaps between tokens of 4 streams while an 8K-token prompt is prefilled (gemma3-270m), against the same
           streams alone; and that prompt's time to its first token, against an idle server
  prefix   time to the first token of a prompt of about 1,000 tokens, first and second time
  choices  KV pages in use at a prompt of about 1,000 tokens, n = 8 against n = 1
  probes   latency of /health and /metrics while 16 clients keep the server busy
  streams  16 streams through HTTP, all of them decoding, against `lacuna bench` with a batch of 16, in turn
  speculate  tok/s with --speculate lookup against off, of streams that copy from their prompt and of ones that tell
           something new, 1 and 8 at once
  hostile  p95 latency of well-behaved clients beside dribbled headers, half-open bodies, 2,000 idle connections and
           streams that are not read, against the same clients without; --rounds pairs, in turn (see crowd.py)
  overload Poisson arrivals at four times the capacity for --minutes: goodput against the capacity, what the refused are
           told, memory

Needs build/venv (tests/run.sh makes it); run it with that Python, from anywhere.
"""
import argparse
import asyncio
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "api"))
import httpx  # noqa: E402

import harness  # noqa: E402
import hostile  # noqa: E402
import overload  # noqa: E402
from http_load import Answer, ask, exchange, quantile, stream_bytes, words  # noqa: E402


class Stream:
    """One streamed completion: when its tokens came."""

    def __init__(self, http, prompt, max_tokens, **fields):
        # Without its usage, which would be one more event.
        request = stream_bytes(prompt, max_tokens, stream_options=None, **fields)
        self.answer = Answer(time.perf_counter())
        self.task = asyncio.create_task(self.run(http.base_url.port, request))

    async def run(self, port, request):
        await exchange(port, request, self.answer)
        assert self.answer.is_good, f"{self.answer.status} {self.answer.error}"

    @property
    def times(self):
        return [when for when, _ in self.answer.arrivals]

    def ttft(self):
        return self.answer.seconds_to_first

    def gaps(self, since, until):
        inside = [t for t in self.times if since <= t <= until]
        return [b - a for a, b in zip(inside, inside[1:])]


async def first_token(http, prompt, **fields):
    stream = Stream(http, prompt, 1, **fields)
    await stream.task
    return stream.ttft()


async def bench_itl(options):
    rng = random.Random()
    rows = []
    # Without guesses: a gap is one token's.
    with harness.Server("--speculate", "off", model=harness.gemma_path()) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=600) as http:
            for _ in range(options.rounds):
                long = [words(rng, 7900) for _ in range(2)]
                idle = await first_token(http, long[0])
                streams = [Stream(http, words(rng, 20), 2000) for _ in range(4)]
                while any(len(s.times) < 3 for s in streams):
                    await asyncio.sleep(0.01)
                quiet_from = time.perf_counter()
                await asyncio.sleep(4)
                busy_from = time.perf_counter()
                busy = await first_token(http, long[1])
                busy_to = time.perf_counter()
                quiet = [g for s in streams for g in s.gaps(quiet_from, busy_from)]
                loaded = [g for s in streams for g in s.gaps(busy_from, busy_to)]
                for s in streams:
                    s.task.cancel()
                await asyncio.gather(*[s.task for s in streams], return_exceptions=True)
                rows.append((quantile(quiet, 0.5), quantile(quiet, 0.99), quantile(loaded, 0.5), quantile(loaded, 0.99),
                             idle, busy))
    quiet, noise, half, worst, idle, busy = (statistics.median(column) for column in zip(*rows))
    print(f"ITL of 4 streams: quiet p50 {quiet * 1e3:.1f} ms, p99 {noise / quiet:.2f}x of it; during the prefill p50 {half * 1e3:.1f} ms ({half / quiet:.2f}x), "
          f"p99 {worst * 1e3:.1f} ms ({worst / quiet:.2f}x; bar 3x)")
    print(f"TTFT of the long prompt: idle {idle:.2f} s, beside the streams {busy:.2f} s ({busy / idle:.2f}x; bar 2.5x)")


async def bench_prefix(options):
    rng = random.Random()
    firsts, seconds = [], []
    with harness.Server() as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=600) as http:
            await first_token(http, words(rng, 100))
            for _ in range(max(options.rounds, 5)):
                prefix = words(rng, 950)
                firsts.append(await first_token(http, prefix + " Then, in the end,"))
                seconds.append(await first_token(http, prefix + " But on the other side"))
    first, second = statistics.median(firsts), statistics.median(seconds)
    print(f"TTFT of a ~1,000-token prompt: first {first * 1e3:.0f} ms, same prefix again {second * 1e3:.0f} ms "
          f"({100 * second / first:.1f} %; bar 10 %)")


async def pages_used(http):
    for line in (await http.get("/metrics")).text.splitlines():
        if line.startswith("lacuna_kv_cache_pages{") and 'state="used"' in line:
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError("no gauge of KV pages")


async def most_pages(http, n, max_tokens, prompt):
    stream = Stream(http, prompt, max_tokens, n=n, temperature=1)
    most = 0
    while not stream.task.done():
        most = max(most, await pages_used(http))
        await asyncio.sleep(0.002)
    await stream.task
    return most


async def bench_choices(options):
    rng = random.Random()
    with harness.Server() as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=600) as http:
            for max_tokens in (1, 16, 64):
                one = [await most_pages(http, 1, max_tokens, words(rng, 995)) for _ in range(options.rounds)]
                eight = [await most_pages(http, 8, max_tokens, words(rng, 995)) for _ in range(options.rounds)]
                one, eight = statistics.median(one), statistics.median(eight)
                print(f"KV pages at most, {max_tokens} new tokens: n=1 {one:.0f}, n=8 {eight:.0f} ({eight / one:.2f}x; bar 1.15x)")


async def bench_probes(options):
    rng = random.Random()
    latencies = {"/health": [], "/metrics": []}
    with harness.Server() as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=httpx.Limits(max_connections=None)) as http:
            end = time.perf_counter() + 5 * options.rounds

            async def client():
                while time.perf_counter() < end:
                    stream = Stream(http, words(rng, rng.randint(10, 400)), 64)
                    await stream.task

            clients = [asyncio.create_task(client()) for _ in range(16)]
            while time.perf_counter() < end:
                for path, values in latencies.items():
                    begin = time.perf_counter()
                    assert (await http.get(path)).status_code == 200
                    values.append(time.perf_counter() - begin)
                await asyncio.sleep(0.01)
            await asyncio.gather(*clients)
    for path, values in latencies.items():
        print(f"{path} under load: p50 {quantile(values, 0.5) * 1e3:.1f} ms, p99 {quantile(values, 0.99) * 1e3:.1f} ms "
              f"of {len(values)} (bar 50 ms; the client's own loop included)")


N_STREAMS, STREAM_TOKENS = 16, 256


async def streams_rate(port, rng):
    """tok/s while all of them decode."""
    requests = [stream_bytes(words(rng, 120), STREAM_TOKENS) for _ in range(N_STREAMS)]
    answers = await asyncio.gather(*[ask(port, request) for request in requests])
    assert all(a.is_good for a in answers), [a.error for a in answers]
    begin, end = max(a.arrivals[0][0] for a in answers), min(a.arrivals[-1][0] for a in answers)
    return sum(a.n_tokens(begin, end) for a in answers) / (end - begin)


def own_bench(model):
    command = [harness.binary(), "bench", "-m", model, "-p", 0, "-n", STREAM_TOKENS, "-b", N_STREAMS, "-c", 128, "-r", 1, "--json"]
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)[0]["tok_s"]


async def bench_streams(options):
    rng, pairs = random.Random(), []
    model = options.model or harness.model_path()
    for _ in range(options.rounds):
        # Each alone on the machine.  Without guesses: `bench` makes none.
        with harness.Server("--speculate", "off", model=model) as server:
            through_http = await streams_rate(server.port, rng)
        pairs.append((through_http, own_bench(model)))
    served, alone = (statistics.median(column) for column in zip(*pairs))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{N_STREAMS} streams through HTTP: {served:.0f} tok/s, bench at batch {N_STREAMS}: {alone:.0f} tok/s "
          f"({100 * ratio:.0f} %; bar 88 %)")


def sentences(rng, n):
    names = ["Anna", "Ben", "Clara", "David", "Ella", "Finn"]
    things = ["a red bicycle", "two old maps", "the last ticket", "some fresh bread", "a letter from home"]
    places = ["at the station", "near the river", "in the garden", "behind the school", "on the market"]
    return " ".join(f"{rng.choice(names)} found {rng.choice(things)} {rng.choice(places)}." for _ in range(n))


def copying(rng):
    text = sentences(rng, 12)
    return f"Text:\n{text}\n\nThe same text once more, word by word:\n{text[:60]}"


def telling(rng):
    return f"{sentences(rng, 2)}\n\nWrite a poem about {words(rng, 3)}:\n"


async def rate(http, prompts, n_tokens, temperature):
    begin = time.perf_counter()
    await asyncio.gather(*[http.post("/v1/completions", json={
        "prompt": p, "max_tokens": n_tokens, "temperature": temperature, "seed": 1, "ignore_eos": True}) for p in prompts])
    return len(prompts) * n_tokens / (time.perf_counter() - begin)


async def metric(http, name):
    for line in (await http.get("/metrics")).text.splitlines():
        if line.startswith(name + "{"):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no {name}")


async def bench_speculate(options):
    rng = random.Random()
    model = options.model or harness.model_path()
    kinds = [("copies", copying, 0), ("tells", telling, 0), ("tells, temperature 1", telling, 1)]
    with harness.Server("--speculate", "off", model=model) as plain, harness.Server(model=model) as guessing:
        async with httpx.AsyncClient(base_url=plain.url, timeout=600) as off, \
                httpx.AsyncClient(base_url=guessing.url, timeout=600) as on:
            for n in (1, 8):
                for name, make, temperature in kinds:
                    pairs, before = [], [await metric(on, f"lacuna_{k}_tokens_total") for k in ("draft", "accepted_draft")]
                    for _ in range(options.rounds):
                        prompts = [make(rng) for _ in range(n)]
                        pairs.append([await rate(http, prompts, 160, temperature) for http in (off, on)])
                    drafted, accepted = [await metric(on, f"lacuna_{k}_tokens_total") - b
                                         for k, b in zip(("draft", "accepted_draft"), before)]
                    off_rate, on_rate = (statistics.median(column) for column in zip(*pairs))
                    ratio = statistics.median(b / a for a, b in pairs)
                    print(f"{n} streams, {name}: off {off_rate:.0f}, lookup {on_rate:.0f} tok/s ({ratio:.2f}x); "
                          f"{accepted:.0f} of {drafted:.0f} guesses right")


SHORT = {"itl": bench_itl, "prefix": bench_prefix, "choices": bench_choices, "probes": bench_probes, "streams": bench_streams,
         "speculate": bench_speculate}
BENCHES = {**SHORT, "hostile": hostile.bench, "overload": overload.bench}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", nargs="*", choices=[*BENCHES, []], default=[])
    parser.add_argument("--rounds", type=int, default=3, help="of all but overload (default 3)")
    parser.add_argument("--seconds", type=float, default=20, help="of each half of a pair of hostile (default 20)")
    parser.add_argument("--clients", type=int, default=4, help="well-behaved ones of hostile (default 4)")
    parser.add_argument("--crowd", action="append", choices=[kind for kind, *_ in hostile.CROWDS],
                        help="of hostile; may be given again (default: each)")
    parser.add_argument("--files", type=int, help="RLIMIT_NOFILE of the server of hostile (default: as here)")
    parser.add_argument("--minutes", type=float, default=5, help="of overload (default 5)")
    parser.add_argument("--model", help="of streams and speculate (default: the default model)")
    parser.add_argument("--bin", help="the server's program (default build/release/lacuna)")
    options = parser.parse_args()
    if options.bin:
        os.environ["LACUNA_TEST_BIN"] = options.bin
    for name in options.bench or SHORT:
        asyncio.run(BENCHES[name](options))


if __name__ == "__main__":
    main()
