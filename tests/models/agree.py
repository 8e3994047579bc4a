#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How far logits of lacuna, and of llama.cpp, are from PyTorch's, for the model files given.

usage: agree.py FILE.gguf... [--lacuna PROGRAM] [--peer FOLDER]

golden.py has left PyTorch's beside each file.  FOLDER holds llama-server and its libraries: it is asked for the
probabilities of every token after the text cut off at several places.  The greatest error is a share of the deviation of
PyTorch's logits; for llama.cpp, that of log-probabilities.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
from common import ROOT  # noqa: E402
from serving import free_port, serving, with_libraries  # noqa: E402

CUTS = (1, 8, 16, 24)


def golden(path):
    tokens = json.loads(path.with_suffix(".json").read_text())["tokens"]
    return tokens, np.fromfile(path.with_suffix(".logits.f32"), np.float32).reshape(len(tokens), -1)


def log_softmax(row):
    shifted = row.astype(np.float64) - row.max()
    return shifted - np.log(np.exp(shifted).sum())


def lacuna_error(program, path):
    tokens, expected = golden(path)
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run([program, "eval", "-m", path, "--tokens", ",".join(map(str, tokens)), "--logits-out", out.name],
                       check=True, stdout=subprocess.DEVNULL)
        found = np.fromfile(out.name, np.float32).reshape(expected.shape)
    return np.abs(found - expected).max() / expected.std()


def ask(port, tokens, n_vocab):
    body = {"prompt": tokens, "n_predict": 1, "n_probs": n_vocab, "temperature": 0, "cache_prompt": False}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["completion_probabilities"][0]["top_logprobs"]


def peer_error(folder, path):
    tokens, expected = golden(path)
    port, worst = free_port(), 0.0
    command = [folder / "llama-server", "-m", path, "--port", port, "-t", 1, "-ctk", "f32", "-ctv", "f32"]
    with serving(command, port, with_libraries(folder)):
        for cut in CUTS:
            wanted = log_softmax(expected[cut - 1])
            found = ask(port, tokens[:cut], len(wanted))
            worst = max([worst, *(abs(one["logprob"] - wanted[one["id"]]) for one in found)])
    return worst / expected.std()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--lacuna", type=pathlib.Path, default=ROOT / "build/release/lacuna")
    parser.add_argument("--peer", type=pathlib.Path)
    options = parser.parse_args()
    for path in options.files:
        print(f"{path.stem}: lacuna {lacuna_error(options.lacuna, path):.3%}", flush=True)
        if options.peer:
            print(f"{path.stem}: llama.cpp {peer_error(options.peer, path):.3%}", flush=True)


if __name__ == "__main__":
    main()
