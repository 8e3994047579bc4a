# SPDX-License-Identifier: Apache-2.0
"""The unmodified official Python client, chats."""
import openai
import pytest

from harness import SLOWNESS, counts, until

CHAT = {"model": "smollm2-135m", "max_completion_tokens": 12, "temperature": 0,
        "messages": [{"role": "system", "content": "Answer with one word."},
                     {"role": "user", "content": "What is the capital of France?"}]}


@pytest.fixture(scope="module")
def sdk(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="dummy", timeout=120 * SLOWNESS,
                       max_retries=0) as client:
        yield client


def test_chat(sdk):
    answer = sdk.chat.completions.create(**CHAT)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens >= 1


def test_stream_equals_chat(sdk):
    whole = sdk.chat.completions.create(**CHAT)
    with sdk.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert counts(chunks[-1].usage.model_dump()) == counts(whole.usage.model_dump())
    assert [c.delta.role for chunk in chunks for c in chunk.choices if c.delta.role] == ["assistant"]


def test_the_clients_own_accumulation(sdk):
    with sdk.chat.completions.stream(**CHAT) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == sdk.chat.completions.create(**CHAT).choices[0].message.content


def test_logprobs(sdk):
    answer = sdk.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert bytes(b for entry in content for b in entry.bytes).decode() == answer.choices[0].message.content
    assert all(len(entry.top_logprobs) == 2 for entry in content)


def test_extensions_go_through(sdk):
    answer = sdk.chat.completions.create(**CHAT, extra_body={"top_k": 5, "timings_per_token": True, "priority": -1})
    assert answer.timings["predicted_n"] == answer.usage.completion_tokens


def test_errors_have_their_class(sdk):
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(**{**CHAT, "messages": []})
    assert (caught.value.code, caught.value.param) == ("invalid_value", "messages")
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.create(**{**CHAT, "model": "other"})


def test_leaving_a_stream_cancels_the_request(sdk, client):
    long = {**CHAT, "max_completion_tokens": 4000, "extra_body": {"ignore_eos": True}}
    with sdk.chat.completions.create(**long, stream=True) as stream:
        next(iter(stream))
    until(lambda: client.metric("lacuna_requests_running") == 0, 2, "request cancelled")
