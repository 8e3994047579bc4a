# SPDX-License-Identifier: Apache-2.0
"""SIGHUP: keys, origins, limits and the log level change under running requests, which notice nothing."""
import json
import signal
import threading

import httpx
import pytest

from harness import SLOWNESS, RawConnection, parse_sse, until

BODY = {"prompt": "a", "max_tokens": 1}
LONG = {"prompt": "1, 2, 3,", "temperature": 0, "ignore_eos": True, "stream": True,
        "max_tokens": 400}


class Configured:
    """A server with a configuration file and a key file that the test writes."""

    def __init__(self, start, folder, config="", keys=None):
        self.config, self.keys = folder / "lacuna.conf", folder / "keys"
        self.write(config, keys)
        self.client = start("--config", str(self.config), headers={"X-Api-Key": "sk-alice"})
        self.server, self.http = self.client.server, self.client.http

    def write(self, config=None, keys=None):
        if config is not None:
            self.config.write_text(config)
        if keys is not None:
            self.keys.write_text(keys)

    def key_line(self):
        return f"api-key-file = {self.keys}\n"

    def count(self, event):
        return sum(f'"event":"{event}"' in line for line in self.server.log().splitlines())

    def hang_up(self, expect):
        before = self.count(expect)
        self.server.signal(signal.SIGHUP)
        until(lambda: self.count(expect) == before + 1, 10, expect)

    def reload(self, config=None, keys=None, expect="reloaded"):
        self.write(config, keys)
        self.hang_up(expect)

    def event(self, name):
        lines = [json.loads(line) for line in self.server.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name][-1]

    def reloaded_at(self):
        return self.client.metric("lacuna_last_reload_success_timestamp_seconds")


@pytest.fixture
def configured(start, tmp_path):
    return lambda config="", keys=None: Configured(start, tmp_path, config, keys)


@pytest.fixture
def keyed(configured, tmp_path):
    return configured(f"api-key-file = {tmp_path}/keys\n", "alice:sk-alice\nbob:sk-bob:1\n")


def status(one, key, **fields):
    return one.http.post("/v1/completions", json={**BODY, **fields}, headers={"X-Api-Key": key}).status_code


def test_keys_come_and_go(keyed):
    assert (status(keyed, "sk-alice"), status(keyed, "sk-carol")) == (200, 401)
    keyed.reload(keys="carol:sk-carol\nbob:sk-bob-2\n")
    assert [status(keyed, key) for key in ("sk-alice", "sk-carol", "sk-bob", "sk-bob-2")] == [401, 200, 401, 200]


def test_a_request_whose_key_is_gone_ends_well(keyed):
    with keyed.http.stream("POST", "/v1/completions", json=LONG) as answer:
        body = iter(answer.iter_raw())
        first = next(body)
        keyed.reload(keys="carol:sk-carol\n")
        events = parse_sse(first + b"".join(body))
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"


def test_seats_are_kept_across_a_reload(keyed):
    with keyed.http.stream("POST", "/v1/completions", json=LONG, headers={"X-Api-Key": "sk-bob"}) as answer:
        body = answer.iter_raw()  # once it is let go of, the request is closed
        next(body)
        keyed.reload(keys="alice:sk-alice\nbob:sk-bob-2:1\n")
        assert status(keyed, "sk-bob-2") == 429, "bob has one seat, whatever his key is called"
    until(lambda: status(keyed, "sk-bob-2") == 200, 5, "the seat is free again")


def test_keys_can_be_turned_on(configured):
    one = configured()
    assert status(one, "x") == 200
    one.reload(config=one.key_line(), keys="alice:sk-alice\n")
    assert (status(one, "x"), status(one, "sk-alice")) == (401, 200)


@pytest.mark.parametrize("keys, where", [("alice:sk-alice\nbob\n", "keys:2:"), ("", "no API key"), (None, "keys")])
def test_a_bad_key_file_changes_nothing(keyed, keys, where):
    before = keyed.reloaded_at()
    if keys is None:
        keyed.keys.unlink()
    keyed.reload(keys=keys, expect="reload_failed")
    assert where in keyed.event("reload_failed")["message"]
    assert keyed.event("reload_failed")["level"] == "error"
    assert "sk-" not in keyed.event("reload_failed")["message"]
    assert [status(keyed, key) for key in ("sk-alice", "sk-bob", "sk-carol")] == [200, 200, 401]
    assert keyed.reloaded_at() == before


@pytest.mark.parametrize("config, where", [("max-n = 2\nmax-body = x\n", ":2: max-body"), ("nonsense = 1\n", ":1:"),
                                           ("max-n = 2\nmax-n = 3\n", ":2:"), ("max-n\n", ":1:")])
def test_a_bad_file_changes_nothing(configured, config, where):
    one = configured("max-n = 1\n")
    before = one.reloaded_at()
    one.reload(config=config, expect="reload_failed")
    assert f"lacuna.conf{where}" in one.event("reload_failed")["message"]
    assert status(one, "x", n=2) == 400
    assert one.reloaded_at() == before


