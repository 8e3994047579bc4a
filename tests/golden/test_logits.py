# SPDX-License-Identifier: Apache-2.0
"""Logits of the fixtures, and of the golden folder's, against the independent engine's.

The bars are issue A's: the reference is exact, F16 K and V and int8 activations are what they allow.
"""
import os
import pathlib
import re

import numpy as np
import pytest

import gguf_edit
from logits import greatest_error, load, log_softmax, logits_of, mean_divergence, run

HERE = pathlib.Path(__file__).parent
FOLDERS = [HERE] + ([pathlib.Path(os.environ["LACUNA_GOLDEN"])] if "LACUNA_GOLDEN" in os.environ else [])

ARCH_MAX_ERROR = 0.0015  # of the logits' standard deviation
QUANT_MAX_KL = 1e-4  # mean over the rows
QUANT_SAFE_MARGIN = 0.1  # above it the first choice must be the same


def fixtures(kind):
    found = [stem for folder in FOLDERS for stem in sorted(folder.glob(f"{kind}/*.gguf"))]
    return pytest.mark.parametrize("model", found, ids=[f"{path.parts[-3]}-{path.stem}" for path in found])


@fixtures("arch")
def test_architecture(model, tmp_path):
    tokens, expected = load(model)
    error = greatest_error(expected, logits_of(model, tokens, tmp_path))
    assert error <= ARCH_MAX_ERROR, f"{error:.2%} of the standard deviation"


@fixtures("quant")
def test_tensor_type(model, tmp_path):
    tokens, expected = load(model)
    found = log_softmax(logits_of(model, tokens, tmp_path))
    expected = log_softmax(expected)
    kl = mean_divergence(expected, found)
    assert kl <= QUANT_MAX_KL, f"KL {kl:.1e}"
    ordered = np.sort(expected, axis=1)
    safe = ordered[:, -1] - ordered[:, -2] > QUANT_SAFE_MARGIN
    assert safe.any()
    assert (found.argmax(axis=1) == expected.argmax(axis=1))[safe].all()


@fixtures("arch")
def test_chunks_and_threads_do_not_matter(model, tmp_path):
    tokens, _ = load(model)
    whole = logits_of(model, tokens, tmp_path)
    for options in (["--chunk", "1", "--threads", "2"], ["--chunk", "13", "--threads", "1"]):
        assert logits_of(model, tokens, tmp_path, *options).tobytes() == whole.tobytes(), options


@pytest.mark.parametrize("io", ["uring", "pread", "mmap"])
@pytest.mark.parametrize("name", ["granitemoe", "granitemoe-shared", "mixtral", "olmoe", "qwen2moe", "qwen3moe",
                                  "smallthinker", "smallthinker-softmax"])
def test_experts_read_on_demand_give_the_same_bits(name, io, tmp_path):
    """With slots for two experts, for three, and for six."""
    model = HERE / f"arch/{name}.gguf"
    tokens, _ = load(model)
    expected = logits_of(model, tokens, tmp_path)
    done = run("eval", "-m", model, "--tokens", "1", "--expert-cache", "4096")
    least = re.search(r"at least 2 of them, (\d+) bytes", done.stderr)
    assert done.returncode != 0 and least, done.stderr
    for size in (int(least[1]), int(least[1]) * 3 // 2, int(least[1]) * 3):
        found = logits_of(model, tokens, tmp_path, "--expert-cache", str(size), "--io", io)
        assert np.array_equal(found, expected), f"{size} bytes"


@pytest.mark.parametrize("name", ["arcee", "llama", "smallthinker", "smallthinker-softmax"])
def test_neurons_that_are_zero_are_skipped_with_the_same_bits(name, tmp_path):
    """ReLU^2 without a gate, ReLU with one, experts; of quantised weights: others are not packed."""
    model = gguf_edit.with_q8_0(HERE / f"arch/{name}.gguf", tmp_path / "q8_0.gguf")
    if name == "llama":
        gguf_edit.with_keys(model, model, {"llama.hidden_activation": "relu"})
    tokens, _ = load(HERE / f"arch/{name}.gguf")
    whole = logits_of(model, tokens, tmp_path)
    more = [["--expert-cache", "50%"]] if name.startswith("smallthinker") else []
    for options in [[], ["--chunk", "1", "--threads", "2"], ["--chunk", "5", "--threads", "1"], *more]:
        for how in "auto", "always":
            found = logits_of(model, tokens, tmp_path, "--skip-zeros", how, *options)
            assert np.array_equal(found, whole), (how, options)
