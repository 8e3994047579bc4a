#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A model in less memory than it has bytes: the whole process in a memory control group, the page cache empty.

usage: under_limit.py MODEL.gguf LIMIT [--peer FOLDER [--peer-model FILE.gguf]] [--prompt 512] [--tokens 128] [--rounds 3]
                      [--patience 200] [--option=OPTION...]

LIMIT is bytes, with K, M or G, or a share of the file (75%).  Prints medians of prefill and decode, what of its experts
lacuna had in memory and what it read per token, the most memory that the group had, and as many tokens of llama.cpp's
llama-bench in FOLDER: its weights mapped and not laid out anew, as its users run what does not fit; "none" is fewer than
--tokens in --patience seconds.  --peer-model: what it reads, where MODEL.gguf is a file of lacuna pack.  --option goes to
lacuna bench: --option=--expert-cache=40%.

Needs root, and the memory controller (version 1 or 2).
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess

from serving import with_libraries

ROOT = pathlib.Path(__file__).parents[2]
V1, V2 = pathlib.Path("/sys/fs/cgroup/memory"), pathlib.Path("/sys/fs/cgroup")
NAMES = {V1: ("memory.limit_in_bytes", "memory.max_usage_in_bytes"), V2: ("memory.max", "memory.peak")}


class Group:
    """A control group with a limit of memory, and nobody in it yet."""

    def __init__(self, limit):
        base = V1 if V1.is_dir() else V2
        self.limit_name, self.peak_name = NAMES[base]
        self.path = base / f"lacuna-under-limit-{os.getpid()}"
        self.path.mkdir()
        (self.path / self.limit_name).write_text(str(limit))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.path.rmdir()

    def enter(self):
        """In the child, before it becomes the program."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def peak(self):
        return int((self.path / self.peak_name).read_text())


def forget_pages(path):
    """What of the file lies in the page cache belongs to whoever read it, not to the group: it shall read for itself."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(command, group, model, patience, environment=None):
    """Its standard output; None: it took too long."""
    forget_pages(model)
    try:
        return subprocess.run(list(map(str, command)), check=True, preexec_fn=group.enter, timeout=patience, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment).stdout
    except subprocess.TimeoutExpired:
        return None


class Lacuna:
    name = "lacuna"

    def __init__(self, options):
        self.options, self.rows = options, []

    def measure(self, group):
        o = self.options
        out = run([o.lacuna, "bench", "-m", o.model, "--threads", o.threads, "-p", o.prompt, "-n", o.tokens, "-r", 1,
                   "--temperature", 1, "--ctx", o.prompt + o.tokens + 512, "--json", *o.option], group, o.model, o.patience)
        rows = json.loads(out) if out else []
        self.rows += rows
        return {row["phase"]: row["tok_s"] for row in rows}

    def describe(self):
        for phase in ("prefill", "decode"):
            experts = [row["experts"] for row in self.rows if row["phase"] == phase and "experts" in row]
            if experts:
                share, hits, stall = (statistics.median(e[key] for e in experts) for key in ("share", "hit_rate", "stall"))
                read = statistics.median(e["read_bytes"] / max(1, e["tokens"]) for e in experts)
                print(f"{phase}: {share:.1%} of the experts in memory, {hits:.1%} hits, {read / 1024:.0f} KiB read per token, "
                      f"{stall:.1%} of the time waited")


class Peer:
    name = "llama.cpp"

    def __init__(self, options):
        folder = options.peer.resolve()
        self.options, self.program, self.model = options, folder / "llama-bench", options.peer_model or options.model
        self.environment = with_libraries(folder)

    def speed(self, group, n_prompt, n_tokens):
        o = self.options
        out = run([self.program, "-m", self.model, "-t", o.threads, "-fa", "on", "-r", 1, "--no-warmup", "-lm", "mmap",
                   "--repack", 0, "-p", n_prompt, "-n", n_tokens, "-o", "json"], group, self.model, o.patience,
                  self.environment)
        return json.loads(out)[0]["avg_ts"] if out else None

    def measure(self, group):
        found = {"prefill": self.speed(group, self.options.prompt, 0), "decode": self.speed(group, 0, self.options.tokens)}
        return {phase: speed for phase, speed in found.items() if speed}

    def describe(self):
        pass


def limit_of(text, path):
    if text.endswith("%"):
        return int(os.path.getsize(path) * float(text[:-1]) / 100)
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1].upper())
    return int(float(text[:-1]) * unit) if unit else int(text)


def text_of(speeds):
    return f"{statistics.median(speeds):10.2f}" if speeds else f"{'none':>10}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("limit")
    parser.add_argument("--peer", type=pathlib.Path)
    parser.add_argument("--peer-model", type=pathlib.Path)
    parser.add_argument("--lacuna", default=str(ROOT / "build/release/lacuna"))
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--patience", type=float, default=200)
    parser.add_argument("--option", action="append", default=[])
    options = parser.parse_args()
    limit = limit_of(options.limit, options.model)
    engines = [Lacuna(options)] + ([Peer(options)] if options.peer else [])
    found, peaks = [{"prefill": [], "decode": []} for _ in engines], [0] * len(engines)
    for _ in range(options.rounds):
        for i, engine in enumerate(engines):
            with Group(limit) as group:
                for phase, speed in engine.measure(group).items():
                    found[i][phase].append(speed)
                peaks[i] = max(peaks[i], group.peak)
    print(f"{options.model.stem}, {options.model.stat().st_size / 2**20:.0f} MiB, in {limit / 2**20:.0f} MiB; medians of "
          f"{options.rounds}, {options.threads} threads")
    print(" " * 8 + "".join(f"{engine.name:>11}" for engine in engines) + "   tok/s")
    for phase in ("prefill", "decode"):
        print(f"{phase:8}" + "".join(" " + text_of(column[phase]) for column in found))
    print("at most " + "".join(f"{peak / 2**20:11.0f}" for peak in peaks) + "   MiB")
    for engine in engines:
        engine.describe()


if __name__ == "__main__":
    main()
