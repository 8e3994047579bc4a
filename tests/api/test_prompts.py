# SPDX-License-Identifier: Apache-2.0
"""Every form a prompt may have, and those it may not."""
import pytest

TEXT = "The capital of France is"


def ids_of(client, text=TEXT):
    return client.post("/tokenize", {"content": text}).json()["tokens"]


def n_vocab(client):
    return client.get("/v1/models").json()["data"][0]["meta"]["n_vocab"]


def test_ids_give_the_text_of_their_text(client):
    assert client.text(ids_of(client)) == client.text(TEXT)


def test_identical_prompts_in_a_batch_agree(client):
    body = client.complete([TEXT] * 4)
    assert len({choice["text"] for choice in body["choices"]}) == 1
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"]["prompt_tokens"] == 20
    assert body["usage"]["completion_tokens"] == 32


def test_batch_of_ids(client):
    body = client.complete([ids_of(client), ids_of(client, "1, 2, 3,")])
    assert [choice["text"] for choice in body["choices"]] == [client.text(TEXT), client.text("1, 2, 3,")]


def test_batch_times_n_is_indexed_prompt_first(client):
    body = client.complete(["1, 2, 3,", "a, b, c,"], n=2)
    texts = [choice["text"] for choice in body["choices"]]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert texts[0] == texts[1] == client.text("1, 2, 3,")
    assert texts[2] == texts[3] == client.text("a, b, c,")


def test_prompt_is_required(client):
    for body in ({}, {"prompt": None}):
        client.refused(body, code="missing_required_parameter", param="prompt")


@pytest.mark.parametrize("prompt", [[], [[]], [[1], []], ["a", None], [1, "x"], ["x", 1], [[1], "x"], [1.5],
                                    [True], {}, 5, True, [["a"]], [[[1]]], [{}], [[1], 2]])
def test_bad_forms_are_refused(client, prompt):
    error = client.refused({"prompt": prompt})
    assert error["param"].startswith("prompt")


@pytest.mark.parametrize("value", [-1, 10**6, 2**31, 2**63 - 1, 2**63, 10**30])
def test_ids_outside_the_vocabulary_are_refused(client, value):
    for prompt in ([value], [1, value], [[1], [value]], [[1, value]]):
        error = client.refused({"prompt": prompt})
        if value < 2**63:
            assert error["param"].startswith("prompt")
        else:  # beyond what a JSON number may be here
            assert error["code"] in ("invalid_json", "invalid_value")
    assert client.text()


def test_largest_id_is_the_limit(client):
    n = n_vocab(client)
    assert client.complete([n - 1], max_tokens=1)
    client.refused({"prompt": [n]})


def test_empty_text_is_from_bos_or_refused(client):
    # The model has a BOS token, though its tokenizer does not add it to texts.
    body = client.complete("", max_tokens=4)
    assert body["usage"]["prompt_tokens"] == 1
    assert client.complete([""], max_tokens=4)["choices"][0]["text"] == body["choices"][0]["text"]


def test_too_many_prompts_are_refused(client):
    client.refused({"prompt": ["a"] * 65}, param="prompt")
    assert len(client.complete(["a"] * 64, max_tokens=1)["choices"]) == 64


@pytest.mark.parametrize("stream", [False, True])
def test_too_long_prompt_is_refused_with_counts(start, stream):
    client = start("--ctx", "64")
    error = client.refused({"prompt": [100] * 64, "stream": stream}, code="context_length_exceeded",
                           param="prompt")
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (64, 64)
    error = client.refused({"prompt": ["a", "word " * 200], "stream": stream},
                           code="context_length_exceeded")
    assert error["n_ctx"] == 64 and error["n_prompt_tokens"] > 64
    assert client.complete([100] * 63, max_tokens=5)["usage"]["completion_tokens"] == 1
    assert client.complete([100] * 64, max_tokens=0)["usage"]["completion_tokens"] == 0


def test_prompt_longer_than_one_step(client):
    # More rows than one step takes (512): computed in several chunks.
    text = " ".join(["one two three four five six seven eight nine ten"] * 120)
    body = client.complete(text, max_tokens=6)
    assert body["usage"]["prompt_tokens"] > 1000
    assert body["choices"][0]["text"].split()[0] == "one"


def test_special_text_is_plain_text(client):
    plain = client.complete("<|im_start|>", max_tokens=1)
    assert plain["usage"]["prompt_tokens"] > 1


def test_parse_special_flag_parses(start):
    client = start("--parse-special")
    assert client.complete("<|im_start|>", max_tokens=1)["usage"]["prompt_tokens"] == 1
