# SPDX-License-Identifier: Apache-2.0
"""Streams: the same text in pieces, exact framing, usage where it was asked for."""
import json

import pytest

from harness import RawConnection, choice_text, finish_reasons

PROMPTS = ["The capital of France is", "def fibonacci(n):", "Once upon a time"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_streamed_text_is_the_text(client, prompt):
    whole = client.complete(prompt, max_tokens=24)["choices"][0]
    chunks = client.stream(prompt, max_tokens=24)
    assert choice_text(chunks) == whole["text"]
    assert finish_reasons(chunks) == [whole["finish_reason"]]


def test_chunks_of_a_stream_share_their_identity(client):
    chunks = client.stream(max_tokens=12)
    for key in ("id", "created", "model", "object", "system_fingerprint"):
        assert len({chunk[key] for chunk in chunks}) == 1, key
    assert chunks[0]["object"] == "text_completion"
    assert len(chunks) > 1
    assert finish_reasons(chunks) == [chunks[-1]["choices"][0]["finish_reason"]]


def test_each_chunk_holds_one_choice(client):
    chunks = client.stream(["1, 2, 3,", "a, b, c,"], n=2, temperature=1, seed=1)
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1, 2, 3}
    for index in range(4):
        assert len(finish_reasons(chunks, index)) == 1


def test_usage_comes_last_if_wanted(client):
    chunks = client.stream(stream_options={"include_usage": True})
    assert chunks[-1]["choices"] == []
    usage = chunks[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (5, 8, 13)
    assert all(chunk["choices"] for chunk in chunks[:-1])
    assert all("usage" in chunk and chunk["usage"] is None for chunk in chunks[:-1])


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_obfuscation": True},
                                     {"include_usage": None}])
def test_no_usage_unless_wanted(client, options):
    chunks = client.stream(stream_options=options)
    assert all(chunk["choices"] for chunk in chunks)
    assert all(not chunk.get("usage") for chunk in chunks)


def test_continuous_usage_runs_along(client):
    chunks = client.stream(stream_options={"include_usage": True, "continuous_usage_stats": True})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[0] >= 1 and counts[-1] == 8


def test_stream_options_without_stream_are_refused(client):
    for stream in (False, None):
        client.refused({"prompt": "a", "stream": stream, "stream_options": {"include_usage": True}},
                       param="stream_options")
    assert client.complete(stream_options=None)


def test_stream_options_of_wrong_type_are_refused(client):
    for options in ("usage", [], 1, {"include_usage": "yes"}, {"include_usage": 1}):
        client.refused({"prompt": "a", "stream": True, "stream_options": options}, code="invalid_type")


def test_headers_of_a_stream(client):
    answer = client.post("/v1/completions", {"prompt": "a", "max_tokens": 2, "stream": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-length" not in answer.headers
    assert answer.headers["transfer-encoding"] == "chunked"


def test_accept_header_does_not_matter(client):
    answer = client.request("POST", "/v1/completions", json={"prompt": "a", "max_tokens": 2, "stream": True},
                            headers={"Accept": "application/json"})
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_events_are_sent_as_they_happen(server):
    with RawConnection(server) as connection:
        connection.send_request("/v1/completions", {"prompt": "1, 2, 3,", "max_tokens": 12,
                                                    "temperature": 0, "stream": True})
        status, headers = connection.read_head()
        assert status == 200
        chunks = list(iter(connection.read_chunk, b""))
        assert len(chunks) >= 3, "one HTTP chunk per event, not one for all"
        body = b"".join(chunks)
        assert body.endswith(b"data: [DONE]\n\n")
        # The connection is kept alive after a stream.
        connection.send_request("/v1/completions", {"prompt": "a", "max_tokens": 1, "temperature": 0})
        status, _, body = connection.read_response()
        assert status == 200 and json.loads(body)["choices"]


def test_http_1_0_stream_ends_by_close(server):
    with RawConnection(server) as connection:
        body = json.dumps({"prompt": "a", "max_tokens": 3, "temperature": 0, "stream": True}).encode()
        connection.send(b"POST /v1/completions HTTP/1.0\r\nHost: localhost\r\n"
                        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        status, headers = connection.read_head()
        assert status == 200 and "transfer-encoding" not in headers
        data = connection.buffer
        while piece := connection.receive():
            data += piece
        assert data.endswith(b"data: [DONE]\n\n")


def test_silence_is_filled_with_pings(start):
    client = start("--ping", "1s")
    # A long prompt, so that the first token takes its time.
    prompt = [100] * 6000
    with client.http.stream("POST", "/v1/completions",
                            json={"prompt": prompt, "max_tokens": 1, "stream": True}) as answer:
        assert answer.status_code == 200
        text = "".join(answer.iter_text())
    assert text.startswith(":\n\n"), repr(text[:40])
    assert text.endswith("data: [DONE]\n\n")
