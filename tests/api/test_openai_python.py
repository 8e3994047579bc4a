# SPDX-License-Identifier: Apache-2.0
"""The unmodified official Python client: sync, async, streams, errors, timeouts."""
import asyncio

import openai
import pytest

from harness import SLOWNESS, counts, until


@pytest.fixture(scope="module")
def sdk(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="dummy", timeout=120 * SLOWNESS,
                       max_retries=0) as client:
        yield client


PROMPT = {"model": "smollm2-135m", "prompt": "The capital of France is", "max_tokens": 12,
          "temperature": 0}


def test_completion(sdk):
    answer = sdk.completions.create(**PROMPT)
    assert answer.choices[0].text.startswith(" Paris.")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == 5
    assert answer.usage.completion_tokens == 12
    assert answer._request_id


def test_stream_equals_completion(sdk):
    whole = sdk.completions.create(**PROMPT)
    with sdk.completions.create(**PROMPT, stream=True,
                                stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].text
    assert counts(chunks[-1].usage.model_dump()) == counts(whole.usage.model_dump())


def test_async_completions_run_together(server):
    async def ask():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="dummy",
                                      timeout=120 * SLOWNESS, max_retries=0) as sdk:
            async def streamed():
                stream = await sdk.completions.create(**PROMPT, stream=True)
                return "".join([chunk.choices[0].text async for chunk in stream])
            async def whole():
                return (await sdk.completions.create(**PROMPT)).choices[0].text
            return await asyncio.gather(*[streamed() for _ in range(3)], *[whole() for _ in range(3)])

    assert len(set(asyncio.run(ask()))) == 1


def test_models(sdk):
    models = sdk.models.list().data
    assert [model.id for model in models] == ["smollm2-135m"]
    assert sdk.models.retrieve("smollm2-135m").owned_by == "lacuna"


def test_bad_value_is_a_bad_request(sdk):
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.completions.create(**{**PROMPT, "temperature": 3})
    assert caught.value.status_code == 400
    assert caught.value.param == "temperature"
    assert caught.value.code == "invalid_value"
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


def test_unknown_model_is_not_found(sdk):
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.completions.create(**{**PROMPT, "model": "gpt-4"})
    assert caught.value.code == "model_not_found"


def test_client_timeout_cancels_the_request(sdk, client):
    with pytest.raises(openai.APITimeoutError):
        sdk.with_options(timeout=0.3).completions.create(**{**PROMPT, "max_tokens": 4000},
                                                         extra_body={"ignore_eos": True})
    until(lambda: client.metric("lacuna_requests_running") == 0, 2, "request cancelled")


def test_leaving_a_stream_cancels_the_request(sdk, client):
    with sdk.completions.create(**{**PROMPT, "max_tokens": 4000}, stream=True,
                                extra_body={"ignore_eos": True}) as stream:
        for _ in stream:
            break
    until(lambda: client.metric("lacuna_requests_running") == 0, 2, "request cancelled")
    assert client.metric("lacuna_requests_cancelled_total") >= 1


def test_batches_and_logprobs(sdk):
    answer = sdk.completions.create(model="smollm2-135m", prompt=["1, 2, 3,", "a, b, c,"], max_tokens=3,
                                    temperature=0, logprobs=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert len(choice.logprobs.tokens) == 3
        assert all(2 <= len(top) <= 3 for top in choice.logprobs.top_logprobs)


def test_wrong_key_is_an_authentication_error(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("me:sk-right\n")
    server = start("--api-key-file", str(keys)).server
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=server.url + "/v1", api_key="sk-wrong", max_retries=0).completions.create(**PROMPT)
    right = openai.OpenAI(base_url=server.url + "/v1", api_key="sk-right", max_retries=0)
    assert right.completions.create(**PROMPT).choices[0].text.startswith(" Paris")
