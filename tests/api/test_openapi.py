# SPDX-License-Identifier: Apache-2.0
"""openapi.yaml: valid, and it describes exactly what is served.

That each answer is as it says is checked by the client that all tests here use (harness.Contract).
"""
import re

import openapi_spec_validator
import pytest
import yaml

from harness import ROOT

SERVED = {
    ("post", "/v1/completions"), ("post", "/completions"), ("get", "/v1/models"), ("get", "/v1/models/{id}"),
    ("get", "/live"), ("get", "/ready"), ("get", "/health"), ("get", "/v1/health"), ("get", "/metrics"),
    ("get", "/"),
    ("get", "/version"), ("post", "/tokenize"), ("post", "/detokenize"), ("get", "/slots"), ("get", "/props"),
    ("post", "/v1/chat/completions"), ("post", "/chat/completions"), ("post", "/apply-template"),
    ("post", "/v1/embeddings"), ("get", "/v2/health/live"), ("get", "/v2/health/ready"), ("get", "/v2/models/{id}/ready"),
}
METHODS = {"get", "post", "put", "delete", "patch", "head", "options"}


@pytest.fixture(scope="module")
def document():
    return yaml.safe_load((ROOT / "openapi.yaml").read_text())


def request_fields(document, name):
    schemas = document["components"]["schemas"]
    common = schemas["CommonRequest"]["properties"]
    own = schemas[name]["properties"]
    assert not set(common) & set(own)
    return {**common, **own}


def operations(document):
    return {(method, re.sub(r"\{[^}]*\}", "{id}", path)) for path, item in document["paths"].items()
            for method in item if method in METHODS}


def test_it_is_valid_openapi_3_1(document):
    assert document["openapi"].startswith("3.1")
    openapi_spec_validator.validate(document)


def test_it_lists_exactly_what_is_served(document):
    described = {(method, path) for method, path in operations(document) if method != "head"}
    assert described == SERVED


def test_every_described_operation_answers(client, document):
    for method, path in operations(document):
        answer = client.request(method.upper(), path.replace("{id}", "smollm2-135m"))
        assert answer.status_code not in (404, 405), (method, path)


def test_every_operation_has_an_identity_and_its_answers(document):
    ids = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                ids.append(operation["operationId"])
                assert operation.get("summary"), path
                assert operation["responses"], path
    assert len(ids) == len(set(ids))


def test_every_reference_is_used(document):
    text = (ROOT / "openapi.yaml").read_text()
    for kind, entries in document["components"].items():
        for name in entries:
            if kind == "securitySchemes":
                continue
            used = f"#/components/{kind}/{name}" in text
            assert used or name in ("CompletionChunk", "ChatChunk"), f"{kind}/{name} is never used"


def test_every_request_field_is_described(client, document):
    """A field that openapi.yaml describes is known to the server, and the other way round."""
    fields = request_fields(document, "CompletionRequest")
    assert {"prompt", "model", "max_tokens", "temperature", "top_p", "n", "stream", "stream_options", "logprobs",
            "echo", "stop", "presence_penalty", "frequency_penalty", "best_of", "logit_bias", "seed", "user",
            "suffix", "top_k", "min_p", "repetition_penalty", "ignore_eos", "stop_token_ids", "min_tokens",
            "include_stop_str_in_output", "skip_special_tokens", "add_special_tokens", "request_id",
            "cache_prompt", "cache_salt", "priority", "stream_interval", "timings_per_token", "return_progress",
            "t_max_predict_ms", "return_tokens_as_token_ids"} <= set(fields)


def test_every_field_of_chats_is_described(document):
    fields = request_fields(document, "ChatRequest")
    assert {"messages", "model", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "tools", "tool_choice",
            "parallel_tool_calls", "response_format", "reasoning_effort", "chat_template_kwargs",
            "add_generation_prompt", "continue_final_message", "stream", "stop", "seed", "n"} <= set(fields)


def test_described_fields_of_chats_are_known_to_a_strict_server(start, document):
    client = start("--strict-params")
    base = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    for field in request_fields(document, "ChatRequest"):
        answer = client.post("/v1/chat/completions", {**base, field: base.get(field, {})})
        if answer.status_code == 400:
            assert answer.json()["error"]["code"] != "unknown_parameter", field


def test_described_fields_are_known_to_a_strict_server(start, document):
    client = start("--strict-params")
    fields = request_fields(document, "CompletionRequest")
    for field in fields:
        answer = client.post("/v1/completions", {"prompt": "a", "max_tokens": 1, field: {}}
                             if field not in ("prompt", "max_tokens") else {"prompt": "a", "max_tokens": 1})
        if answer.status_code == 400:
            assert answer.json()["error"]["code"] != "unknown_parameter", field
