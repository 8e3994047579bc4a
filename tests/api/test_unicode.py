# SPDX-License-Identifier: Apache-2.0
"""Text of any kind goes in and comes out as whole code points."""
import json

import pytest

from harness import choice_text

TEXTS = ["😀😀😀", "👩‍👩‍👧 family", "日本語のテキスト。", "中文，标点；", "한국어", "Ελληνικά", "العربية", "é vs é",
         "a\u0000b", "\u2028 \ufeff x", "tab\tnew\nline\r\n", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "\U0010ffff", "\\ \" / \x01\x1f"]


@pytest.mark.parametrize("text", TEXTS)
def test_echo_gives_the_prompt_back(client, text):
    body = client.complete(text, echo=True, max_tokens=0)
    assert body["choices"][0]["text"] == text
    chunks = client.stream(text, echo=True, max_tokens=2)
    assert choice_text(chunks).startswith(text)


def test_deltas_never_split_a_code_point(client):
    # Byte tokens of one emoji, forced out one by one by a bias so strong that nothing else can win.
    ids = client.post("/tokenize", {"content": "😀"}).json()["tokens"]
    assert len(ids) > 1, "this test needs a vocabulary that splits the emoji"
    prompt = client.post("/tokenize", {"content": "smile: 😀😀😀😀"}).json()["tokens"][:-len(ids) + 1]
    chunks = client.stream(prompt, max_tokens=16, logit_bias={str(i): 100 for i in ids})
    whole = client.text(prompt, max_tokens=16, logit_bias={str(i): 100 for i in ids})
    assert choice_text(chunks) == whole
    for chunk in chunks:
        for choice in chunk["choices"]:
            choice["text"].encode("utf-8")  # no lone surrogates either


def test_bytes_that_never_become_text_are_replaced(client):
    # The first byte of the emoji alone, at the end of the choice: U+FFFD, not an error.
    ids = client.post("/tokenize", {"content": "😀"}).json()["tokens"]
    text = client.complete("a", max_tokens=1, logit_bias={str(ids[0]): 100})["choices"][0]["text"]
    assert "\ufffd" in text
    body = client.post("/detokenize", {"tokens": ids[:1]}).json()
    assert "\ufffd" in body["content"]


def test_nul_in_a_prompt(client):
    body = client.complete("zero\u0000zero", echo=True, max_tokens=0)
    assert body["choices"][0]["text"] == "zero\u0000zero"


@pytest.mark.parametrize("raw", [b'{"prompt":"\xff"}', b'{"prompt":"\xc3"}', b'{"prompt":"\xed\xa0\x80"}',
                                 b'{"prompt":"\\ud800"}', b'{"prompt":"\\udc00x"}', b'{"prompt":"\xc0\xaf"}'])
def test_bad_utf8_is_refused(client, raw):
    answer = client.post_raw("/v1/completions", raw)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"


def test_escaped_surrogate_pair_is_its_code_point(client):
    answer = client.post_raw("/v1/completions",
                             rb'{"prompt":"\ud83d\ude00","echo":true,"max_tokens":0}')
    assert answer.json()["choices"][0]["text"] == "😀"


def test_answer_is_json_whatever_the_text(client):
    answer = client.post("/v1/completions", {"prompt": "\"\\\u0001\u2028</script>", "echo": True, "max_tokens": 0})
    assert json.loads(answer.content)["choices"][0]["text"] == "\"\\\u0001\u2028</script>"
