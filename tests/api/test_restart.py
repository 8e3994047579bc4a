# SPDX-License-Identifier: Apache-2.0
"""A server under load that ends, politely or not, and comes back at its address."""
import concurrent.futures
import json
import signal

import httpx
import pytest

from harness import SLOWNESS, Client, Server, choice_text, finish_reasons, parse_sse, until

N_CLIENTS = 16
N_TOKENS = 32


def make_request(i):
    """Half of them greedy, a quarter with two choices; different lengths, so that they do not end together."""
    return {"prompt": f"{i}, {i + 1}, {i + 2},", "max_tokens": N_TOKENS + i % 4, "ignore_eos": True, "seed": i,
            "temperature": i % 2, "n": 1 + (i % 4 == 3)}


def texts_of(answer):
    return {c["index"]: (c["text"], c["finish_reason"]) for c in answer["choices"]}


def texts_of_stream(body):
    *events, done = parse_sse(body)
    assert done == "[DONE]"
    chunks = [json.loads(event) for event in events]
    indices = {c["index"] for chunk in chunks for c in chunk["choices"]}
    return {index: (choice_text(chunks, index), finish_reasons(chunks, index)[0]) for index in indices}


def ask(client, i):
    """Half of them stream."""
    is_stream = i % 4 >= 2
    answer = client.post("/v1/completions", {**make_request(i), "stream": is_stream})
    assert answer.status_code == 200, answer.text
    return texts_of_stream(answer.content) if is_stream else texts_of(answer.json())


def ask_alone(client, i):
    return texts_of(client.complete(**make_request(i)))


def ask_all(pool, client):
    """All at once; returns when each of them runs."""
    asked = [pool.submit(ask, client, i) for i in range(N_CLIENTS)]
    until(lambda: client.metric("lacuna_requests_running") == N_CLIENTS, 30, "all run")
    return asked


@pytest.fixture(scope="module")
def expected(client):
    return [ask_alone(client, i) for i in range(N_CLIENTS)]


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(N_CLIENTS) as threads:
        yield threads


def assert_turned_away(server):
    """No new connection, or one that is told to go."""
    try:
        answer = httpx.post(server.url + "/v1/completions", json={"prompt": "a"}, timeout=30 * SLOWNESS)
    except httpx.TransportError:
        return
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["code"] == "shutting_down"


def test_sigterm_under_load_ends_every_answer_well(start, expected, pool):
    client = start("--drain-timeout", "400s")
    asked = ask_all(pool, client)
    client.server.signal(signal.SIGTERM)
    until(lambda: "draining" in client.server.log(), 5, "draining")
    assert_turned_away(client.server)
    assert [one.result(60 * SLOWNESS) for one in asked] == expected
    assert client.server.wait_exit() == 0
    assert_turned_away(client.server)


def kill_under_load(server, pool, contract):
    """SIGKILL; the connections of all 16 end."""
    try:
        asked = ask_all(pool, Client(server, contract))
    finally:
        server.signal(signal.SIGKILL)
    assert server.wait_exit() == -signal.SIGKILL
    for one in asked:
        assert isinstance(one.exception(60 * SLOWNESS), httpx.TransportError)
    server.check_log()


def test_kill_under_load_leaves_nothing_behind(expected, pool, contract, tmp_path):
    """But for the path of a Unix socket, and that is no obstacle."""
    options = ("--listen", f"unix:{tmp_path}/socket")
    place = {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    killed = Server(*options, environment=place)
    kill_under_load(killed, pool, contract)
    assert [path.name for path in tmp_path.iterdir()] == ["socket"]
    with Server(*options, environment=place, port=killed.port) as again:
        assert [one.result(60 * SLOWNESS) for one in ask_all(pool, Client(again, contract))] == expected
        local = httpx.HTTPTransport(uds=f"{tmp_path}/socket")
        with httpx.Client(transport=local, base_url="http://localhost") as client:
            assert client.get("/ready").status_code == 200
    assert not list(tmp_path.iterdir())
