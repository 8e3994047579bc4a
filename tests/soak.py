# SPDX-License-Identifier: Apache-2.0
"""See soak.sh.  One asyncio loop of clients; a pool of requests whose answers are computed alone beforehand."""
import argparse
import asyncio
import collections
import json
import os
import random
import sys
import time

import httpx

import harness

WORDS = ("time year people way day man thing woman life child world school state family student group country problem "
         "hand part place case week company system program question work number night point home water room").split()
N_REQUESTS = 48  # different ones; each is asked many times
GAUGES = ("lacuna_requests_running", "lacuna_requests_waiting", "lacuna_waiting_prompt_tokens",
          "lacuna_kv_cache_usage_ratio", "lacuna_sse_streams")


def make_requests(rng):
    """Prompts of 1 to about 3,000 tokens, some with a common beginning; every kind of choosing."""
    common = " ".join(rng.choice(WORDS) for _ in range(700))
    requests = []
    for i in range(N_REQUESTS):
        n = int(2200 ** rng.random())
        text = " ".join(rng.choice(WORDS) for _ in range(n))
        prompt = f"{common} {text}"[:14000] if i % 3 == 0 else text
        requests.append({"prompt": prompt, "max_tokens": rng.randint(1, 120), "seed": i, "n": 1 + (i % 7 == 0) * 2,
                         "temperature": rng.choice([0, 0.7, 1.0]), "logprobs": rng.choice([None, None, 3]),
                         "ignore_eos": rng.random() < 0.7, "priority": rng.choice([0, 0, 0, 1, -1])})
    return requests


def digest(choices):
    return {c["index"]: (c["text"], json.dumps(c["logprobs"]), c["finish_reason"]) for c in choices}


async def alone(http, request):
    answer = await http.post("/v1/completions", json={**request, "cache_prompt": False})
    answer.raise_for_status()
    return digest(answer.json()["choices"])


class Soak:
    def __init__(self, options, http, requests, expected):
        self.options, self.http = options, http
        self.requests, self.expected = requests, expected
        self.rng = random.Random(options.seed + 1)
        self.end = time.monotonic() + 60 * options.minutes
        self.seen = collections.Counter()
        self.wrong = []

    async def whole(self, i):
        answer = await self.http.post("/v1/completions", json=self.requests[i])
        self.seen[answer.status_code] += 1
        if answer.status_code == 429:
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            await asyncio.sleep(0.2 + self.rng.random())
        elif answer.status_code != 200 or digest(answer.json()["choices"]) != self.expected[i]:
            self.wrong.append((i, answer.status_code, answer.text[:300]))

    async def streamed(self, i, leave_after):
        """Reads `leave_after` bytes, or to the end."""
        body = {**self.requests[i], "stream": True, "logprobs": None}
        texts, n_bytes = collections.defaultdict(str), 0
        async with self.http.stream("POST", "/v1/completions", json=body) as answer:
            self.seen[answer.status_code] += 1
            if answer.status_code != 200:
                await answer.aread()
                return
            async for line in answer.aiter_lines():
                n_bytes += len(line)
                if leave_after is not None and n_bytes >= leave_after:
                    self.seen["left"] += 1
                    return
                if line.startswith("data: {"):
                    value = json.loads(line[6:])
                    if "error" in value:
                        self.wrong.append((i, "error frame", line[:300]))
                        return
                    for c in value["choices"]:
                        texts[c["index"]] += c["text"]
        expected = {index: text for index, (text, _, _) in self.expected[i].items()}
        if dict(texts) != expected:
            self.wrong.append((i, "stream", str(dict(texts))[:300]))

    async def impatient(self, i):
        """Leaves after a moment, whatever the request's phase is by then."""
        try:
            await asyncio.wait_for(self.whole(i), self.rng.expovariate(1.0))
        except asyncio.TimeoutError:
            self.seen["left"] += 1

    async def client(self):
        while time.monotonic() < self.end:
            i = self.rng.randrange(len(self.requests))
            way = self.rng.random()
            try:
                if way < 0.35:
                    await self.whole(i)
                elif way < 0.6:
                    await self.streamed(i, None)
                elif way < 0.8:
                    await self.streamed(i, self.rng.randint(0, 4000))
                else:
                    await self.impatient(i)
            except httpx.TransportError as error:
                self.wrong.append((i, type(error).__name__, str(error)))
                await asyncio.sleep(0.2)


async def gauges_at_zero(http):
    """The gauges that are not 0 some seconds after the last client left."""
    left = {}
    for _ in range(100):
        text = (await http.get("/metrics")).text
        left = {}
        for line in text.splitlines():
            name = line.split("{")[0].split(" ")[0]
            if name in GAUGES and float(line.rsplit(" ", 1)[1]) != 0:
                left[name] = line
        if not left:
            break
        await asyncio.sleep(0.1)
    return left


def resident_bytes(process):
    with open(f"/proc/{process.pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def run(options):
    requests = make_requests(random.Random(options.seed))
    limits = httpx.Limits(max_connections=None)
    with harness.Server("--ctx", "4096") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits) as http:
            expected = [await alone(http, request) for request in requests]
    # About 1.5 MB per page of 64 tokens: the running ones would like four times as much.
    with harness.Server("--ctx", "4096", "--kv-bytes", options.kv_bytes, "--max-queue-wait", "600s", "--max-queue",
                        str(options.clients * 2), "--max-queue-tokens", "100000") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits) as http:
            soak = Soak(options, http, requests, expected)
            before = resident_bytes(server.process)
            await asyncio.gather(*[soak.client() for _ in range(options.clients)])
            left = await gauges_at_zero(http)
            metrics = (await http.get("/metrics")).text
            after = resident_bytes(server.process)
    total = {name: line.rsplit(" ", 1)[1] for line in metrics.splitlines() for name in [line.split("{")[0]]
             if name in ("lacuna_num_preemptions_total", "lacuna_prefix_cache_hits_total", "lacuna_generation_tokens_total")}
    print(json.dumps({"minutes": options.minutes, "clients": options.clients, "seen": {str(k): v for k, v in soak.seen.items()},
                      "wrong": len(soak.wrong), "gauges_left": left, "resident_mb": [before >> 20, after >> 20], **total}))
    for wrong in soak.wrong[:10]:
        print(wrong, file=sys.stderr)
    return 1 if soak.wrong or left else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kv-bytes", default="150M")
    parser.add_argument("--bin")
    options = parser.parse_args()
    if options.bin:
        os.environ["LACUNA_TEST_BIN"] = options.bin
    sys.exit(asyncio.run(run(options)))


if __name__ == "__main__":
    main()
