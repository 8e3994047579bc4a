# SPDX-License-Identifier: Apache-2.0
"""See soak.sh.  One asyncio loop of clients; a pool of requests whose answers are computed alone beforehand."""
import argparse
import asyncio
import collections
import json
import os
import random
import re
import socket
import struct
import sys
import tempfile
import time

import httpx

import harness
from http_load import words

MAX_WORDS = 3000  # mostly a token each
N_COMMON = 700  # words that every third prompt begins with
CTX = 3840  # the longest prompt and 600 tokens, with some room
KV_SHARE = 0.25  # of what the clients want
KEY = "sk-soak"
GAUGES = ("lacuna_requests_running", "lacuna_requests_waiting", "lacuna_waiting_prompt_tokens", "lacuna_batch_size",
          "lacuna_kv_cache_usage_ratio", "lacuna_sse_streams")
PHASES = ("queued", "prefill", "decode")  # in which the server saw a client leave
LONG_ANSWERS = range(300, 601)  # tokens, after short prompts
# Of each period, the seconds in which only such are asked for: all that run then grow together, and pages run out.
PERIOD, WAVE = 60, 20


def has_common(i):
    return i % 3 == 2


def is_long(i):
    return i % 3 == 1


def make_requests(rng, n_requests):
    """Prompts of 1 to about 3,000 tokens, some with a common beginning; every kind of choosing.  Many answers are longer
    than their prompts: what is admitted leaves a page to each that runs, so only who needs several more is ever paused."""
    common = words(rng, N_COMMON)
    lengths = [1, MAX_WORDS] + [int(MAX_WORDS ** rng.random()) for _ in range(n_requests - 2)]
    requests = []
    for i, length in enumerate(lengths):
        text = words(rng, length)
        if has_common(i):
            text = f"{common} {words(rng, min(length, MAX_WORDS - N_COMMON))}"
        if is_long(i):
            text = words(rng, min(length, 60))
        n_output = rng.choice(LONG_ANSWERS) if is_long(i) else rng.randint(1, 120)
        requests.append({"prompt": text, "max_tokens": n_output, "seed": i, "n": 1 + (i % 7 == 0) * 2,
                         "temperature": rng.choice([0, 0.7, 1.0]), "logprobs": rng.choice([None, None, 3]),
                         "ignore_eos": rng.random() < 0.7, "priority": rng.choice([0, 0, 0, 1, -1])})
    return requests


def digest(choices):
    return {c["index"]: (c["text"], json.dumps(c["logprobs"]), c["finish_reason"]) for c in choices}


class Alone:
    """The answer to one request that has the server for itself."""

    def __init__(self, request, answer):
        self.digest = digest(answer["choices"])
        self.is_common = has_common(request["seed"])
        self.n_prompt = answer["usage"]["prompt_tokens"] - (N_COMMON if self.is_common else 0)
        self.n_output = answer["usage"]["completion_tokens"]  # of all choices


async def ask_alone(http, request):
    answer = await http.post("/v1/completions", json={**request, "cache_prompt": False})
    answer.raise_for_status()
    return Alone(request, answer.json())


def tokens_wanted(rng, alone, n_clients):
    """What the requests of all clients at one moment hold, on average; what they share counts once."""
    n_draws, total = 400, 0
    for _ in range(n_draws):
        asked = [rng.choice(alone) for _ in range(n_clients)]
        total += sum(one.n_output for one in asked) + sum(one.n_prompt for one in set(asked))
        total += N_COMMON * any(one.is_common for one in asked)
    return total / n_draws


async def page_facts(server, http):
    """Bytes and tokens of a KV page: the memory plan of the log over the number of pages."""
    plan = re.search(r'"what":"KV pages","bytes":(\d+)', server.log())
    config = re.search(r'block_size="(\d+)",num_blocks="(\d+)"', (await http.get("/metrics")).text)
    return int(plan[1]) // int(config[2]), int(config[1])


