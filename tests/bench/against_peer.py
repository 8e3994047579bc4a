#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prefill and decode beside llama.cpp's llama-bench: interleaved rounds, medians, ratios.

usage: against_peer.py PEER_FOLDER MODEL.gguf [--lacuna BINARY] [--rounds 5] [--threads 2] [-p 512] [-n 64]

PEER_FOLDER holds llama-bench and its libraries.  The machine may be shared: only the ratio of one run means much.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).parents[2]


def run(command, environment=None):
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout)


def lacuna_once(options):
    rows = run([options.lacuna, "bench", "-m", options.model, "-p", str(options.prompt), "-n", str(options.tokens), "-b", "1",
                "-c", "0", "-r", "1", "--threads", str(options.threads), "--json"])
    return {row["phase"]: row["tok_s"] for row in rows}


def peer_once(options):
    folder = options.peer.resolve()
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")]))
    rows = run([str(folder / "llama-bench"), "-m", options.model, "-p", str(options.prompt), "-n", str(options.tokens), "-t",
                str(options.threads), "-r", "1", "-o", "json"], dict(os.environ, LD_LIBRARY_PATH=paths))
    return {"prefill" if row["n_prompt"] else "decode": row["avg_ts"] for row in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", type=pathlib.Path)
    parser.add_argument("model")
    parser.add_argument("--lacuna", default=str(ROOT / "build/release/lacuna"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--tokens", type=int, default=64)
    options = parser.parse_args()

    ours, theirs = {"prefill": [], "decode": []}, {"prefill": [], "decode": []}
    for _ in range(options.rounds):
        for figures, once in ((ours, lacuna_once), (theirs, peer_once)):
            for phase, tok_s in once(options).items():
                figures[phase].append(tok_s)
    print(f"{'phase':8} {'lacuna':>10} {'llama.cpp':>10} {'ratio':>7}   tok/s, median of {options.rounds}, "
          f"{options.threads} threads")
    for phase in ours:
        a, b = statistics.median(ours[phase]), statistics.median(theirs[phase])
        print(f"{phase:8} {a:10.1f} {b:10.1f} {a / b:7.2f}")


if __name__ == "__main__":
    main()
