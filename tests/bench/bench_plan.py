#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How near the plan's choice (--skip-zeros auto) comes to the better of skipping zeros always and never.

usage: bench_plan.py MODEL.gguf [--quality exact] [-b 1,2,4,8,16] [-c 0,128,256,512] [--rounds 3] [--gen 64] [--threads N]

All three give the same tokens.  Each round runs lacuna bench once for each of them; a cell shows medians, and the plan's speed as
a share of the better one's.  The machine may be shared: a share is of medians of the same rounds.
"""
import argparse
import json
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).parents[2]
MODES = ("off", "always", "auto")


def measure(options, mode):
    """{(batch, context): tok/s}"""
    command = [options.lacuna, "bench", "-m", options.model, "--skip-zeros", mode, "-q", options.quality, "-p", "0",
               "-n", options.gen, "-b", options.batches, "-c", options.contexts, "-r", options.repeat, "--json"]
    if options.threads:
        command += ["--threads", options.threads]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, check=True)
    rows = [row for row in json.loads(done.stdout) if row["mode"] != "dense" or (mode, options.quality) == ("off", "exact")]
    return {(row["batch"], row["context"]): row["tok_s"] for row in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--quality", default="exact")
    parser.add_argument("-b", "--batches", default="1,2,4,8,16")
    parser.add_argument("-c", "--contexts", default="0,128,256,512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3, help="repetitions within a round")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--lacuna", type=pathlib.Path, default=ROOT / "build/release/lacuna")
    options = parser.parse_args()
    rounds = {mode: [] for mode in MODES}
    for _ in range(options.rounds):
        for mode in MODES:
            rounds[mode].append(measure(options, mode))
    print(f"{'batch':>6} {'context':>8} {'never':>9} {'always':>9} {'plan':>9}  plan / better")
    shares = []
    for cell in rounds["off"][0]:
        speed = {mode: statistics.median(one[cell] for one in rounds[mode]) for mode in MODES}
        shares.append(speed["auto"] / max(speed["off"], speed["always"]))
        print(f"{cell[0]:6} {cell[1]:8} {speed['off']:9.1f} {speed['always']:9.1f} {speed['auto']:9.1f}  {shares[-1]:.3f}")
    print(f"least {min(shares):.3f}, median {statistics.median(shares):.3f}")


if __name__ == "__main__":
    main()
