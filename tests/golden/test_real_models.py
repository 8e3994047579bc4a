# SPDX-License-Identifier: Apache-2.0
"""The two real models against arithmetic without quantised activations.

real/*.json: passages with the twenty likeliest tokens after each position, and greedy continuations, made by an
independent engine from the same weights widened to F32 (origin: README.md).
"""
import functools
import json
import math
import os
import pathlib

import numpy as np
import pytest

from harness import gemma_path, model_path
from logits import agree_until_doubt, log_softmax, logits_of

HERE = pathlib.Path(__file__).parent / "real"
# What llama.cpp itself reaches on each passage: it quantises activations, too.
BARS = {"smollm2-135m": (2.8e-3, 1.9e-3), "gemma3-270m": (3.7e-3, 7.6e-3)}
MAX_PERPLEXITY_CHANGE = 0.007
SAFE_MARGIN = 0.25  # of log-probability between the first and second choice

pytestmark = pytest.mark.skipif("address" in os.environ.get("LACUNA_TEST_SANITIZE", ""),
                                reason="the release build's numbers; instrumented kernels take minutes")


@functools.cache
def reference(name):
    return json.loads((HERE / f"{name}.json").read_text())


def log_probabilities(name, tokens, tmp_path):
    model = model_path() if name.startswith("smollm2") else gemma_path()
    return log_softmax(logits_of(model, tokens, tmp_path, seconds=300))


def divergence(likeliest, found):
    """KL(reference || found) of one position: the listed tokens, and all others as one."""
    ids = [token for token, _ in likeliest]
    expected = np.array([logprob for _, logprob in likeliest])
    found = found[ids]
    rest, found_rest = 1 - np.exp(expected).sum(), 1 - np.exp(found).sum()
    kl = (np.exp(expected) * (expected - found)).sum()
    return kl + rest * math.log(rest / found_rest) if rest > 1e-9 and found_rest > 0 else kl


@pytest.mark.parametrize("name,passage", [(name, i) for name in BARS for i in range(2)])
def test_passage(name, passage, tmp_path):
    text = reference(name)["teacher_forced"][passage]
    tokens = text["tokens"]
    found = log_probabilities(name, tokens, tmp_path)
    kl = np.mean([divergence(likeliest, found[i]) for i, likeliest in enumerate(text["top20"])])
    assert kl <= BARS[name][passage], f"mean KL {kl:.2e}"
    loss = -np.mean([found[i, tokens[i + 1]] for i in range(len(tokens) - 1)])
    assert abs(math.exp(loss) / text["perplexity"] - 1) <= MAX_PERPLEXITY_CHANGE


@pytest.mark.parametrize("name", BARS)
def test_greedy_continuations(name, tmp_path):
    """Equal up to the first step at which the reference itself hardly decides."""
    for case in reference(name)["greedy"]:
        tokens = case["prompt"] + case["completion"]
        chosen = log_probabilities(name, tokens[:-1], tmp_path).argmax(axis=1)[len(case["prompt"]) - 1:]
        wrong = agree_until_doubt(case["completion"], case["margin"], chosen, SAFE_MARGIN)
        assert wrong is None, f"{case['text'][:40]!r}: step {wrong}, margin {case['margin'][wrong]}"
