# SPDX-License-Identifier: Apache-2.0
"""The small trained models (tests/models) against PyTorch, which computed their weights dequantised and in floats."""
import concurrent.futures
import json

import numpy as np
import pytest

import gguf_edit
from harness import ROOT, Client, Contract, Server
from logits import agree_until_doubt, greatest_error, load, log_softmax, logits_of, mean_divergence, output_of

FOLDER = ROOT / "tests/models"
NAMES = ["stories-dense", "stories-relu", "stories-moe"]
MAX_ERROR_F16 = 0.005  # of the standard deviation
MAX_KL = 1e-3  # of int8 activations
SAFE_MARGIN = 0.25  # of a logit above the second
N_TOGETHER = 8

every_model = pytest.mark.parametrize("model", [FOLDER / f"{name}.gguf" for name in NAMES], ids=NAMES)


def golden(model):
    return json.loads(model.with_suffix(".json").read_text())


@every_model
def test_logits_with_f16_weights(model, tmp_path):
    tokens, expected = load(model)
    f16 = gguf_edit.with_f16(model, tmp_path / "f16.gguf")
    error = greatest_error(expected, logits_of(f16, tokens, tmp_path))
    assert error <= MAX_ERROR_F16, f"{error:.2%} of the standard deviation"


@every_model
def test_logits_as_quantised(model, tmp_path):
    tokens, expected = load(model)
    kl = mean_divergence(log_softmax(expected), log_softmax(logits_of(model, tokens, tmp_path)))
    assert kl <= MAX_KL, f"KL {kl:.1e}"


@every_model
def test_tokens_of_a_text(model):
    expected = golden(model)
    assert json.loads(output_of("tokenize", "-m", model, "--special", stdin=expected["text"])) == expected["tokens"]


@every_model
def test_greedy_continuation(model, tmp_path):
    expected = golden(model)
    n = expected["n_prompt"]
    tokens = expected["tokens"][:n] + expected["continuation"]
    chosen = logits_of(model, tokens[:-1], tmp_path).argmax(axis=1)[n - 1:]
    wrong = agree_until_doubt(expected["continuation"], expected["margins"], chosen, SAFE_MARGIN)
    assert wrong is None, f"step {wrong}, margin {expected['margins'][wrong]}"


@every_model
def test_neither_chunks_nor_threads_nor_layouts_matter(model, tmp_path):
    tokens, _ = load(model)
    whole = logits_of(model, tokens, tmp_path)
    for options in (("--chunk", "1", "--threads", "2"), ("--chunk", "13", "--threads", "1"),
                    ("--chunk", "1", "--skip-zeros", "auto"), ("--chunk", "4", "--skip-zeros", "always")):
        assert np.array_equal(logits_of(model, tokens, tmp_path, *options), whole), options


def test_neither_a_cache_of_experts_nor_its_reads_matter(tmp_path):
    model = FOLDER / "stories-moe.gguf"
    tokens, _ = load(model)
    whole = logits_of(model, tokens, tmp_path)
    for options in (("--expert-cache", "20%"), ("--expert-cache", "20%", "--chunk", "1"), ("--expert-cache", "50%", "--io", "pread")):
        assert np.array_equal(logits_of(model, tokens, tmp_path, *options), whole), options


@every_model
def test_many_get_the_stories_they_get_alone(model):
    with Server(model=str(model)) as server:
        client = Client(server, Contract())

        def story(i):
            return client.text("One day, ", max_tokens=60, temperature=0.8, seed=i, cache_prompt=False)

        alone = [story(i) for i in range(N_TOGETHER)]
        assert len(set(alone)) > 1
        with concurrent.futures.ThreadPoolExecutor(N_TOGETHER) as pool:
            assert list(pool.map(story, range(N_TOGETHER))) == alone


def test_most_neurons_of_the_one_with_relu_are_zero():
    told = json.loads(output_of("bench", "-m", FOLDER / "stories-relu.gguf", "-p", "0", "-n", "64", "-r", "1", "--skip-zeros", "auto",
                                "--json"))
    dense, sparse = told
    assert dense["neurons_down"] == 1 and sparse["neurons_down"] < 0.2, told


@every_model
def test_speed_is_measured(model):
    told = json.loads(output_of("bench", "-m", model, "-p", "64", "-n", "16", "-b", "1,4", "-r", "1", "--json"))
    assert [cell["tok_s"] > 0 for cell in told] == [True] * 3, told
