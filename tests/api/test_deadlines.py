# SPDX-License-Identifier: Apache-2.0
"""Errors after the 200: an error frame, then [DONE]; before it: an HTTP status."""
import json

from harness import parse_sse

LONG = {"prompt": "1, 2, 3,", "max_tokens": 7000, "temperature": 0, "ignore_eos": True}


def test_deadline_in_a_stream_is_an_error_frame(start):
    client = start("--request-timeout", "1s")
    answer = client.post("/v1/completions", {**LONG, "stream": True})
    assert answer.status_code == 200
    events = parse_sse(answer.content)
    assert events[-1] == "[DONE]"
    assert "error" in json.loads(events[-2])
    assert all("choices" in json.loads(event) for event in events[:-2])
    assert client.text(max_tokens=2) == " Paris."


def test_deadline_without_a_stream_is_a_status(start):
    client = start("--request-timeout", "1s")
    answer = client.post("/v1/completions", LONG)
    assert answer.status_code >= 400
    assert answer.json()["error"]["message"]
    assert client.text(max_tokens=2) == " Paris."
