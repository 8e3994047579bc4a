# SPDX-License-Identifier: Apache-2.0
"""A model that computes what is no number: the request that meets it fails, and nobody else.

The model is a fixture with one token's embedding made NaN: computing that token fails, choosing it
does not.
"""
import json
import struct
import threading

import pytest

from harness import ROOT, Client, Contract, Server, parse_sse

FIXTURE = ROOT / "tests/golden/arch/llama.gguf"
PROMPT = [5, 6, 7]
GREEDY = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
N_BEFORE = 3  # tokens of the answer before the poisoned one


def tensor_infos(data):
    """name: (dimensions, offset); and where the tensors' data begins.  The embeddings are the first tensor."""
    (n_tensors,) = struct.unpack_from("<Q", data, 8)
    name = b"token_embd.weight"
    at = data.index(struct.pack("<Q", len(name)) + name)
    infos = {}
    for _ in range(n_tensors):
        (length,) = struct.unpack_from("<Q", data, at)
        name = data[at + 8:at + 8 + length].decode()
        at += 8 + length
        (n_dims,) = struct.unpack_from("<I", data, at)
        dims = struct.unpack_from(f"<{n_dims}Q", data, at + 4)
        at += 4 + 8 * n_dims
        kind, offset = struct.unpack_from("<IQ", data, at)
        at += 12
        infos[name] = dims, offset
    return infos, -(-at // 32) * 32


def poison(token, path):
    data = bytearray(FIXTURE.read_bytes())
    infos, start = tensor_infos(data)
    assert "output.weight" in infos, "tied embeddings would spoil every token's logit"
    (width, _), offset = infos["token_embd.weight"]
    row = start + offset + token * width * 2
    data[row:row + width * 2] = struct.pack("<H", 0x7E00) * width  # F16 NaN
    path.write_bytes(data)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """The model's path, the poisoned token, and what the sound model answers."""
    with Server(model=str(FIXTURE)) as server:
        choice = Client(server, Contract()).post("/v1/completions", GREEDY).json()["choices"][0]
    ids = choice["token_ids"]
    place = next(i for i, id in enumerate(ids) if i >= N_BEFORE and id not in ids[:i] + PROMPT)
    path = tmp_path_factory.mktemp("poisoned") / "poisoned.gguf"
    poison(ids[place], path)
    return str(path), ids[:place + 1]


@pytest.fixture
def client(start, poisoned):
    return start(model=poisoned[0])


def check_error(error):
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert error["message"]


def test_stream_gets_its_text_then_an_error_frame_then_done(client, poisoned):
    answer = client.post("/v1/completions", {**GREEDY, "stream": True})
    assert answer.status_code == 200
    events = parse_sse(answer.content)
    assert events[-1] == "[DONE]"
    check_error(json.loads(events[-2])["error"])
    chunks = [json.loads(event)["choices"][0] for event in events[:-2]]
    assert [id for chunk in chunks for id in chunk["token_ids"]] == poisoned[1]
    assert all(chunk["finish_reason"] is None for chunk in chunks)


def test_answer_without_a_stream_is_a_500(client):
    answer = client.post("/v1/completions", GREEDY)
    assert answer.status_code == 500
    check_error(answer.json()["error"])


def test_poison_in_the_prompt_fails_before_the_first_token(client, poisoned):
    request = {**GREEDY, "prompt": [poisoned[1][-1], 5, 6]}
    assert client.post("/v1/completions", request).status_code == 500
    events = parse_sse(client.post("/v1/completions", {**request, "stream": True}).content)
    assert len(events) == 2 and events[1] == "[DONE]"
    check_error(json.loads(events[0])["error"])


def test_neighbours_in_the_batch_get_their_answers(client, poisoned):
    other = {**GREEDY, "prompt": [9, 10, 11, 12], "max_tokens": 200, "logit_bias": {str(poisoned[1][-1]): -100}}
    alone = client.post("/v1/completions", other).json()["choices"][0]["token_ids"]
    answers = []
    neighbour = threading.Thread(target=lambda: answers.append(client.post("/v1/completions", other)))
    neighbour.start()
    for _ in range(20):
        assert client.post("/v1/completions", GREEDY).status_code == 500
    neighbour.join()
    assert answers[0].json()["choices"][0]["token_ids"] == alone
    assert client.metric("lacuna_requests_running") == 0
    assert client.metric("lacuna_kv_cache_usage_ratio") == 0
