# SPDX-License-Identifier: Apache-2.0
"""Requests that may do without some of the model's neurons: as they ask, the same alone and in company, and it is said."""
import concurrent.futures
import subprocess

import numpy as np
import pytest

import gguf_edit
from harness import ROOT, SLOWNESS, binary, clean_environment

FIXTURE = ROOT / "tests/golden/arch/llama.gguf"
TEXT = ROOT / "openapi.yaml"
QUALITIES = [None, "exact", "safe", "balanced", "fast", 0.5, 1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A quantised model, which can be laid out for neurons that are zero, with its calibration beside it."""
    path = gguf_edit.with_q8_0(FIXTURE, tmp_path_factory.mktemp("calibrated") / "model.gguf")
    subprocess.run([binary(), "calibrate", "-m", path, "-f", TEXT], check=True, capture_output=True,
                   env=clean_environment(), timeout=300 * SLOWNESS)
    return path


def body(i, quality=None):
    one = {"prompt": [5 + i % 3, *range(6, 6 + 23 * (i % 4))], "max_tokens": 60, "temperature": 0.8, "seed": i,
           "ignore_eos": True, "return_token_ids": True}
    return one if quality is None else {**one, "lacuna": {"quality": quality}}


def complete(client, i, quality=None):
    answer = client.post("/v1/completions", body(i, quality))
    assert answer.status_code == 200, answer.text
    return answer.json()


def token_ids(answer):
    return answer["choices"][0]["token_ids"]


def test_a_request_gets_the_quality_that_it_asks_for_and_it_is_said(start, model):
    client = start(model=str(model))
    points = {point["name"]: point for point in client.get("/props").json()["operating_points"]}
    assert list(points) == ["exact", "safe", "balanced", "fast"]
    exact = [complete(client, i) for i in range(6)]
    assert all("lacuna" not in answer["usage"] for answer in exact)
    for same in ("exact", 1):
        assert [token_ids(complete(client, i, same)) for i in range(6)] == [token_ids(answer) for answer in exact]
    fast = [complete(client, i, "fast") for i in range(6)]
    assert [token_ids(answer) for answer in fast] != [token_ids(answer) for answer in exact]
    for answer in fast:
        said, point = answer["usage"]["lacuna"]["quality"], points["fast"]
        assert said["point"] == "fast" and 0 < said["down"] < 1 and 0 < said["up"] < 1
        assert said["expected"] == {"kl": point["kl"], "same_top": point["same_top"]}
    cheapest = complete(client, 1, 0)
    assert cheapest["usage"]["lacuna"]["quality"]["point"] == "fast" and token_ids(cheapest) == token_ids(fast[1])
    assert client.metric("lacuna_neurons_down_total") < client.metric("lacuna_neurons_total")


def test_answers_do_not_depend_on_company_or_on_what_is_stored(start, model):
    """Requests of all qualities and overlapping prompts at once, twice, with few pages: some are paused."""
    jobs = [(i, quality) for i in range(6) for quality in QUALITIES]
    alone = start(model=str(model))
    expected = [token_ids(complete(alone, i, quality)) for i, quality in jobs]
    for options in ((), ("--kv-bytes", "1M", "--ctx", "256"), ("--skip-zeros", "always"), ("--skip-zeros", "off"), ("--threads", "3")):
        client = start(*options, model=str(model))
        for _ in range(2):
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                found = list(pool.map(lambda job: token_ids(complete(client, *job)), jobs))
            assert found == expected, options


def test_zeros_are_skipped_or_multiplied_whichever_was_faster(start, model, tmp_path):
    relu = gguf_edit.with_q8_0(ROOT / "tests/golden/arch/arcee.gguf", tmp_path / "relu.gguf")
    for path, quality, sites in (model, "fast", {"up", "down"}), (relu, None, {"down"}), (model, None, set()):
        client = start(model=str(path))
        for i in range(3):
            complete(client, i, quality)
        products = {(labels["site"], labels["zeros"]): n for (name, labels), n in
                    (((name, dict(labels)), n) for (name, labels), n in client.metrics().items())
                    if name == "lacuna_sparsity_products_total"}
        assert {site for (site, _), n in products.items() if n > 0} == sites, "each way is tried where both are open"
        assert all((products[site, "skipped"] > 0) == (products[site, "multiplied"] > 0) for site in ("up", "down"))


def test_the_servers_quality_is_that_of_requests_that_do_not_say_it(start, model):
    exact = start(model=str(model))
    fast = start("--quality", "fast", model=str(model))
    assert complete(fast, 1)["usage"]["lacuna"]["quality"]["point"] == "fast"
    assert token_ids(complete(fast, 1)) == token_ids(complete(exact, 1, "fast"))
    assert token_ids(complete(fast, 1, "exact")) == token_ids(complete(exact, 1))
    assert "lacuna" not in complete(fast, 1, "exact")["usage"]
    own = start("--quality", "up=0.5+down=0.3", model=str(model))
    said = complete(own, 1)["usage"]["lacuna"]["quality"]
    assert said["point"] == "up=0.5+down=0.3" and "expected" not in said, "nobody measured it"
    assert abs(said["up"] - 0.5) < 0.2 and abs(said["down"] - 0.3) < 0.2
    prints = {client.get("/v1/models") and complete(client, 1)["system_fingerprint"] for client in (exact, fast, own)}
    assert len(prints) == 3


def test_streams_and_several_choices_say_it_too(start, model):
    client = start("--quality", "fast", model=str(model))
    chunks = client.stream([5, 6, 7], max_tokens=40, ignore_eos=True, stream_options={"include_usage": True})
    assert chunks[-1]["usage"]["lacuna"]["quality"]["point"] == "fast"
    whole = client.complete([5, 6, 7], max_tokens=40, n=3, temperature=1, seed=4, ignore_eos=True)
    assert 0 < whole["usage"]["lacuna"]["quality"]["down"] < 1
    again = client.complete([5, 6, 7], max_tokens=40, n=3, temperature=1, seed=4, ignore_eos=True, cache_prompt=False)
    assert [choice["text"] for choice in again["choices"]] == [choice["text"] for choice in whole["choices"]]


@pytest.mark.parametrize("lacuna, param", [
    ({"quality": "fastest"}, "lacuna.quality"), ({"quality": ""}, "lacuna.quality"),
    ({"quality": 1.5}, "lacuna.quality"), ({"quality": -1}, "lacuna.quality"), ({"quality": []}, "lacuna.quality"),
    ({"quality": "up=0.5"}, "lacuna.quality"), ("fast", "lacuna"),
])
def test_what_is_no_quality_is_refused_by_name(start, model, lacuna, param):
    client = start(model=str(model))
    answer = client.post("/v1/completions", {**body(1), "lacuna": lacuna})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_without_a_calibration_all_is_exact(start):
    client = start(model=str(FIXTURE))
    assert token_ids(complete(client, 1, "exact")) == token_ids(complete(client, 1))
    assert token_ids(complete(client, 1, 0.5)) == token_ids(complete(client, 1)), "the exact model keeps any share"
    answer = client.post("/v1/completions", body(1, "fast"))
    assert answer.status_code == 400 and "'exact'" in answer.json()["error"]["message"]


def test_a_calibration_of_another_model_ends_the_start(model):
    other = ROOT / "tests/golden/arch/gemma3.gguf"
    done = subprocess.run([binary(), "serve", "-m", other, "--sidecar", f"{model}.lacuna", "--listen", "127.0.0.1:0"],
                          capture_output=True, env=clean_environment(), timeout=60 * SLOWNESS)
    assert done.returncode != 0 and b"another model" in done.stdout + done.stderr


def test_pages_that_are_chosen_are_said_and_change_nothing_but_that(start):
    """Long answers, so that there are pages to choose from; some of them at once, with too few pages for all."""
    model = str(ROOT / "tests/golden/arch/smollm3.gguf")

    def long_body(i, **fields):
        return {"prompt": [5 + i, 6, 7], "max_tokens": 420, "temperature": 0.8, "seed": i, "ignore_eos": True,
                "logprobs": 1, **fields}

    def answer(client, i, **fields):
        got = client.post("/v1/completions", long_body(i, **fields))
        assert got.status_code == 200, got.text
        return got.json()

    def numbers(got):
        """This model says the same token again and again, but not with the same certainty."""
        return got["choices"][0]["logprobs"]["token_logprobs"]

    options = ("--choose-pages", "--quality", "tokens=256", "--ctx", "512")
    client = start(*options, model=model)
    expected = [answer(client, i) for i in range(4)]
    said = expected[0]["usage"]["lacuna"]["quality"]
    assert said["point"] == "tokens=256" and 0.5 < said["pages"] < 1 and said["up"] == 1
    assert client.get("/props").json()["operating_points"][1] == {"name": "tokens=256"}, "nobody measured it"
    exact = answer(client, 0, lacuna={"quality": "exact"})
    assert numbers(exact)[:250] == numbers(expected[0])[:250] and "lacuna" not in exact["usage"]
    assert numbers(exact) != numbers(expected[0])
    for more in ((), ("--kv-bytes", "1M"), ("--threads", "3"), ("--max-batch-rows", "300")):
        other = start(*options, *more, model=model)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i: numbers(answer(other, i % 4)), range(8)))
        assert found == [numbers(expected[i % 4]) for i in range(8)], more


def promise_less_error(sidecar, target):
    """A copy whose points promise an eighth of what their feed-forwards are off by."""
    file, data = gguf_edit.File(sidecar), bytearray(sidecar.read_bytes())
    tensor = next(t for t in file.tensors if t.name == "ffn.error")
    at = len(data) - len(file.section) + tensor.offset
    n = tensor.dimensions[0] * tensor.dimensions[1]
    errors = np.frombuffer(data, np.float32, n, at) / 8
    data[at:at + 4 * n] = errors.tobytes()
    target.write_bytes(data)


def test_a_point_that_loses_more_than_it_says_is_withdrawn_for_later_requests(start, model, tmp_path):
    sidecar = tmp_path / "optimistic.lacuna"
    promise_less_error(model.with_name(model.name + ".lacuna"), sidecar)
    alone = token_ids(complete(start("--audit-steps", "0", model=str(model)), 1, "fast"))
    client = start("--sidecar", str(sidecar), "--audit-steps", "1", model=str(model))
    first = complete(client, 1, "fast")
    assert first["usage"]["lacuna"]["quality"]["point"] == "fast"
    assert token_ids(first) == alone, "audits change nothing, and what runs keeps its point"
    later = [complete(client, i, "fast") for i in range(4)]
    points = [answer["usage"].get("lacuna", {"quality": {"point": "exact"}})["quality"]["point"] for answer in later]
    assert points[-1] != "fast", points
    assert client.metric("lacuna_sparsity_points_withdrawn") >= 1
    assert client.metric("lacuna_sparsity_audits_total") > 0
    assert '"event":"operating_point_withdrawn"' in client.server.log().replace(" ", "")
