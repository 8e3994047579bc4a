# SPDX-License-Identifier: Apache-2.0
"""Stop strings: no leak, no loss, nothing twice."""
import pytest

from harness import choice_text, finish_reasons

PROMPT = "1, 2, 3, 4, 5,"
LENGTH = 24


@pytest.fixture(scope="module")
def full(client):
    """What the model says without stops."""
    return client.text(PROMPT, max_tokens=LENGTH)


def both_ways(client, stop, **fields):
    """The choice, streamed and not: they must agree, and nothing may follow or be lost."""
    whole = client.complete(PROMPT, max_tokens=LENGTH, stop=stop, **fields)["choices"][0]
    chunks = client.stream(PROMPT, max_tokens=LENGTH, stop=stop, **fields)
    assert choice_text(chunks) == whole["text"]
    assert finish_reasons(chunks) == [whole["finish_reason"]]
    return whole


def test_every_substring_stops_at_its_first_place(client, full):
    # Lengths 1 to 7 at many places: inside a token, over several, at the very end.
    stride = 5
    tried = {full[i:i + n] for n in (1, 2, 3, 5, 7) for i in range(0, len(full) - n + 1, stride)}
    tried.add(full[-3:])
    for stop in sorted(tried):
        choice = both_ways(client, stop)
        assert choice["text"] == full[:full.index(stop)], stop
        assert choice["finish_reason"] == "stop"
        assert choice["stop_reason"] == stop


def test_the_earliest_of_several_wins(client, full):
    choice = both_ways(client, [full[10:13], full[4:6], "never said"])
    first = min(full.index(full[10:13]), full.index(full[4:6]))
    assert choice["text"] == full[:first]


def test_stop_equal_to_the_first_output_gives_nothing(client, full):
    choice = both_ways(client, full[0])
    assert choice["text"] == ""
    assert choice["finish_reason"] == "stop"


def test_a_near_miss_is_not_lost(client, full):
    # A prefix of the stop string occurs all the time, the whole never: all text comes out.
    for stop in (full[:5] + "#", full[-2:] + "!", full[3] + "\0"):
        choice = both_ways(client, stop)
        assert choice["text"] == full
        assert choice["finish_reason"] == "length"
        assert choice["stop_reason"] is None


def test_included_on_request(client, full):
    stop = full[6:9]
    choice = both_ways(client, stop, include_stop_str_in_output=True)
    assert choice["text"] == full[:full.index(stop)] + stop


def test_stop_in_the_prompt_does_not_matter(client, full):
    assert both_ways(client, "4, 5,")["text"] == full.split("4, 5,")[0]
    echoed = client.complete(PROMPT, max_tokens=4, stop="2, 3", echo=True)["choices"][0]
    assert echoed["text"].startswith(PROMPT)


def test_tokens_after_the_stop_are_not_counted(client, full):
    body = client.complete(PROMPT, max_tokens=LENGTH, stop=full[4:6])
    assert 1 <= body["usage"]["completion_tokens"] < LENGTH


@pytest.mark.parametrize("stop", ["", [""], ["a", ""], [1], 5, {}, ["a"] * 17, "a" * 257, [["a"]], True])
def test_bad_stops_are_refused(client, stop):
    error = client.refused({"prompt": "a", "stop": stop})
    assert error["param"].startswith("stop")


def test_limits_are_accepted(client):
    assert client.complete(stop=[f"#{i}#" for i in range(16)])
    assert client.complete(stop="x" * 256)
    assert client.complete(stop=[])
