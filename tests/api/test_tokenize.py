# SPDX-License-Identifier: Apache-2.0
"""/tokenize and /detokenize, in both of the dialects that clients speak."""
import time

import pytest

from harness import SLOWNESS

TEXTS = ["Hello world", "  two spaces", "á", "😀 日本語", "def f(x):\n\treturn x\n", "", "1234567890", "\u0000"]


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(client, text):
    tokens = client.post("/tokenize", {"content": text}).json()["tokens"]
    body = client.post("/detokenize", {"tokens": tokens}).json()
    assert body["content"] == body["prompt"] == text


def test_both_dialects_agree(client):
    one = client.post("/tokenize", {"content": "Hello world"}).json()
    other = client.post("/tokenize", {"prompt": "Hello world", "add_special_tokens": False}).json()
    assert one["tokens"] == other["tokens"]
    assert other["count"] == len(other["tokens"]) == one["count"]
    assert other["max_model_len"] > 0


def test_special_text_is_parsed_on_request(client):
    parsed = client.post("/tokenize", {"content": "<|im_start|>", "parse_special": True}).json()["tokens"]
    plain = client.post("/tokenize", {"content": "<|im_start|>", "parse_special": False}).json()["tokens"]
    assert len(parsed) == 1 and len(plain) > 1


def test_pieces(client):
    body = client.post("/tokenize", {"content": "Hello world", "with_pieces": True}).json()
    assert "".join(token["piece"] for token in body["tokens"]) == "Hello world"
    assert [token["id"] for token in body["tokens"]] == client.post(
        "/tokenize", {"content": "Hello world"}).json()["tokens"]


def test_pieces_that_are_no_text_are_bytes(client):
    body = client.post("/tokenize", {"content": "😀", "with_pieces": True}).json()
    joined = b"".join(bytes(token["piece"]) if isinstance(token["piece"], list) else token["piece"].encode()
                      for token in body["tokens"])
    assert joined == "😀".encode()
    assert any(isinstance(token["piece"], list) for token in body["tokens"])


def test_token_strings(client):
    body = client.post("/tokenize", {"prompt": "Hello world", "return_token_strs": True}).json()
    assert len(body["token_strs"]) == body["count"]


def test_bad_bodies_are_refused(client):
    for body in ({}, {"content": 5}, {"content": None}, {"prompt": ["a"]}, {"content": "a", "with_pieces": "yes"}):
        client.refused(body, path="/tokenize")
    n_vocab = client.get("/v1/models").json()["data"][0]["meta"]["n_vocab"]
    for tokens in (None, "a", [1.5], ["a"], [-1], [n_vocab], [True]):
        client.refused({"tokens": tokens}, path="/detokenize")


def test_long_text_is_quick(client):
    begin = time.monotonic()
    # Not through the checking client: half a million ids take it longer than the server.
    answer = client.http.post("/tokenize", json={"content": "x" * 1_000_000})
    assert answer.status_code == 200
    assert time.monotonic() - begin < 3 * SLOWNESS
    assert answer.json()["count"] > 100_000


def test_texts_are_bounded(client):
    for field in ("content", "prompt"):
        error = client.refused({field: "a b " * (1 << 18) + "a"}, code="invalid_value", param=field, path="/tokenize")
        assert "1048576" in error["message"]
    error = client.refused({"prompt": "a" * (16 << 20 >> 1), "truncate_prompt_tokens": 5}, code="invalid_value",
                           param="prompt")
    assert "1048576" in error["message"]


def test_an_empty_body_is_called_empty(client):
    answer = client.post_raw("/tokenize", b"")
    assert answer.status_code == 400 and "empty" in answer.json()["error"]["message"]