class Soak:
    def __init__(self, options, server, http, requests, alone):
        self.options, self.server, self.http = options, server, http
        self.requests, self.alone = requests, alone
        self.rng = random.Random(options.seed + 1)
        self.end = time.monotonic() + 60 * options.minutes
        self.seen = collections.Counter()
        self.left = collections.Counter()
        self.wrong = []

    async def refused(self, i, answer):
        """Anything but a 200: too much load is all that may be said."""
        await answer.aread()
        if answer.status_code != 429 or not 1 <= int(answer.headers.get("retry-after", 0)) <= 60:
            self.wrong.append((i, answer.status_code, answer.text[:300]))
        await asyncio.sleep(0.2 + self.rng.random())

    async def whole(self, i):
        answer = await self.http.post("/v1/completions", json=self.requests[i])
        self.seen[answer.status_code] += 1
        if answer.status_code != 200:
            await self.refused(i, answer)
        elif digest(answer.json()["choices"]) != self.alone[i].digest:
            self.wrong.append((i, "answer", answer.text[:300]))

    async def streamed(self, i, leave_after):
        """Reads `leave_after` bytes, or to the end."""
        body = {**self.requests[i], "stream": True, "logprobs": None}
        texts, n_bytes, is_whole = collections.defaultdict(str), 0, False
        async with self.http.stream("POST", "/v1/completions", json=body) as answer:
            self.seen[answer.status_code] += 1
            if answer.status_code != 200:
                await self.refused(i, answer)
                return
            async for line in answer.aiter_lines():
                n_bytes += len(line)
                if leave_after is not None and n_bytes >= leave_after:
                    self.left["in a stream"] += 1
                    break
                if line.startswith("data: {"):
                    value = json.loads(line[6:])
                    if "error" in value:
                        self.wrong.append((i, "error frame", line[:300]))
                        return
                    for c in value["choices"]:
                        texts[c["index"]] += c["text"]
                is_whole = is_whole or line == "data: [DONE]"
        self.check_texts(i, texts, is_whole, leave_after is None)

    def check_texts(self, i, texts, is_whole, must_be_whole):
        expected = {index: text for index, (text, _, _) in self.alone[i].digest.items()}
        is_right = all(expected[index].startswith(text) for index, text in texts.items())
        if is_whole:
            is_right = is_right and dict(texts) == expected
        if not is_right or must_be_whole and not is_whole:
            self.wrong.append((i, "stream", str(dict(texts))[:300]))

    async def impatient(self, i):
        """Leaves after a moment, whatever the request's phase is by then."""
        try:
            await asyncio.wait_for(self.whole(i), self.rng.expovariate(1 / self.rng.choice([0.05, 0.5, 5])))
        except asyncio.TimeoutError:
            self.left["waiting for an answer"] += 1

    async def half_said(self, i):
        """Leaves somewhere between the first byte and the last, politely or not."""
        body = json.dumps(self.requests[i]).encode()
        head = (f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode()
        cut = self.rng.choice([self.rng.randrange(len(head)), len(head) + self.rng.randrange(len(body))])
        _, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write((head + body)[:cut])
        await asyncio.sleep(self.rng.random() / 10)
        if self.rng.random() < 0.5:  # a reset instead of an end
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        self.left["in the headers" if cut < len(head) else "in the body"] += 1

    async def turn(self, i):
        way = self.rng.random()
        if way < 0.35:
            await self.whole(i)
        elif way < 0.6:
            await self.streamed(i, None)
        elif way < 0.75:
            await self.streamed(i, self.rng.randint(0, 8000))
        elif way < 0.95:
            await self.impatient(i)
        else:
            await self.half_said(i)

    def pick(self):
        is_wave = (self.end - time.monotonic()) % PERIOD < WAVE
        return self.rng.choice([i for i in range(len(self.requests)) if is_long(i) or not is_wave])

    async def client(self):
        while time.monotonic() < self.end:
            i = self.pick()
            try:
                await self.turn(i)
            except (httpx.TransportError, OSError) as error:
                self.wrong.append((i, type(error).__name__, str(error)))
                await asyncio.sleep(0.2)


async def metrics(http):
    """The lines of /metrics: name with labels -> value."""
    lines = [line.rsplit(" ", 1) for line in (await http.get("/metrics")).text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def total(values, name, label=""):
    return sum(value for key, value in values.items() if key.split("{")[0] == name and label in key)


async def what_is_left(http):
    """Gauges that are not 0, and connections besides this one, some seconds after the last client left."""
    for _ in range(100):
        values = await metrics(http)
        left = {name: total(values, name) for name in GAUGES if total(values, name)}
        for name, label in (("lacuna_http_connections", ""), ("lacuna_kv_cache_pages", 'state="used"')):
            n = total(values, name, label) - (name == "lacuna_http_connections")
            left.update({name: n} if n else {})
        if not left:
            break
        await asyncio.sleep(0.1)
    answer = await http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})  # no longer has a seat itself
    n_seats = int(answer.headers["x-ratelimit-limit-requests"]) - int(answer.headers["x-ratelimit-remaining-requests"])
    return {**left, "seats of the key": n_seats} if n_seats else left


