# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities and echo."""
import math

import pytest

TEXT = "The capital of France is"


def lists_of(logprobs):
    return [logprobs[key] for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")]


@pytest.mark.parametrize("k", [0, 1, 5, 20])
def test_top_has_k_entries_and_the_chosen(client, k):
    logprobs = client.complete(TEXT, logprobs=k)["choices"][0]["logprobs"]
    assert {len(values) for values in lists_of(logprobs)} == {8}
    for token, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"]):
        assert max(k, 1) <= len(top) <= k + 1
        assert top[token] == logprob
        assert logprob <= 0 and logprob == max(top.values())  # greedy


def test_null_gives_none(client):
    assert client.complete(TEXT, logprobs=None)["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("value", [21, -1, 1.5, "5", True])
@pytest.mark.parametrize("stream", [False, True])
def test_bad_counts_are_refused(client, value, stream):
    client.refused({"prompt": "a", "logprobs": value, "stream": stream}, param="logprobs")
    assert client.text()


def test_probabilities_of_a_position_do_not_exceed_one(client):
    logprobs = client.complete(TEXT, logprobs=20)["choices"][0]["logprobs"]
    for top in logprobs["top_logprobs"]:
        assert sum(math.exp(value) for value in top.values()) <= 1 + 1e-4


def test_temperature_and_penalties_do_not_matter(client):
    plain = client.complete(TEXT, logprobs=3, max_tokens=1)["choices"][0]["logprobs"]["top_logprobs"]
    other = client.complete(TEXT, logprobs=3, max_tokens=1, temperature=2, seed=1, repetition_penalty=1.9,
                            logit_bias={"5": 9})["choices"][0]["logprobs"]["top_logprobs"]
    for token, value in plain[0].items():
        assert other[0][token] == value


def test_offsets_count_code_points(client):
    choice = client.complete("Zażółć gęślą jaźń, 日本語, 😀", logprobs=0, max_tokens=12)["choices"][0]
    assert choice["logprobs"]["text_offset"][0] == 0
    offsets = choice["logprobs"]["text_offset"]
    assert offsets == sorted(offsets) and offsets[-1] <= len(choice["text"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("k", [0, 1])
def test_echo_scores_the_prompt(client, k, stream):
    if stream:
        chunks = client.stream(TEXT, logprobs=k, echo=True)
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        logprobs = {key: sum([chunk["choices"][0]["logprobs"][key] for chunk in chunks
                              if chunk["choices"][0]["logprobs"]], [])
                    for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}
    else:
        choice = client.complete(TEXT, logprobs=k, echo=True)["choices"][0]
        text, logprobs = choice["text"], choice["logprobs"]
    assert text == TEXT + client.text(TEXT)
    assert {len(values) for values in lists_of(logprobs)} == {13}
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    assert all(value is not None for value in logprobs["token_logprobs"][1:])
    assert "".join(logprobs["tokens"]) == text
    assert [text[offset:][:len(token)] for token, offset in
            zip(logprobs["tokens"], logprobs["text_offset"])] == logprobs["tokens"]


def test_echo_without_generation_scores_only(client):
    body = client.complete(TEXT, logprobs=1, echo=True, max_tokens=0)
    choice = body["choices"][0]
    assert choice["text"] == TEXT
    assert choice["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 0
    assert len(choice["logprobs"]["tokens"]) == 5
    generated = client.complete(TEXT, logprobs=1, echo=True)["choices"][0]["logprobs"]
    assert choice["logprobs"]["token_logprobs"] == generated["token_logprobs"][:5]


def test_echo_of_a_stream_starts_with_the_prompt(client):
    chunks = client.stream(TEXT, echo=True)
    assert chunks[0]["choices"][0]["text"].startswith(TEXT)


def test_bytes_that_are_no_text_are_spelled(client):
    # One code point in several tokens: none of them is UTF-8 alone.
    choice = client.complete("😀", echo=True, logprobs=0, max_tokens=0)["choices"][0]
    assert choice["text"] == "😀"
    if len(choice["logprobs"]["tokens"]) > 1:
        assert all(token.startswith("bytes:\\x") for token in choice["logprobs"]["tokens"])
        spelled = "".join(token.removeprefix("bytes:") for token in choice["logprobs"]["tokens"])
        assert bytes.fromhex(spelled.replace("\\x", "")) == "😀".encode()


def test_streamed_logprobs_are_the_same(client):
    whole = client.complete(TEXT, logprobs=2)["choices"][0]["logprobs"]
    chunks = client.stream(TEXT, logprobs=2)
    for key, values in whole.items():
        joined = sum([chunk["choices"][0]["logprobs"][key] for chunk in chunks
                      if chunk["choices"][0]["logprobs"]], [])
        assert joined == values, key
