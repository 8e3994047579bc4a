# SPDX-License-Identifier: Apache-2.0
"""suffix: the gap between two texts, for models with tokens to say so."""
import pathlib

import pytest

import gguf_edit
from harness import Client, Server, model_path

# No model of the tests has such tokens: three that its vocabulary never uses in text stand for them.
PRE, SUF, MID = 5, 6, 7


@pytest.fixture(scope="module")
def filler(contract, tmp_path_factory):
    path = tmp_path_factory.mktemp("fim") / "filler.gguf"
    gguf_edit.with_keys(pathlib.Path(model_path()), path, {
        "tokenizer.ggml.fim_pre_token_id": PRE, "tokenizer.ggml.fim_suf_token_id": SUF,
        "tokenizer.ggml.fim_mid_token_id": MID})
    with Server(model=str(path)) as server:
        yield Client(server, contract)
    path.unlink()


def ids(client, text):
    return client.post("/tokenize", {"content": text}).json()["tokens"]


def test_the_parts_stand_in_order(filler):
    body = filler.complete("def add(a, b):\n", suffix="\n    return c", return_token_ids=True)
    wanted = [PRE, *ids(filler, "def add(a, b):\n"), SUF, *ids(filler, "\n    return c"), MID]
    assert body["choices"][0]["prompt_token_ids"] == wanted
    assert body["usage"]["prompt_tokens"] == len(wanted)
    same = filler.complete(wanted)
    assert body["choices"][0]["text"] == same["choices"][0]["text"]


def test_each_prompt_of_a_batch_has_the_suffix(filler):
    body = filler.complete(["a b", "c"], suffix=" d", return_token_ids=True, n=2)
    for index, text in enumerate(["a b", "a b", "c", "c"]):
        wanted = [PRE, *ids(filler, text), SUF, *ids(filler, " d"), MID]
        assert body["choices"][index]["prompt_token_ids"] == wanted


def test_prompts_of_ids_are_taken_as_they_are(filler):
    body = filler.complete([11, 12], suffix="x", return_token_ids=True)
    assert body["choices"][0]["prompt_token_ids"] == [PRE, 11, 12, SUF, *ids(filler, "x"), MID]


def test_an_empty_prompt_has_a_suffix_too(filler):
    body = filler.complete("", suffix="x", return_token_ids=True)
    assert body["choices"][0]["prompt_token_ids"] == [PRE, SUF, *ids(filler, "x"), MID]


def test_an_empty_suffix_is_none(filler):
    assert filler.complete("a", suffix="", return_token_ids=True)["choices"][0]["prompt_token_ids"] == ids(filler, "a")


def test_the_suffix_counts_for_the_context(filler):
    n_ctx = filler.get("/v1/models").json()["data"][0]["max_model_len"]
    error = filler.refused({"prompt": "a", "suffix": "x y " * n_ctx}, code="context_length_exceeded")
    assert error["n_prompt_tokens"] > n_ctx


def test_what_does_not_go_together(filler):
    filler.refused({"prompt": "a", "suffix": "b", "echo": True}, code="unsupported_parameter", param="suffix")
    filler.refused({"prompt": "a", "suffix": "b", "truncate_prompt_tokens": 3}, code="unsupported_parameter",
                   param="suffix")


def test_a_model_without_the_tokens_refuses(client):
    client.refused({"prompt": "a", "suffix": "b"}, code="unsupported_parameter", param="suffix")
