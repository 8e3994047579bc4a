# SPDX-License-Identifier: Apache-2.0
"""Keys, CORS and Host: closed by default."""
import subprocess

import pytest

from harness import binary, clean_environment, free_port, model_path

BODY = {"prompt": "a", "max_tokens": 1}
# Method, path, body of everything that needs a key.
GUARDED = [("POST", "/v1/completions", BODY), ("POST", "/completions", BODY), ("GET", "/v1/models", None),
           ("GET", "/v1/models/smollm2-135m", None), ("POST", "/tokenize", {"content": "a"}),
           ("POST", "/detokenize", {"tokens": [1]}), ("GET", "/metrics", None)]
OPEN = ["/live", "/ready", "/health", "/v1/health", "/version"]


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# who: key\nalice:sk-alice\nbob:sk-bob:1\n")
    return str(path)


@pytest.fixture
def keyed(start, key_file):
    return start("--api-key-file", key_file)


def test_without_keys_any_key_is_fine(client):
    answer = client.post("/v1/completions", BODY, headers={"Authorization": "Bearer dummy"})
    assert answer.status_code == 200


def test_everything_but_health_wants_a_key(keyed):
    for method, path, body in GUARDED:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-Api-Key": "wrong"},
                        {"Authorization": "Basic c2s6c2s="}, {"Authorization": "Bearer"},
                        {"Authorization": "Bearer sk-alic"}, {"Authorization": "Bearer sk-alicee"}):
            answer = keyed.request(method, path, json=body, headers=headers)
            assert answer.status_code == 401, (path, headers)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    for path in OPEN:
        assert keyed.get(path).status_code == 200, path


def test_both_headers_carry_a_key(keyed):
    for method, path, body in GUARDED:
        for headers in ({"Authorization": "Bearer sk-alice"}, {"X-Api-Key": "sk-bob"},
                        {"Authorization": "bearer sk-alice"}):
            assert keyed.request(method, path, json=body, headers=headers).status_code == 200, path


def test_keys_are_not_in_the_log(keyed):
    keyed.post("/v1/completions", BODY, headers={"Authorization": "Bearer sk-alice"})
    keyed.post("/v1/completions", BODY, headers={"Authorization": "Bearer sk-stolen"})
    log = keyed.server.log()
    assert "sk-alice" not in log and "sk-stolen" not in log


def test_public_models_opens_the_list(start, key_file):
    client = start("--api-key-file", key_file, "--public-models")
    assert client.get("/v1/models").status_code == 200
    assert client.post("/v1/completions", BODY).status_code == 401


def test_no_cors_headers_by_default(client):
    answer = client.post("/v1/completions", BODY, headers={"Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert client.http.request("OPTIONS", "/v1/completions").status_code == 405


def test_cors_answers_the_listed_origin_only(start):
    http = start("--cors-origin", "https://good.example").http
    preflight = {"Access-Control-Request-Method": "POST",
                 "Access-Control-Request-Headers": "authorization, x-stainless-lang"}
    answer = http.request("OPTIONS", "/v1/completions", headers={"Origin": "https://good.example", **preflight})
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "https://good.example"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "x-stainless-lang" in answer.headers["access-control-allow-headers"]
    assert answer.headers["access-control-max-age"] == "86400"
    answer = http.post("/v1/completions", json=BODY, headers={"Origin": "https://good.example"})
    assert answer.headers["access-control-allow-origin"] == "https://good.example"
    assert "Origin" in answer.headers["vary"]
    answer = http.post("/v1/completions", json=BODY, headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_foreign_host_is_refused(client, start):
    assert client.http.get("/v1/models", headers={"Host": "evil.example"}).status_code in (400, 403, 421)
    assert client.http.get("/v1/models", headers={"Host": f"localhost:{client.server.port}"}).status_code == 200
    named = start("--allowed-host", "lacuna.example")
    assert named.http.get("/v1/models", headers={"Host": "lacuna.example"}).status_code == 200


def run_serve(*options):
    done = subprocess.run([binary(), "serve", "-m", model_path(), *options], capture_output=True, text=True,
                          timeout=60, env=clean_environment(), stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout + done.stderr


def test_open_address_needs_keys():
    status, output = run_serve("--listen", f"0.0.0.0:{free_port()}")
    assert status not in (0, -6, -11)
    assert "key" in output


@pytest.mark.parametrize("line", ["nokey\n", ":sk\n", "name:\n", "a:sk:x\n", "a:sk-1\na:sk-2\n"])
def test_bad_key_files_are_refused(tmp_path, line):
    path = tmp_path / "keys"
    path.write_text(line)
    status, output = run_serve("--listen", f"127.0.0.1:{free_port()}", "--api-key-file", str(path))
    assert status not in (0, -6, -11)
    assert "sk-" not in output, "a key file's error must not show keys"


@pytest.mark.parametrize("stream", [False, True])
def test_a_seat_is_free_once_the_answer_was_read(keyed, stream):
    import httpx
    pool = [httpx.Client(base_url=keyed.server.url, headers={"X-Api-Key": "sk-bob"}) for _ in range(4)]
    for i in range(40):
        answer = pool[i % 4].post("/v1/completions", json={**BODY, "stream": stream})
        assert answer.status_code == 200, f"request {i}: {answer.text}"
        assert answer.headers["x-ratelimit-reset-requests"] in ("0s", "1s")
    for one in pool:
        one.close()
