# SPDX-License-Identifier: Apache-2.0
"""POST /v1/completions: the right text, exact counts, the documented object."""
import json
import os
import pathlib
import time

import pytest


def test_greedy_text_is_right(client):
    assert client.text("The capital of France is", max_tokens=2) == " Paris."
    assert client.text("1, 2, 3, 4, 5,", max_tokens=8) == " 6, 7, 8"


def test_counts_are_exact(client):
    body = client.complete("1, 2, 3, 4, 5,", max_tokens=8)
    choice = body["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["index"] == 0
    assert choice["logprobs"] is None
    assert body["usage"]["prompt_tokens"] == 14
    assert body["usage"]["completion_tokens"] == 8
    assert body["usage"]["total_tokens"] == 22
    tokens = client.post("/tokenize", {"content": choice["text"]}).json()["tokens"]
    assert len(tokens) == 8


def test_object_names_itself(client):
    before = int(time.time())
    body = client.complete()
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "text_completion"
    assert before <= body["created"] <= time.time()
    assert body["model"] == "smollm2-135m"
    assert body["system_fingerprint"].startswith("lacuna-")
    assert body["choices"][0]["stop_reason"] is None


def test_repeated_greedy_requests_agree(client):
    texts = {client.text("Once upon a time", max_tokens=24) for _ in range(3)}
    assert len(texts) == 1


def test_unprefixed_path_is_the_same_route(client):
    answer = client.post("/completions", {"prompt": "The capital of France is", "max_tokens": 2,
                                          "temperature": 0})
    assert answer.json()["choices"][0]["text"] == " Paris."


def test_max_tokens_defaults_to_16(client):
    for body in ({}, {"max_tokens": None}):
        answer = client.post("/v1/completions", {"prompt": "1, 2, 3, 4, 5,", "temperature": 0, **body})
        assert answer.json()["usage"]["completion_tokens"] == 16


def test_null_means_default(client):
    nulls = dict.fromkeys(["best_of", "echo", "frequency_penalty", "presence_penalty", "logit_bias",
                           "logprobs", "n", "seed", "stop", "stream", "stream_options", "suffix",
                           "top_p", "user"])
    plain = client.text()
    assert client.text(**nulls) == plain


def test_integral_numbers_are_integers(client):
    assert client.complete(max_tokens=3.0)["usage"]["completion_tokens"] == 3


def test_n_predict_is_an_alias(client):
    answer = client.post("/v1/completions", {"prompt": "1, 2, 3,", "n_predict": 5, "temperature": 0})
    assert answer.json()["usage"]["completion_tokens"] == 5


def test_max_tokens_zero_generates_nothing(client):
    body = client.complete(max_tokens=0)
    assert body["choices"][0]["text"] == ""
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 0


def test_min_tokens_masks_the_end(client):
    # The instruct model ends this answer soon: an end token is certain without min_tokens.
    prompt = "<|im_start|>user\nSay yes.<|im_end|>\n<|im_start|>assistant\n"
    ids = client.post("/tokenize", {"content": prompt, "parse_special": True}).json()["tokens"]
    short = client.complete(ids, max_tokens=120)
    assert short["choices"][0]["finish_reason"] == "stop"
    n = short["usage"]["completion_tokens"]
    longer = client.complete(ids, max_tokens=n + 8, min_tokens=n + 4)
    assert longer["usage"]["completion_tokens"] > n
    forced = client.complete(ids, max_tokens=n + 8, ignore_eos=True)
    assert forced["usage"]["completion_tokens"] == n + 8
    assert forced["choices"][0]["finish_reason"] == "length"


def test_stop_token_ids_end_the_choice(client):
    comma = client.post("/tokenize", {"content": ","}).json()["tokens"]
    assert len(comma) == 1
    choice = client.complete("1, 2, 3, 4, 5,", stop_token_ids=comma)["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["stop_reason"] == comma[0]


def test_repetition_penalty_changes_a_loop(client):
    plain = client.text("a a a a a a a a a a a a", max_tokens=12)
    penalised = client.text("a a a a a a a a a a a a", max_tokens=12, repetition_penalty=5.0)
    assert plain != penalised


def test_top_k_one_is_greedy(client):
    greedy = client.text("Once upon a time", max_tokens=12)
    for field in ({"top_k": 1}, {"top_p": 0}, {"min_p": 1}):
        assert client.text("Once upon a time", max_tokens=12, temperature=1.5, seed=3, **field) == greedy


def test_too_long_max_tokens_is_clamped_and_said(start):
    client = start("--ctx", "64")
    answer = client.post("/v1/completions", {"prompt": "1, 2, 3,", "max_tokens": 4000,
                                             "temperature": 0, "ignore_eos": True})
    body = answer.json()
    allowed = int(answer.headers["x-lacuna-max-tokens"])
    assert body["usage"]["completion_tokens"] == allowed
    assert body["usage"]["total_tokens"] == 64
    assert body["choices"][0]["finish_reason"] == "length"


def test_n_predict_minus_one_fills_the_context(start):
    client = start("--ctx", "64")
    answer = client.post("/v1/completions", {"prompt": "1, 2, 3,", "n_predict": -1, "temperature": 0,
                                             "ignore_eos": True}).json()
    assert answer["usage"]["total_tokens"] == 64
    assert answer["choices"][0]["finish_reason"] == "length"


def test_strict_max_tokens_refuses(start):
    client = start("--ctx", "64", "--strict-max-tokens")
    error = client.refused({"prompt": "1, 2, 3,", "max_tokens": 4000})
    assert error["code"] == "context_length_exceeded"


# A step whose first and second choice are nearer than this may go either way.
SAFE_MARGIN = 0.25


@pytest.mark.skipif("LACUNA_GOLDEN" not in os.environ, reason="LACUNA_GOLDEN is not set")
def test_greedy_continuations_match_the_reference(client):
    golden = pathlib.Path(os.environ["LACUNA_GOLDEN"], "real", "smollm2-135m.json")
    for case in json.loads(golden.read_text())["greedy"]:
        n_safe = next((i for i, m in enumerate(case["margin"]) if m < SAFE_MARGIN),
                      len(case["completion"]))
        if n_safe == 0:
            continue
        text = client.text(case["prompt"], max_tokens=n_safe, ignore_eos=True, skip_special_tokens=False)
        expected = client.post("/detokenize", {"tokens": case["completion"][:n_safe]}).json()["content"]
        assert text == expected, case["text"]
