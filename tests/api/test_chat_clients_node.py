# SPDX-License-Identifier: Apache-2.0
"""Unmodified Node chat clients: openai, LangChain, the Vercel AI SDK (chat_clients.js)."""
import json
import pathlib
import subprocess

import pytest

from harness import SLOWNESS, Client, counts

HERE = pathlib.Path(__file__).parent
MESSAGES = [{"role": "system", "content": "Answer with one word."},
            {"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def node(server):
    def run(step):
        done = subprocess.run(["node", HERE / "chat_clients.js", server.url + "/v1", step],
                              capture_output=True, text=True, timeout=60 * SLOWNESS)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    return run


@pytest.fixture(scope="module")
def wanted(server, contract):
    return Client(server, contract).chat(MESSAGES, max_tokens=12)


@pytest.fixture(scope="module")
def text(wanted):
    return wanted["choices"][0]["message"]["content"]


def test_openai(node, wanted, text):
    answer = node("openai_whole")
    assert answer["choices"][0]["message"]["content"] == text
    assert counts(answer["usage"]) == counts(wanted["usage"])


def test_openai_stream(node, wanted, text):
    chunks = node("openai_stream")
    assert "".join(c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"]) == text
    assert counts(chunks[-1]["usage"]) == counts(wanted["usage"])


def test_openai_puts_the_chunks_together(node, text):
    answer = node("openai_accumulated")
    assert answer["choices"][0]["message"]["content"] == text
    assert answer["choices"][0]["message"]["role"] == "assistant"


def test_openai_logprobs(node, text):
    content = node("openai_logprobs")["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == text
    assert all(len(entry["top_logprobs"]) == 3 for entry in content)


def test_openai_error(node):
    error = node("openai_error")
    assert (error["kind"], error["status"], error["param"]) == ("BadRequestError", 400, "messages")


def test_langchain(node, wanted, text):
    answer = node("langchain_whole")
    assert answer["content"] == text
    assert answer["usage"]["input_tokens"] == wanted["usage"]["prompt_tokens"]
    assert answer["usage"]["output_tokens"] == wanted["usage"]["completion_tokens"]
    assert answer["metadata"]["finish_reason"] == wanted["choices"][0]["finish_reason"]


def test_langchain_stream(node, wanted, text):
    answer = node("langchain_stream")
    assert answer["content"] == text and answer["n"] > 2
    assert answer["usage"]["total_tokens"] == wanted["usage"]["total_tokens"]


def test_langchain_error(node):
    error = node("langchain_error")
    assert error["status"] == 400 and "temperature" in error["message"]


def test_vercel(node, wanted, text):
    answer = node("vercel_whole")
    assert answer["text"] == text
    assert answer["usage"]["inputTokens"] == wanted["usage"]["prompt_tokens"]
    assert answer["usage"]["outputTokens"] == wanted["usage"]["completion_tokens"]
    assert answer["finishReason"] == wanted["choices"][0]["finish_reason"]


def test_vercel_stream(node, wanted, text):
    answer = node("vercel_stream")
    assert answer["text"] == text and answer["n"] > 1
    assert answer["usage"]["totalTokens"] == wanted["usage"]["total_tokens"]


def test_vercel_completions(node):
    answer = node("vercel_completion")
    assert "Paris" in answer["text"]
    assert answer["usage"]["outputTokens"] >= 1


def test_vercel_error(node):
    error = node("vercel_error")
    assert error["status"] == 404