def test_limits_change(configured):
    one = configured("max-n = 1\nmax-body = 2K\nmax-prompts = 1\nmax-logprobs = 1\n")
    asks = [{"n": 2}, {"prompt": "a " * 1500}, {"prompt": ["a", "b"]}, {"logprobs": 2}]
    assert [status(one, "x", **ask) for ask in asks] == [400, 413, 400, 400]
    before = one.reloaded_at()
    one.reload(config="max-n = 2\nmax-body = 1M\nmax-prompts = 2\nmax-logprobs = 2\n")
    assert [status(one, "x", **ask) for ask in asks] == [200] * 4
    assert one.reloaded_at() >= before > 1.7e9


def test_the_queue_limit_changes(configured):
    one = configured("slots = 1\nmax-queue = 1\n")

    def waiting():
        return one.client.metric("lacuna_requests_waiting")

    with RawConnection(one.server) as running, RawConnection(one.server) as second, RawConnection(one.server) as third:
        running.send_request("/v1/completions", {**LONG, "max_tokens": 4000})
        running.read_until(b"data: ")  # the head comes while it still waits, and second would then be refused
        second.send_request("/v1/completions", LONG)
        until(lambda: waiting() == 1, 5, "one waits")
        assert status(one, "x") == 429
        one.reload(config="slots = 1\nmax-queue = 3\n")
        third.send_request("/v1/completions", LONG)
        until(lambda: waiting() == 2, 5, "two wait")


def test_origins_and_hosts_change(configured):
    one = configured("cors-origin = https://a.example\nallowed-host = a.lan\n")
    one.reload(config="cors-origin = https://b.example\nallowed-host = b.lan\n")

    def allowed(origin):
        answer = one.http.get("/v1/models", headers={"Origin": f"https://{origin}.example"})
        return answer.headers.get("access-control-allow-origin")

    assert (allowed("a"), allowed("b")) == (None, "https://b.example")
    assert [one.http.get("/v1/models", headers={"Host": f"{name}.lan"}).status_code for name in "ab"] == [403, 200]


def test_the_log_level_changes(configured):
    one = configured("log-level = info\n")
    one.http.get("/v1/models")
    until(lambda: one.count("request") == 1, 5, "the line")
    one.write(config="log-level = error\n")
    before = one.reloaded_at()
    one.server.signal(signal.SIGHUP)
    until(lambda: one.reloaded_at() > before, 10, "the reload")
    lines = one.count("request")
    one.http.get("/v1/models")
    one.reload(config="log-level = info\n")
    assert one.count("request") == lines


def test_what_cannot_change_is_named(configured):
    one = configured("ctx = 512\n")
    one.reload(config="ctx = 1024\nthreads = 1\nmax-n = 2\n")
    assert one.event("reload_needs_restart")["options"] == "ctx, threads"
    assert status(one, "x", n=2) == 200
    assert one.http.get("/v1/models").json()["data"][0]["max_model_len"] == 512


def test_requests_under_reloads_are_undisturbed(keyed):
    """Streams and answers run while everything that can change does, fifty times."""
    wanted = keyed.client.text(max_tokens=24)
    stop, wrong, n_good = threading.Event(), [], [0] * 4

    def ask(i):
        with httpx.Client(base_url=keyed.server.url, headers={"X-Api-Key": "sk-alice"}, timeout=60 * SLOWNESS) as http:
            while not stop.is_set():
                body = {"prompt": "The capital of France is", "max_tokens": 24, "temperature": 0, "stream": i % 2 == 1}
                answer = http.post("/v1/completions", json=body)
                text = "" if answer.status_code != 200 else \
                    "".join(json.loads(e)["choices"][0]["text"] for e in parse_sse(answer.content)[:-1]) if i % 2 else \
                    answer.json()["choices"][0]["text"]
                if text != wanted:
                    wrong.append((answer.status_code, text or answer.text))
                n_good[i] += 1

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(n_good))]
    for thread in threads:
        thread.start()
    loads = keyed.count("model_loaded")
    for i in range(50):
        keyed.write(config=keyed.key_line() + f"max-n = {1 + i % 8}\nmax-queue = {64 + i}\n"
                    f"cors-origin = https://{i}.example\n", keys=f"alice:sk-alice\nuser{i}:sk-{i}:3\n")
        keyed.hang_up("reloaded")
    until(lambda: min(n_good) > 2, 60, "requests of every client")
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]
    assert keyed.count("model_loaded") == loads


def test_what_was_computed_is_still_found_after_a_reload(configured):
    one = configured("max-n = 1\n")
    prompt = "The story of the old lighthouse keeper and the sea. " * 30

    def cached():
        return one.client.complete(prompt)["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert cached() == 0
    warm = cached()
    assert warm > 100
    one.reload(config="max-n = 2\n")
    assert cached() == warm
