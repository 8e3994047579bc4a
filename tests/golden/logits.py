# SPDX-License-Identifier: Apache-2.0
"""What these tests share: logits of the program, and how far they are from others."""
import json
import subprocess

import numpy as np

from harness import SANITIZER_WORDS, SLOWNESS, binary, clean_environment


def run(*command, seconds=120, stdin=""):
    return subprocess.run([binary(), *map(str, command)], input=stdin, capture_output=True, text=True,
                          timeout=seconds * SLOWNESS, env=clean_environment())


def output_of(*command, **how):
    """stdout of a command that must succeed."""
    done = run(*command, **how)
    assert done.returncode == 0, done.stderr
    assert not SANITIZER_WORDS.search(done.stderr), done.stderr
    return done.stdout


def logits_of(model, tokens, tmp_path, *options, seconds=120):
    """A row per token: those of the one after it."""
    out = tmp_path / "logits.f32"
    output_of("eval", "-m", model, "--tokens", ",".join(map(str, tokens)), "--logits-out", out, *options, seconds=seconds)
    return np.fromfile(out, np.float32).reshape(len(tokens), -1)


def load(model):
    """The tokens and logits that lie beside a model."""
    tokens = json.loads(model.with_suffix(".json").read_text())["tokens"]
    return tokens, np.fromfile(model.with_suffix(".logits.f32"), np.float32).reshape(len(tokens), -1)


def greatest_error(expected, found):
    """As a share of the standard deviation of what is expected."""
    return np.abs(found - expected).max() / expected.std()


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def mean_divergence(expected, found):
    """KL(expected || found) of log-probabilities, a row per token."""
    return (np.exp(expected) * (expected - found)).sum(axis=1).mean()


def agree_until_doubt(expected, margins, chosen, safe_margin):
    """The first step at which chosen differs from expected, or None; the reference itself hardly decides from the first
    margin below safe_margin on."""
    for step, (token, margin) in enumerate(zip(expected, margins)):
        if margin < safe_margin:
            return None
        if chosen[step] != token:
            return step
    return None
