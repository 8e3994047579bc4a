# SPDX-License-Identifier: Apache-2.0
"""Paths, methods, models, health, version."""
import pytest

from harness import until


def test_health_routes(client):
    for path in ("/live", "/ready", "/health", "/v1/health"):
        assert client.get(path).status_code == 200
        answer = client.request("HEAD", path)
        assert answer.status_code == 200 and answer.content == b""
    assert client.get("/health").json() == {"status": "ok"}


def test_version(client):
    body = client.get("/version").json()
    assert body["version"] and "commit" in body


def test_probes_of_the_open_inference_protocol(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/smollm2-135m/ready").json() == {"name": "smollm2-135m", "ready": True}
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/smollm2-135m/ready"):
        answer = client.request("HEAD", path)
        assert answer.status_code == 200 and answer.content == b""
    answer = client.get("/v2/models/other/ready")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", ["/v2/models", "/v2/models/", "/v2/models/ready", "/v2/models//ready",
                                  "/v2/models/smollm2-135m", "/v2/models/smollm2-135m/ready/", "/v2/health"])
def test_no_other_paths_of_that_protocol(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/infill", "/slots/0", "/lora-adapters"])
def test_what_is_not_built_is_unknown(client, path):
    for method in ("GET", "POST"):
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


def test_embeddings_are_not_built(client):
    for answer in (client.post("/v1/embeddings", {"input": "a", "model": "m"}),
                   client.request("POST", "/v1/embeddings", content=b"x" * 100000)):
        assert answer.status_code == 501
        assert answer.json()["error"]["type"] == "not_supported_error"
    assert client.get("/v1/embeddings").status_code == 405


def test_props(client):
    body = client.get("/props").json()
    model = client.get("/v1/models").json()["data"][0]
    assert body["default_generation_settings"]["n_ctx"] == model["max_model_len"]
    assert body["default_generation_settings"]["params"]["max_tokens"] == 16
    assert body["total_slots"] == 256
    assert body["model_path"].endswith(".gguf") and "/" not in body["model_path"]
    assert body["model_alias"] == "smollm2-135m"
    assert "<|im_start|>" in body["chat_template"]
    assert client.get("/version").json()["version"] in body["build_info"]


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/completions/", "/v1/chat", "/v2/x", "/v1/models/",
                                  "/v1/embeddings/x", "//v1/models", "/%2e%2e/etc/passwd"])
def test_unknown_paths(client, path):
    for method in ("GET", "POST"):
        answer = client.request(method, path)
        assert answer.status_code == 404, (method, path, answer.status_code)
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("method, path, allowed", [
    ("GET", "/v1/completions", "POST"), ("PUT", "/v1/completions", "POST"), ("DELETE", "/v1/models", "GET"),
    ("POST", "/v1/models", "GET"), ("POST", "/live", "GET"), ("GET", "/tokenize", "POST"),
    ("POST", "/metrics", "GET"), ("POST", "/", "GET"), ("PATCH", "/version", "GET")])
def test_wrong_methods(client, method, path, allowed):
    answer = client.request(method, path)
    assert answer.status_code == 405
    assert allowed in answer.headers["allow"]
    assert answer.json()["error"]["code"] == "method_not_allowed"


def test_slots_are_off_by_default(client):
    answer = client.get("/slots")
    assert answer.status_code == 501
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("not_supported_error", "endpoint_disabled")


def test_slots_show_what_runs(start):
    client = start("--slots-endpoint", "--slots", "2")
    assert client.get("/slots").json() == []
    assert client.get("/slots?fail_on_no_slot=1").status_code == 200
    running = {"prompt": "A secret word", "max_tokens": 100000, "ignore_eos": True, "n": 2, "stream": True,
               "temperature": 1}
    with client.http.stream("POST", "/v1/completions", json=running) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        next(lines)
        until(lambda: len(client.get("/slots").json()) == 2, 5, "both run")
        slots = client.get("/slots").json()
        assert [slot["id"] for slot in slots] == [0, 1]
        assert {slot["choice"] for slot in slots} == {0, 1}
        assert len({slot["id_task"] for slot in slots}) == 1
        assert all(slot["n_prompt"] == slot["n_prefilled"] == 3 for slot in slots)
        assert all(slot["n_ctx"] == client.get("/props").json()["default_generation_settings"]["n_ctx"]
                   for slot in slots)
        assert "secret" not in client.get("/slots").text
        full = client.get("/slots?fail_on_no_slot=1")
        assert (full.status_code, full.json()["error"]["code"]) == (503, "no_slot_available")
        for other in ("/slots?fail_on_no_slot=0", "/slots?fail_on_no_slot", "/slots?x=1"):
            assert client.get(other).status_code == 200
    until(lambda: client.get("/slots").json() == [], 5, "the client left, the slots are free")


def test_models(client):
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list" and len(listed["data"]) == 1
    model = listed["data"][0]
    assert (model["id"], model["object"], model["owned_by"]) == ("smollm2-135m", "model", "lacuna")
    assert model["meta"]["n_vocab"] == 49152
    assert model["meta"]["n_embd"] == 576
    assert 130e6 < model["meta"]["n_params"] < 140e6
    assert model["max_model_len"] <= model["meta"]["n_ctx_train"]
    assert client.get("/v1/models/smollm2-135m").json() == model
    assert client.get("/v1/models").json() == listed, "it does not change from call to call"


def test_every_alias_is_served(start):
    client = start("--alias", "org/other-name")
    answer = client.get("/v1/models").json()["data"][0]
    for name in ("smollm2-135m", "org/other-name"):
        body = client.complete(model=name)
        assert body["model"] == answer["id"], "the canonical name, whatever was asked for"
    assert client.get("/v1/models/org%2Fother-name").status_code == 200


def test_unknown_model(client):
    error = client.refused({"model": "other", "prompt": "a"}, status=404, code="model_not_found", param="model")
    assert error["type"] == "invalid_request_error"
    for name in ("other", "other/with/slashes", "other%2Fname"):
        answer = client.get("/v1/models/" + name)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    client.refused({"model": 5, "prompt": "a"}, code="invalid_type", param="model")


def test_any_model_policy(start):
    client = start("--model-policy", "any")
    assert client.complete(model="gpt-4")["model"] == "smollm2-135m"


def test_request_ids_are_echoed_or_made(client):
    answer = client.get("/version", headers={"X-Request-Id": "my.id-1_2"})
    assert answer.headers["x-request-id"] == "my.id-1_2"
    for bad in ("a b", "x" * 129, "ü".encode(), "a\tb"):
        answer = client.get("/version", headers={"X-Request-Id": bad})
        assert len(answer.headers["x-request-id"]) == 32
    assert client.get("/version").headers["x-request-id"] != client.get("/version").headers["x-request-id"]
    answer = client.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "request_id": "from-the-body"})
    assert answer.json()["id"] == "cmpl-from-the-body"
