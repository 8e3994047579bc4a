# SPDX-License-Identifier: Apache-2.0
"""logit_bias: tokens can be forbidden and forced."""
import pytest


def first_token(client, **fields):
    text = client.text(max_tokens=1, **fields)
    return client.post("/tokenize", {"content": text}).json()["tokens"][0]


def test_minus_100_bans(client):
    best = first_token(client)
    second = first_token(client, logit_bias={str(best): -100})
    assert second != best
    third = first_token(client, logit_bias={str(best): -100, str(second): -100})
    assert third not in (best, second)


def test_plus_100_forces(client):
    word = client.post("/tokenize", {"content": " zebra"}).json()["tokens"][-1]
    for temperature in (0, 1):
        body = client.complete(max_tokens=3, temperature=temperature, logit_bias={str(word): 100})
        piece = client.post("/detokenize", {"tokens": [word] * 3}).json()["content"]
        assert body["choices"][0]["text"] == piece


def test_zero_changes_nothing(client):
    assert client.text(logit_bias={"5": 0}) == client.text(logit_bias={}) == client.text()


@pytest.mark.parametrize("bias", [{"x": 1}, {"-1": 1}, {"99999999": 1}, {"5": "1"}, {"5": 101}, {"5": -100.5},
                                  {"5": None}, [], "5", {"5": True}, {"": 1}, {"5.0": 1}, {" 5": 1},
                                  {str(i): 1 for i in range(1025)}])
def test_bad_biases_are_refused(client, bias):
    error = client.refused({"prompt": "a", "logit_bias": bias})
    assert error["param"].startswith("logit_bias")


def test_1024_biases_are_accepted(client):
    assert client.complete(logit_bias={str(i): -1 for i in range(1024)})
