#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed beside llama.cpp's own benchmarks: interleaved rounds, medians, ratios.

usage: against_peer.py PEER_FOLDER MODEL.gguf... [--cells prefill:512,decode:1] [--rounds 5] [--threads 2]

PEER_FOLDER holds llama-bench, llama-batched-bench and their libraries.  A cell is one number of the table:
  prefill:N         a prompt of N tokens
  decode:B          B sequences side by side, prompts of 128
  decode:B:C        the same, C tokens in the cache
  load              seconds until the first token, the file in the page cache
The peer's flash attention is on.  The machine may be shared: only the ratio of one run means much.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).parents[2]
N_GENERATED = 48


def run(command, environment=None):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def timed(command, environment=None):
    begin = time.perf_counter()
    run(command, environment)
    return time.perf_counter() - begin


class Lacuna:
    name = "lacuna"

    def __init__(self, options):
        self.binary, self.threads = options.lacuna, options.threads

    def bench(self, model, *more):
        rows = json.loads(run([self.binary, "bench", "-m", model, "-r", 1, "--threads", self.threads, "--json", *more]))
        return rows[0]["tok_s"]

    def prefill(self, model, n_prompt):
        return self.bench(model, "-p", n_prompt, "-n", 0, "--ctx", n_prompt + 64)

    def decode(self, model, batch, context=128):
        n_ctx = context + context // 10 + 2 * N_GENERATED  # the KV pool holds at least four such sequences
        return self.bench(model, "-p", 0, "-n", N_GENERATED, "-b", batch, "-c", context, "--ctx",
                          n_ctx * max(1, batch // 4))

    def load(self, model):
        return timed([self.binary, "run", "-m", model, "--threads", self.threads, "-n", 1, "--ctx", 4096, "a"])


class Peer:
    name = "llama.cpp"

    def __init__(self, options):
        self.folder, self.threads = options.peer.resolve(), options.threads
        paths = os.pathsep.join(filter(None, [str(self.folder), os.environ.get("LD_LIBRARY_PATH")]))
        self.environment = dict(os.environ, LD_LIBRARY_PATH=paths)

    def bench(self, model, *more):
        rows = json.loads(run([self.folder / "llama-bench", "-m", model, "-t", self.threads, "-r", 1, "-fa", "on", "-o",
                               "json", *more], self.environment))
        return rows[0]["avg_ts"]

    def prefill(self, model, n_prompt):
        return self.bench(model, "-p", n_prompt, "-n", 0)

    def decode(self, model, batch, context=128):
        if batch == 1:
            return self.bench(model, "-p", 0, "-n", N_GENERATED, "-d", context)
        out = run([self.folder / "llama-batched-bench", "-m", model, "-t", self.threads, "-fa", "on", "-npp", context, "-ntg",
                   N_GENERATED, "-npl", batch, "-c", batch * (context + 2 * N_GENERATED), "--output-format", "jsonl"],
                  self.environment)
        return next(json.loads(line)["speed_tg"] for line in out.splitlines() if line.startswith("{"))

    def load(self, model):
        return timed([self.folder / "llama-completion", "-m", model, "-t", self.threads, "-n", 1, "-c", 4096, "-p", "a",
                      "-no-cnv"], self.environment)


def measure(engine, model, cell):
    kind, *numbers = cell.split(":")
    return getattr(engine, kind)(model, *map(int, numbers))


def compare(engines, model, cell, rounds):
    """One line of the table: medians of both, and how many times better the first one is."""
    found = [[], []]
    for _ in range(rounds):
        for figures, engine in zip(found, engines):
            figures.append(measure(engine, model, cell))
    ours, theirs = map(statistics.median, found)
    ratio = theirs / ours if cell == "load" else ours / theirs
    print(f"{pathlib.Path(model).stem:24} {cell:16} {ours:10.2f} {theirs:10.2f} {ratio:7.2f}x", flush=True)


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
    print(f"{'model':24} {'cell':16} {engines[0].name:>10} {engines[1].name:>10} {'ratio':>8}   tok/s (load: s), medians of "
          f"{options.rounds}, {options.threads} threads")
    for model in options.models:
        for cell in options.cells.split(","):
            compare(engines, model, cell, options.rounds)


if __name__ == "__main__":
    main()
