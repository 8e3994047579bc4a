#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed beside llama.cpp's own programs: interleaved rounds, medians, ratios.

usage: against_peer.py PEER_FOLDER MODEL.gguf... [--cells prefill:512,decode:1] [--rounds 5] [--threads 2]

PEER_FOLDER holds llama-bench, llama-batched-bench, llama-completion, llama-server and their libraries.  A cell is a line
of the table, or a few:
  prefill:N         a prompt of N tokens
  decode:B          B sequences side by side, prompts of 128
  decode:B:C        the same, C tokens in the cache
  load              seconds until the first token, the file in the page cache
  memory:C          peak resident memory of a run with room for C tokens
  served:N          N clients of a server, each asking again once it is answered: prompts of 100 words, 64 tokens, the
                    same for both; neither guesses at tokens
The peer's flash attention is on.  Its batches read one prompt and copy it into a cache for each sequence (its default, not
unified): decoding costs the same as after B prompts, which would take it minutes.  The machine may be shared: only the ratio of one run means much.
"""
import argparse
import asyncio
import json
import os
import pathlib
import random
import statistics
import subprocess
import time
from typing import NamedTuple

import http_load
from serving import free_port, serving, with_libraries

ROOT = pathlib.Path(__file__).parents[2]
N_GENERATED = 48
PROMPT_WORDS, ANSWER_TOKENS, REQUESTS_PER_CLIENT = 100, 64, 3
SERVED_TOKENS_PER_CLIENT = 512  # of context: a word may be two tokens


class Figure(NamedTuple):
    value: float
    unit: str
    less_is_better: bool = False


def speed(value):
    return {"": Figure(value, "tok/s")}


def run(command, environment=None):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def timed(command, environment=None):
    begin = time.perf_counter()
    run(command, environment)
    return {"": Figure(time.perf_counter() - begin, "s", less_is_better=True)}


def peak_memory(command, environment=None):
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             env=environment)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command[0]} ended with {child.returncode}")
    return {"": Figure(usage.ru_maxrss / 1024, "MiB", less_is_better=True)}


# ---- a server and its clients ----

async def closed_loop(port, n_clients):
    rng, answers = random.Random(1), []

    async def client():
        for _ in range(REQUESTS_PER_CLIENT):
            request = http_load.stream_bytes(http_load.words(rng, PROMPT_WORDS), ANSWER_TOKENS)
            answers.append(await http_load.ask(port, request))

    await asyncio.gather(*[client() for _ in range(n_clients)])
    return answers


async def load_figures(port, n_clients, server):
    begin = time.perf_counter()
    answers = await closed_loop(port, n_clients)
    took = time.perf_counter() - begin
    if bad := [a for a in answers if not a.is_good]:
        raise SystemExit(f"{server.args[0]} answered {bad[0].status} {bad[0].error}")
    gaps = [b - a for answer in answers for (a, _), (b, _) in zip(answer.arrivals, answer.arrivals[1:])]
    return {"": Figure(len(answers) * ANSWER_TOKENS / took, "tok/s"),
            "TTFT p95": Figure(http_load.quantile([a.seconds_to_first for a in answers], 0.95), "s", less_is_better=True),
            "ITL p50": Figure(http_load.quantile(gaps, 0.5) * 1e3, "ms", less_is_better=True)}


def serve_and_ask(command, port, n_clients, environment=None):
    with serving(command, port, environment) as server:
        return asyncio.run(load_figures(port, n_clients, server))


# ---- the engines: a method for each kind of cell ----

class Lacuna:
    name = "lacuna"

    def __init__(self, options):
        self.binary, self.threads = options.lacuna, options.threads

    def command(self, verb, model, *more):
        return [self.binary, verb, "-m", model, "--threads", self.threads, *more]

    def bench(self, model, *more):
        return speed(json.loads(run(self.command("bench", model, "-r", 1, "--json", *more)))[0]["tok_s"])

    def prefill(self, model, n_prompt):
        return self.bench(model, "-p", n_prompt, "-n", 0, "--ctx", n_prompt + 64)

    def decode(self, model, batch, context=128):
        n_ctx = context + context // 10 + 2 * N_GENERATED  # the KV pool holds at least four such sequences
        return self.bench(model, "-p", 0, "-n", N_GENERATED, "-b", batch, "-c", context, "--ctx",
                          n_ctx * max(1, batch // 4))

    def load(self, model):
        return timed(self.command("run", model, "-n", 1, "--ctx", 4096, "a"))

    def memory(self, model, n_ctx):
        return peak_memory(self.command("run", model, "-n", 1, "--ctx", n_ctx, "a"))

    def served(self, model, n_clients):
        port = free_port()
        command = self.command("serve", model, "--listen", f"127.0.0.1:{port}", "--drain-delay", "0s", "--speculate", "off")
        return serve_and_ask(command, port, n_clients)


class Peer:
    name = "llama.cpp"

    def __init__(self, options):
        self.folder, self.threads = options.peer.resolve(), options.threads
        self.environment = with_libraries(self.folder)

    def command(self, program, model, *more):
        return [self.folder / program, "-m", model, "-t", self.threads, "-fa", "on", *more]

    def bench(self, model, *more):
        command = self.command("llama-bench", model, "-r", 1, "-o", "json", *more)
        return speed(json.loads(run(command, self.environment))[0]["avg_ts"])

    def prefill(self, model, n_prompt):
        return self.bench(model, "-p", n_prompt, "-n", 0)

    def decode(self, model, batch, context=128):
        if batch == 1:
            return self.bench(model, "-p", 0, "-n", N_GENERATED, "-d", context)
        out = run(self.command("llama-batched-bench", model, "-npp", context, "-ntg", N_GENERATED, "-npl", batch, "-pps",
                               "-c", batch * (context + 2 * N_GENERATED), "--output-format", "jsonl"), self.environment)
        return speed(next(json.loads(line)["speed_tg"] for line in out.splitlines() if line.startswith("{")))

    def completion(self, model, n_ctx):
        return self.command("llama-completion", model, "-n", 1, "-c", n_ctx, "-p", "a", "-no-cnv")

    def load(self, model):
        return timed(self.completion(model, 4096), self.environment)

    def memory(self, model, n_ctx):
        return peak_memory(self.completion(model, n_ctx), self.environment)

    def served(self, model, n_clients):
        port = free_port()
        command = self.command("llama-server", model, "-np", n_clients, "-c", n_clients * SERVED_TOKENS_PER_CLIENT, "--host",
                               "127.0.0.1", "--port", port)
        return serve_and_ask(command, port, n_clients, self.environment)


# ---- the table ----

def measure(engine, model, cell):
    kind, *numbers = cell.split(":")
    return getattr(engine, kind)(model, *map(int, numbers))


def print_line(model, cell, ours, theirs):
    """Medians of both, and how many times better the first one is."""
    a, b = (statistics.median(figure.value for figure in figures) for figures in (ours, theirs))
    ratio = b / a if ours[0].less_is_better else a / b
    print(f"{pathlib.Path(model).stem:24} {cell:20} {a:10.2f} {b:10.2f} {ours[0].unit:5} {ratio:7.2f}x", flush=True)


def compare(engines, model, cell, rounds):
    found = [[], []]
    for _ in range(rounds):
        for figures, engine in zip(found, engines):
            figures.append(measure(engine, model, cell))
    for name in found[0][0]:
        print_line(model, f"{cell} {name}", *[[figures[name] for figures in column] for column in found])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", type=pathlib.Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--cells", default="prefill:512,decode:1")
    parser.add_argument("--lacuna", default=str(ROOT / "build/release/lacuna"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    engines = Lacuna(options), Peer(options)
    print(f"{'model':24} {'cell':20} {engines[0].name:>10} {engines[1].name:>10} {'':5} {'ratio':>8}   medians of "
          f"{options.rounds}, {options.threads} threads")
    for model in options.models:
        for cell in options.cells.split(","):
            compare(engines, model, cell, options.rounds)


if __name__ == "__main__":
    main()
