# SPDX-License-Identifier: Apache-2.0
"""Pages shared between requests, found again, or taken away and computed again: nobody's answer changes."""
import threading

import pytest

from harness import until

STORY = "Once upon a time there was a small village by the sea, and in it lived a fisherman who "
N_TOKENS = 60
N_TOGETHER = 16


def body(i, **fields):
    """Requests of several kinds; the first half of each prompt is common."""
    return {"prompt": STORY * 3 + f"had {i} boats.", "max_tokens": N_TOKENS, "temperature": 0.8 * (i % 2), "seed": i,
            "logprobs": 2 if i % 3 == 0 else None, "ignore_eos": True, **fields}


def choices(answer):
    assert answer.status_code == 200, answer.text
    return [(c["text"], c["logprobs"], c["finish_reason"]) for c in answer.json()["choices"]]


def together(client, bodies):
    answers = [None] * len(bodies)

    def ask(i):
        answers[i] = choices(client.post("/v1/completions", bodies[i]))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.fixture(scope="module")
def alone(client):
    """Each by itself, and computed from its first token."""
    return [choices(client.post("/v1/completions", body(i, cache_prompt=False))) for i in range(N_TOGETHER)]


def test_same_bytes_after_a_prefix_hit(client, alone):
    for i in range(4):
        for _ in range(2):
            answer = client.post("/v1/completions", body(i))
            assert choices(answer) == alone[i]
        usage = answer.json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


def test_a_prompt_that_parts_later_is_found_up_to_there(client):
    first = client.complete(STORY * 4 + "liked tea.", max_tokens=1)
    second = client.complete(STORY * 4 + "hated snow.", max_tokens=1)
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert first["usage"]["prompt_tokens"] - 8 < cached < first["usage"]["prompt_tokens"]


def test_same_bytes_in_a_batch(client, alone):
    assert together(client, [body(i) for i in range(N_TOGETHER)]) == alone


def test_same_bytes_with_n_4(client):
    several = choices(client.post("/v1/completions", body(5, n=4)))
    uncached = choices(client.post("/v1/completions", body(5, n=4, cache_prompt=False)))
    single = choices(client.post("/v1/completions", body(5, cache_prompt=False)))
    assert several == uncached
    assert several[0] == single[0]
    assert len({text for text, _, _ in several}) > 1, "choices differ"


@pytest.mark.parametrize("kv", [("f16", "25M"), ("q8", "16M")])
def test_same_bytes_when_pages_run_out(start, kv):
    """Each wants five pages or so, and a page more every 64 tokens; there are 17 for all, or 20 of half the size, of
    which each takes two for the page that is open."""
    client = start("--ctx", "512", "--kv-type", kv[0], "--kv-bytes", kv[1], "--max-queue-wait", "600s")
    bodies = [body(i, max_tokens=4 * N_TOKENS) for i in range(N_TOGETHER // 2)]
    alone = [choices(client.post("/v1/completions", {**one, "cache_prompt": False})) for one in bodies]
    assert client.metric("lacuna_num_preemptions_total") == 0
    # On a busy machine they may come so far apart that pages suffice.
    for _ in range(5):
        assert together(client, bodies) == alone
        if client.metric("lacuna_num_preemptions_total") > 0:
            break
    else:
        pytest.fail("pages did not run out")
    until(lambda: client.metric("lacuna_requests_running") == 0, 5, "all ended")
    assert client.metric("lacuna_kv_cache_usage_ratio") == 0


def test_same_bytes_in_pages_of_8_bits(start):
    """Hits are of whole pages; whatever is in them, a batch, n and hits change nothing."""
    client = start("--ctx", "1024", "--kv-type", "q8")
    bodies = [body(i, n=2 if i == 5 else 1) for i in range(N_TOGETHER // 2)]
    alone = [choices(client.post("/v1/completions", {**one, "cache_prompt": False})) for one in bodies]
    for _ in range(2):
        assert together(client, bodies) == alone
    usage = client.post("/v1/completions", bodies[0]).json()["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached == (usage["prompt_tokens"] - 1) // 64 * 64 > 0


def test_salts_do_not_share(client):
    prompt = STORY * 2 + "kept a secret."
    for salt, cached in (("a", False), ("a", True), ("b", False)):
        usage = client.complete(prompt, max_tokens=1, cache_salt=salt)["usage"]
        assert (usage["prompt_tokens_details"]["cached_tokens"] > 0) == cached


def test_no_cache_neither_finds_nor_leaves(client):
    prompt = STORY * 2 + "went far away."
    for _ in range(2):
        usage = client.complete(prompt, max_tokens=1, cache_prompt=False)["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == 0


def test_echoed_log_probabilities_are_all_there_after_a_hit(client):
    first, second = (client.complete(STORY, max_tokens=1, echo=True, logprobs=1) for _ in range(2))
    assert first["choices"] == second["choices"]
    values = second["choices"][0]["logprobs"]["token_logprobs"]
    assert values[0] is None and all(value is not None for value in values[1:])


def test_a_request_that_can_never_fit_is_refused_at_once_with_the_numbers(start):
    client = start("--ctx", "512", "--kv-bytes", "25M")
    error = client.refused({"prompt": STORY * 40, "max_tokens": 4}, code="context_length_exceeded")
    assert error["n_ctx"] == 512 and error["n_prompt_tokens"] > 512


def test_same_bytes_when_tokens_are_guessed(start, client):
    """Prompts that invite to copy from them; greedy and not, with stop strings, logprobs and choices."""
    lists = "apples, pears, plums, cherries, figs, dates and nuts. " * 3
    bodies = [
        {"prompt": lists + "He bought apples, pears,", "max_tokens": 2 * N_TOKENS, "temperature": 0.5 * (i % 2), "seed": i,
         "logprobs": 2 if i == 2 else None, "stop": ["figs, dates and nuts. apples"] if i == 3 else None, "n": 1 + i // 4,
         "frequency_penalty": 0.2 * (i == 4), "ignore_eos": True} for i in range(6)]
    off = start("--speculate", "off")
    plain = [choices(off.post("/v1/completions", body)) for body in bodies]
    assert off.metric("lacuna_draft_tokens_total") == 0
    drafted, accepted = (client.metric(f"lacuna_{kind}_tokens_total") for kind in ("draft", "accepted_draft"))
    assert [choices(client.post("/v1/completions", body)) for body in bodies] == plain
    assert together(client, bodies) == plain
    assert client.metric("lacuna_draft_tokens_total") > drafted
    assert client.metric("lacuna_accepted_draft_tokens_total") > accepted
