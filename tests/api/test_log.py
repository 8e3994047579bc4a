# SPDX-License-Identifier: Apache-2.0
"""The log: one JSON object per line, which nothing from outside can forge."""
import json

import pytest

from harness import RawConnection, until

EVIL = ["x\n{\"level\":\"info\",\"event\":\"forged\"}", "x\r\nforged", "\x1b[31mforged\x1b[0m", "\u2028forged",
        "\"forged\":\"1\"", "\\\"}\n{\"event\":\"forged\"}"]


@pytest.fixture
def logged(start):
    return start("--log-format", "json")


def lines_of(client):
    """Each line as its object; a line that is none fails the test."""
    return [json.loads(line) for line in client.server.log().split("\n")[:-1]]


@pytest.mark.parametrize("text", EVIL)
def test_nothing_forges_a_line(logged, text):
    logged.post("/v1/completions", {"prompt": "a", "model": text, "max_tokens": 1})
    logged.post("/v1/completions", {"prompt": "a", "user": text, text: 1, "max_tokens": 1})
    logged.get("/v1/models/x", headers={"User-Agent": text.encode().replace(b"\n", b" ").replace(b"\r", b" ")
                                        .replace(b"\0", b" ")})
    with RawConnection(logged.server) as connection:
        connection.send(b"GET /%0a%7b%22event%22:%22forged%22%7d%1b[31m HTTP/1.1\r\nHost: localhost\r\n"
                        b"X-Request-Id: a\x1b[31mforged\r\nX-Api-Key: \x1b[2Jforged\r\nConnection: close\r\n\r\n")
        connection.receive()
    for line in lines_of(logged):
        assert line["event"] != "forged"
        assert "ts" in line and "level" in line
    assert "\x1b" not in logged.server.log()


def test_each_request_leaves_one_line(logged):
    answer = logged.post("/v1/completions", {"prompt": "The capital of France is", "max_tokens": 3, "temperature": 0},
                         headers={"X-Request-Id": "find-me-1"})
    assert answer.json()["id"] == "cmpl-find-me-1"
    until(lambda: "find-me-1" in logged.server.log(), 2, "logged")
    found = [line for line in lines_of(logged) if line["event"] == "request" and line["request_id"] == "find-me-1"]
    assert len(found) == 1
    line = found[0]
    assert (line["status"], line["prompt_tokens"], line["completion_tokens"]) == (200, 5, 3)
    assert (line["finish"], line["route"], line["method"]) == ("length", "/v1/completions", "POST")
    assert line["total_ms"] >= line["ttft_ms"] >= 0


def test_no_text_is_logged(logged):
    logged.complete("a very secret prompt", max_tokens=8)
    log = logged.server.log()
    assert "secret" not in log


def test_a_client_that_left_is_499(logged):
    with RawConnection(logged.server) as connection:
        connection.send_request("/v1/completions", {"prompt": "1, 2,", "max_tokens": 4000, "ignore_eos": True,
                                                    "stream": True}, headers=["X-Request-Id: left-early"])
        connection.read_head()
    until(lambda: "left-early" in logged.server.log(), 3, "logged")
    line = next(line for line in lines_of(logged) if line.get("request_id") == "left-early")
    assert line["status"] == 499


def test_probes_are_not_logged(logged):
    for _ in range(5):
        logged.get("/health")
        logged.get("/metrics")
    assert not [line for line in lines_of(logged) if line.get("route") in ("/health", "/metrics")]


def test_the_user_is_logged_as_a_hash(start):
    client = start()
    client.complete(user="alice@example.org", max_tokens=1)
    assert "alice@" not in client.server.log()
    until(lambda: '"user_hash":"' in client.server.log(), 3, "hash in the access line")
