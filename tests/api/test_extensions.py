# SPDX-License-Identifier: Apache-2.0
"""Fields beyond the standard: how a stream is cut, progress, timings, limits of time, priority, salt."""
import pytest

from harness import SLOWNESS, choice_text, finish_reasons

LONG_PROMPT = list(range(100, 1300))


def n_tokens(chunk):
    return sum(len(choice["token_ids"]) for choice in chunk["choices"])


def test_stream_interval_joins_tokens(client):
    one = client.stream(max_tokens=21, ignore_eos=True, return_token_ids=True)
    five = client.stream(max_tokens=21, ignore_eos=True, return_token_ids=True, stream_interval=5)
    assert choice_text(five) == choice_text(one)
    assert n_tokens(five[0]) == 1, "the first chunk does not wait"
    assert all(n_tokens(chunk) == 5 for chunk in five[1:-1])
    assert sum(map(n_tokens, five)) == 21 and finish_reasons(five) == ["length"]
    huge = client.stream(max_tokens=21, ignore_eos=True, return_token_ids=True, stream_interval=10**9)
    assert [n_tokens(chunk) for chunk in huge] == [1, 20]


def test_stream_interval_counts_each_choice(client):
    chunks = client.stream(["1, 2, 3,", "a, b, c,"], n=2, seed=4, temperature=1, max_tokens=9, ignore_eos=True,
                           return_token_ids=True, stream_interval=4)
    for index in range(4):
        own = [chunk for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert [n_tokens(chunk) for chunk in own][0] == 1
        assert sum(map(n_tokens, own)) == 9
        assert len(own) <= 4


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_stream_interval_is_a_whole_number(client, value):
    client.refused({"prompt": "a", "stream_interval": value}, param="stream_interval")


def progress_of(chunks):
    return [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]


def test_progress_rises_from_cached_to_all(client):
    chunks = client.stream(LONG_PROMPT, return_progress=True, max_tokens=2, cache_prompt=False)
    progress = progress_of(chunks)
    assert progress[0]["processed"] == progress[0]["cache"] == 0
    assert progress[-1]["processed"] == progress[-1]["total"] == len(LONG_PROMPT)
    done = [p["processed"] for p in progress]
    assert done == sorted(set(done)) and len(done) >= 2
    assert [p["time_ms"] for p in progress] == sorted(p["time_ms"] for p in progress)
    first_text = next(i for i, chunk in enumerate(chunks) if chunk["choices"])
    assert first_text == len(progress), "progress comes before the text"
    assert all(chunk["choices"] == [] for chunk in chunks[:first_text])


def test_progress_changes_nothing_else(client):
    plain = client.stream("1, 2, 3,")
    chunks = client.stream("1, 2, 3,", return_progress=True, stream_options={"include_usage": True})
    assert choice_text(chunks) == choice_text(plain)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_progress_of_several_choices_or_without_a_stream_is_left_out(client):
    assert not progress_of(client.stream(["a", "b"], return_progress=True))
    assert not progress_of(client.stream("a", n=2, return_progress=True))
    assert client.complete("a", return_progress=True)["choices"]


def check_timings(timings, n_prompt, n_predicted):
    assert timings["prompt_n"] + timings["cache_n"] == n_prompt
    assert timings["predicted_n"] == n_predicted
    assert timings["prompt_ms"] > 0
    for phase in ("prompt", "predicted"):
        n, ms = timings[phase + "_n"], timings[phase + "_ms"]
        if n and ms:
            assert timings[phase + "_per_token_ms"] == pytest.approx(ms / n, abs=2e-3)
            assert timings[phase + "_per_second"] == pytest.approx(1000 * n / ms, rel=0.05)


def test_timings_where_asked_for(client):
    body = client.complete("1, 2, 3,", timings_per_token=True, ignore_eos=True)
    check_timings(body["timings"], body["usage"]["prompt_tokens"], 8)
    assert body["timings"]["predicted_ms"] > 0
    assert "timings" not in client.complete("1, 2, 3,")


def test_timings_of_each_chunk(client):
    chunks = client.stream("1, 2, 3,", timings_per_token=True, ignore_eos=True)
    counts = [chunk["timings"]["predicted_n"] for chunk in chunks]
    assert counts == sorted(counts) and counts[-1] == 8
    check_timings(chunks[-1]["timings"], chunks[-1]["timings"]["prompt_n"] + chunks[-1]["timings"]["cache_n"], 8)
    assert all("timings" not in chunk for chunk in client.stream("1, 2, 3,"))


def test_timings_of_several_choices_are_left_out(client):
    assert "timings" not in client.complete(["a", "b"], timings_per_token=True)
    assert "timings" not in client.complete("a", n=2, timings_per_token=True)


def test_timings_of_a_prompt_alone(client):
    timings = client.complete("1, 2, 3,", max_tokens=0, timings_per_token=True)["timings"]
    assert timings["prompt_ms"] > 0
    assert (timings["predicted_n"], timings["predicted_ms"], timings["predicted_per_second"]) == (0, 0, 0)


def test_timings_flag_says_them_in_every_answer(start):
    client = start("--timings")
    assert client.complete()["timings"]["predicted_n"] == 8
    chunks = client.stream()
    assert [("timings" in chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_time_limit_ends_with_length(client):
    limit_ms = 150 * SLOWNESS
    body = client.complete("1, 2, 3,", max_tokens=100000, ignore_eos=True, t_max_predict_ms=limit_ms,
                           timings_per_token=True)
    assert body["choices"][0]["finish_reason"] == "length"
    assert 1 <= body["usage"]["completion_tokens"] < 100000
    assert body["timings"]["predicted_ms"] < limit_ms + 2000 * SLOWNESS
    for off in (0, -1, None):
        assert client.complete(t_max_predict_ms=off)["usage"]["completion_tokens"] == 8


def test_priority_salt_and_cache_never_change_a_text(client):
    plain = client.text()
    for fields in ({"priority": -2**63}, {"priority": 2**63 - 1}, {"priority": 0}, {"cache_salt": "ä" * 500},
                   {"cache_prompt": False}, {"cache_salt": "a", "priority": 3, "cache_prompt": True}):
        assert client.text(**fields) == plain, fields
    client.refused({"prompt": "a", "priority": 1.5}, code="invalid_type", param="priority")
    client.refused({"prompt": "a", "priority": 2**64}, param=None)
    client.refused({"prompt": "a", "cache_salt": ""}, code="invalid_value", param="cache_salt")
    client.refused({"prompt": "a", "cache_salt": "x" * 1025}, code="invalid_value", param="cache_salt")


def test_tokens_as_ids_in_logprobs(client):
    body = client.complete(logprobs=2, return_tokens_as_token_ids=True, return_token_ids=True)
    choice = body["choices"][0]
    assert choice["logprobs"]["tokens"] == [f"token_id:{i}" for i in choice["token_ids"]]
    assert all(key.startswith("token_id:") for top in choice["logprobs"]["top_logprobs"] for key in top)


def test_default_max_tokens_is_the_servers(start):
    client = start("--max-tokens-default", "5")
    answer = client.post("/v1/completions", {"prompt": "1, 2, 3,", "temperature": 0, "ignore_eos": True})
    assert answer.json()["usage"]["completion_tokens"] == 5
    assert client.complete(max_tokens=7, ignore_eos=True)["usage"]["completion_tokens"] == 7
