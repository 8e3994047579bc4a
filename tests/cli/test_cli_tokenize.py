# SPDX-License-Identifier: Apache-2.0
"""lacuna tokenize: NUL between texts on stdin, one JSON array of ids per line on stdout."""
import json
import subprocess

import pytest

from commands import DATAERR, good, refused
from harness import SLOWNESS, binary, clean_environment, gemma_path, model_path


def ids(text, *words, model=None):
    lines = good("tokenize", "-m", model or model_path(), *words, stdin=text).decode().splitlines()
    return [json.loads(line) for line in lines]


def test_each_text_is_a_line():
    one, two = ids(b"Hello world"), ids(b"a\nb\n")
    assert len(one) == len(two) == 1 and one[0] and two[0]
    assert ids(b"Hello world\0a\nb\n") == one + two


def test_known_ids():
    # The ids of GPT-2-like vocabularies cannot be guessed: these are the model's own for its own words.
    assert ids(b"The capital of France is") == [[504, 3575, 282, 4649, 314]]


@pytest.mark.parametrize("text, n", [(b"", 0), (b"\0", 1), (b"a", 1), (b"a\0", 1), (b"a\0b", 2), (b"\0a", 2),
                                     (b"a\0\0b", 3), (b"\0\0", 2)])
def test_a_nul_ends_a_text_and_starts_none(text, n):
    answer = ids(text)
    assert len(answer) == n
    assert [len(line) > 0 for line in answer] == [len(t) > 0 for t in text.split(b"\0")[:n]]


def test_special_adds_and_parses():
    model = gemma_path()
    plain, = ids(b"hello<end_of_turn>", model=model)
    special, = ids(b"hello<end_of_turn>", "--special", model=model)
    assert plain[0] != 2 and special[0] == 2
    assert len(special) < len(plain)
    assert special[-1] == 106
    assert ids(b"\0", "--special", model=model) == [[2]]


def test_any_bytes_are_a_text():
    every = bytes(range(1, 256))
    unfinished = b"\xe2\x82"
    # The vocabulary has no token for the bytes FF and FE: they are left out, and nothing else is.
    odd = b"a\xff\xfeb"
    answer = ids(every + b"\0" + unfinished + b"\0" + odd)
    assert len(answer) == 3
    assert len(answer[0]) > 100 and answer[1]
    assert answer[2] == ids(b"a")[0] + ids(b"b")[0]


def test_large_texts():
    megabyte, = ids(b"lorem ipsum dolor sit amet\n" * 40_000)
    assert len(megabyte) > 200_000
    word, = ids(b"a" * 1_000_000)
    assert len(word) > 10_000


def test_answers_before_the_end_of_input():
    process = subprocess.Popen([binary(), "tokenize", "-m", model_path()], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, env=clean_environment())
    try:
        for _ in range(3):
            process.stdin.write(b"Hello\0")
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == ids(b"Hello")[0]
        process.stdin.close()
        assert process.wait(timeout=30 * SLOWNESS) == 0
    finally:
        process.kill()
        process.wait()


def test_a_damaged_model_is_refused(tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + b"\xff" * 100)
    refused(DATAERR, "tokenize", "-m", path, stdin=b"a")