def resident_bytes(process):
    with open(f"/proc/{process.pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_client(server):
    return httpx.AsyncClient(base_url=server.url, timeout=600, limits=httpx.Limits(max_connections=None),
                             headers={"Authorization": f"Bearer {KEY}"})


async def prepare(options):
    """Requests, their answers alone, and how many bytes of KV pages are the share that the clients get."""
    requests = make_requests(random.Random(options.seed), 2 * options.clients)
    with harness.Server("--ctx", str(CTX)) as server:
        async with open_client(server) as http:
            alone = [await ask_alone(http, request) for request in requests]
            page_bytes, page_tokens = await page_facts(server, http)
    wanted = tokens_wanted(random.Random(options.seed), alone, options.clients)
    n_pages = -(-int(max(KV_SHARE * wanted, CTX)) // page_tokens)  # one request of CTX must fit
    share = n_pages * page_tokens / wanted
    print(f"{options.clients} clients want {wanted:.0f} tokens; {n_pages} pages are {100 * share:.0f} % of that",
          flush=True)
    return requests, alone, n_pages * page_bytes


async def run(options, key_file):
    requests, alone, kv_bytes = await prepare(options)
    key_file.write(f"soak:{KEY}:{4 * options.clients}\n")
    key_file.flush()
    with harness.Server("--ctx", str(CTX), "--kv-bytes", str(kv_bytes), "--max-queue-wait", "600s", "--max-queue",
                        str(options.clients * 2), "--api-key-file", key_file.name) as server:
        before = resident_bytes(server.process)
        async with open_client(server) as http:
            soak = Soak(options, server, http, requests, alone)
            await asyncio.gather(*[soak.client() for _ in range(options.clients)])
        async with open_client(server) as http:
            left = await what_is_left(http)
            values = await metrics(http)
        after = resident_bytes(server.process)
    return report(soak, left, values, (before, after))


def report(soak, left, values, resident):
    """Prints what there was; the exit status."""
    n_preempted = total(values, "lacuna_num_preemptions_total")
    phases = {phase: int(total(values, "lacuna_requests_cancelled_total", f'phase="{phase}",cause="client"'))
              for phase in PHASES}
    print(json.dumps({
        "statuses": dict(sorted(soak.seen.items())), "left": dict(soak.left), "left_by_phase": phases,
        "preemptions": int(n_preempted), "prefix_hits": int(total(values, "lacuna_prefix_cache_hits_total")),
        "generated": int(total(values, "lacuna_generation_tokens_total")), "resident_mb": [n >> 20 for n in resident],
        "gauges_left": left, "wrong": len(soak.wrong)}))
    for wrong in soak.wrong[:10]:
        print(wrong, file=sys.stderr)
    unseen = [phase for phase, n in phases.items() if n == 0] + ["preemption"] * (n_preempted == 0)
    if unseen:
        print(f"did not happen, so nothing is proved about it: {unseen}", file=sys.stderr)
    return 1 if soak.wrong or left or unseen else 0


def main():
    parser = argparse.ArgumentParser(description="see soak.sh")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bin")
    options = parser.parse_args()
    if options.bin:
        os.environ["LACUNA_TEST_BIN"] = options.bin
    with tempfile.NamedTemporaryFile("w", prefix="lacuna-keys-") as key_file:
        sys.exit(asyncio.run(run(options, key_file)))


if __name__ == "__main__":
    main()
