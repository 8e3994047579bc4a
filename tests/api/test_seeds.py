# SPDX-License-Identifier: Apache-2.0
"""Random choices: repeatable by seed, independent of company."""
import concurrent.futures

# Long enough that equal texts are no accident.
WARM = {"temperature": 1.2, "max_tokens": 24}


def test_same_seed_same_text(client):
    texts = {client.text("Once upon a time", seed=7, **WARM) for _ in range(3)}
    assert len(texts) == 1


def test_other_seed_other_text(client):
    assert len({client.text("Once upon a time", seed=seed, **WARM) for seed in range(4)}) == 4


def test_no_seed_is_random(client):
    assert len({client.text("Once upon a time", **WARM) for _ in range(3)}) > 1


def test_extreme_seeds_are_accepted(client):
    for seed in (0, -1, 2**63 - 1, -(2**63)):
        assert client.text("Once", seed=seed, **WARM) == client.text("Once", seed=seed, **WARM)
    client.refused({"prompt": "a", "seed": 2**63}, code="invalid_json")  # no JSON number of ours is larger


def test_company_does_not_change_the_text(client):
    prompts = [f"{i} bottles of beer on the wall," for i in range(6)]
    alone = [client.text(p, seed=5, **WARM) for p in prompts] + [client.text(p) for p in prompts]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = [pool.submit(client.text, p, seed=5, **WARM) for p in prompts]
        together += [pool.submit(client.text, p) for p in prompts]
    assert [done.result() for done in together] == alone


def test_prompt_in_a_batch_has_its_own_greedy_text(client):
    prompts = ["1, 2, 3,", "The capital of France is", "a, b, c,"]
    batch = client.complete(prompts)["choices"]
    assert [choice["text"] for choice in batch] == [client.text(p) for p in prompts]


def test_choices_differ_and_are_ordered(client):
    choices = client.complete("Once upon a time", n=3, seed=42, **WARM)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert len({choice["text"] for choice in choices}) == 3


def test_choices_may_end_at_different_lengths(client):
    body = client.complete("Q: Say a word.\nA:", n=3, seed=42, temperature=1.2, max_tokens=60, stop=["."])
    texts = [choice["text"] for choice in body["choices"]]
    assert len({len(text) for text in texts}) > 1
    assert body["usage"]["prompt_tokens"] == len(
        client.post("/tokenize", {"content": "Q: Say a word.\nA:"}).json()["tokens"])


def test_first_choice_does_not_depend_on_n(client):
    one = client.complete("Once upon a time", n=1, seed=42, **WARM)["choices"][0]["text"]
    three = client.complete("Once upon a time", n=3, seed=42, **WARM)["choices"][0]["text"]
    assert one == three


def test_streamed_choices_are_the_same(client):
    from harness import choice_text
    whole = client.complete("Once upon a time", n=2, seed=3, **WARM)["choices"]
    chunks = client.stream("Once upon a time", n=2, seed=3, **WARM)
    assert [choice_text(chunks, i) for i in (0, 1)] == [choice["text"] for choice in whole]


def test_n_is_bounded(client):
    for n in (0, -1, 129, 9, 1.5, "2", True):
        client.refused({"prompt": "a", "n": n}, param="n")


def test_best_of(client):
    for best_of in (None, 0, 1):
        assert client.complete(best_of=best_of)
    assert client.complete(n=2, best_of=2, temperature=1)
    client.refused({"prompt": "a", "n": 2, "best_of": 1}, param="best_of")
    client.refused({"prompt": "a", "best_of": 3}, code="unsupported_parameter", param="best_of")
    client.refused({"prompt": "a", "best_of": 21}, param="best_of")
