# SPDX-License-Identifier: Apache-2.0
"""Whatever the body holds: 400 with the field's name, never 500, never a crash."""
import gzip

import pytest

GOOD = b'{"prompt":"a","max_tokens":1}'
MALFORMED = {
    "empty": b"",
    "blank": b" \n\t",
    "array": b"[]",
    "open brace": b"{",
    "string": b'"prompt"',
    "number": b"5",
    "null": b"null",
    "huge exponent": b'{"prompt":"a","temperature":1e999}',
    "5000 brackets": b"[" * 5000,
    "5000 nested": b'{"prompt":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "65 nested objects": b'{"prompt":"a","x":' + b'{"x":' * 65 + b"1" + b"}" * 65 + b"}",
    "duplicate key": b'{"prompt":"a","prompt":"b"}',
    "huge integer": b'{"prompt":"a","max_tokens":' + b"9" * 400 + b"}",
    "truncated gzip": gzip.compress(GOOD)[:-6],
    "trailing bytes": GOOD + b"x",
    "two objects": GOOD + GOOD,
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "single quotes": b"{'prompt':'a'}",
    "trailing comma": b'{"prompt":"a",}',
    "NaN": b'{"prompt":"a","temperature":NaN}',
    "control character": b'{"prompt":"a\x01"}',
    "bad escape": b'{"prompt":"\\x"}',
    "cut escape": b'{"prompt":"\\u12',
    "NUL byte": GOOD + b"\0",
    "comment": b'{"prompt":"a"/**/}',
    "hexadecimal": b'{"prompt":"a","max_tokens":0x10}',
    "leading zero": b'{"prompt":"a","max_tokens":010}',
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
def test_malformed_bodies(client, name, path):
    answer = client.post_raw(path, MALFORMED[name])
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "invalid_json", error


def test_server_is_well_afterwards(client):
    assert client.text(max_tokens=2) == " Paris."


@pytest.mark.parametrize("field, values, code", [
    ("max_tokens", ["5", 5.5, True, [], {}], "invalid_type"),
    ("max_tokens", [-1, 2**60, -2**62], "invalid_value"),
    ("temperature", ["1", True, []], "invalid_type"),
    ("temperature", [-0.1, 2.1, 1e30], "invalid_value"),
    ("top_p", ["1", []], "invalid_type"),
    ("top_p", [-0.1, 1.1], "invalid_value"),
    ("top_k", ["1", 1.5], "invalid_type"),
    ("top_k", [-2], "invalid_value"),
    ("min_p", [-0.1, 1.1], "invalid_value"),
    ("repetition_penalty", [0, -1, 10.5], "invalid_value"),
    ("frequency_penalty", [-2.1, 2.1], "invalid_value"),
    ("presence_penalty", [-2.1, 2.1], "invalid_value"),
    ("stream", ["true", 1, []], "invalid_type"),
    ("echo", ["true", 0], "invalid_type"),
    ("ignore_eos", [1], "invalid_type"),
    ("stop_token_ids", ["5", ["a"], [1.5]], "invalid_type"),
    ("stop_token_ids", [[-1], [10**7]], "invalid_value"),
    ("min_tokens", ["1"], "invalid_type"),
    ("min_tokens", [-1, 17], "invalid_value"),
    ("seed", ["1", 1.5, True], "invalid_type"),
    ("n", ["1", 1.5], "invalid_type"),
    ("user", [5, []], "invalid_type"),
    ("request_id", ["", "a b", "x" * 129, "a\nb"], "invalid_value"),
    ("cache_salt", ["", "x" * 1025], "invalid_value"),
    ("cache_prompt", ["yes"], "invalid_type"),
    ("add_special_tokens", ["yes"], "invalid_type"),
])
def test_bad_values_name_their_field(client, field, values, code):
    for value in values:
        error = client.refused({"prompt": "a", field: value}, code=code)
        assert error["param"].split("[")[0] == field, error
        assert field in error["message"], error


@pytest.mark.parametrize("body", [
    {"response_format": {"type": "json_object"}}, {"response_format": {"type": "nonsense"}},
    {"json_schema": {"type": "object"}}, {"grammar": "root ::= ("}, {"structured_outputs": {"regex": "("}}])
def test_constraints_are_never_ignored(client, body):
    error = client.refused({"prompt": "a", **body})
    assert error["param"] == next(iter(body))


def test_unknown_fields_are_ignored_with_a_warning(client):
    assert client.complete(unheard_of_field={"a": [1, 2]})
    assert "unheard_of_field" in client.server.log()


def test_strict_params_refuses_unknown_fields(start):
    client = start("--strict-params")
    client.refused({"prompt": "a", "unheard_of": 1}, code="unknown_parameter", param="unheard_of")
    assert client.complete()


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
                                          "application/jsonx", "", "text/json"])
def test_other_content_types_are_refused(client, content_type):
    answer = client.post_raw("/v1/completions", GOOD, content_type)
    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON",
                                          "application/json;charset=UTF-8"])
def test_json_content_types_are_accepted(client, content_type):
    assert client.post_raw("/v1/completions", GOOD, content_type).status_code == 200


def test_messages_hold_no_prompt_text(client):
    secret = "correct horse battery staple"
    for body in ({"prompt": [secret, 5]}, {"prompt": secret, "n": 99}, {"prompt": {secret: 1}}):
        assert secret not in str(client.refused(body))
    assert secret not in client.server.log()
