# SPDX-License-Identifier: Apache-2.0
"""The unmodified official Node client (client.js)."""
import json
import pathlib
import subprocess

import pytest

from harness import SLOWNESS, until

HERE = pathlib.Path(__file__).parent


@pytest.fixture
def node(server):
    def run(step):
        done = subprocess.run(["node", HERE / "client.js", server.url + "/v1", step],
                              capture_output=True, text=True, timeout=60 * SLOWNESS)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    return run


def test_completion(node):
    answer = node("complete")
    assert answer["data"]["choices"][0]["text"].startswith(" Paris.")
    assert answer["data"]["usage"]["total_tokens"] == 17
    assert answer["requestId"]


def test_stream_equals_completion(node):
    chunks = node("stream")
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    assert text == node("complete")["data"]["choices"][0]["text"]
    assert chunks[-1]["usage"]["completion_tokens"] == 12


def test_leaving_a_stream_cancels_the_request(node, client):
    assert node("leave")["choices"]
    until(lambda: client.metric("lacuna_requests_running") == 0, 2, "request cancelled")


def test_models(node):
    assert node("models") == ["smollm2-135m"]


def test_errors_have_their_class(node):
    error = node("error")
    assert (error["name"], error["status"]) == ("BadRequestError", 400)
    assert (error["code"], error["param"]) == ("invalid_value", "temperature")
    assert error["requestID"]
