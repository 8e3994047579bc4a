# SPDX-License-Identifier: Apache-2.0
"""SIGTERM: running requests end well, new ones are refused, the exit status is 0."""
import json
import signal
import threading
import time

import httpx
import pytest

from harness import SLOWNESS, RawConnection, parse_sse, until

LONG = {"prompt": "1, 2, 3,", "temperature": 0, "ignore_eos": True, "stream": True}


class Stream(threading.Thread):
    """Reads one stream to its end."""

    def __init__(self, client, **fields):
        super().__init__()
        self.client, self.fields = client, {**LONG, **fields}
        self.started, self.body, self.status = threading.Event(), b"", None
        self.start()

    def run(self):
        with self.client.http.stream("POST", "/v1/completions", json=self.fields) as answer:
            self.status = answer.status_code
            for data in answer.iter_raw():
                self.body += data
                self.started.set()

    def events(self):
        self.join(timeout=60 * SLOWNESS)
        assert not self.is_alive()
        return parse_sse(self.body)


def test_idle_server_ends_at_once(start):
    client = start()
    begin = time.monotonic()
    client.server.signal(signal.SIGTERM)
    assert client.server.wait_exit(10) == 0
    assert time.monotonic() - begin < 4 * SLOWNESS


def test_running_request_finishes_and_new_ones_are_refused(start):
    client = start("--drain-timeout", "400s")
    keep = httpx.Client(base_url=client.server.url, timeout=60)
    stream = Stream(client, max_tokens=300)
    assert stream.started.wait(30 * SLOWNESS)
    with RawConnection(client.server) as connection:  # open before the drain, as a kept-alive one is
        client.server.signal(signal.SIGTERM)
        until(lambda: b" 503 " in ask_ready(client.server), 5, "not ready")
        connection.send_request("/v1/completions", {"prompt": "a"})
        status, headers, body = connection.read_response()
    assert status == 503
    assert json.loads(body)["error"]["code"] == "shutting_down"
    assert headers["retry-after"] == "5" and headers["connection"].lower() == "close"
    events = stream.events()
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
    assert client.server.wait_exit() == 0
    keep.close()


def ask_ready(server):
    with RawConnection(server, timeout=5) as connection:
        connection.send(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return connection.receive()


def test_live_stays_green_while_draining(start):
    client = start("--drain-timeout", "400s")
    stream = Stream(client, max_tokens=300)
    assert stream.started.wait(30 * SLOWNESS)
    client.server.signal(signal.SIGTERM)
    until(lambda: b" 503 " in ask_ready(client.server), 5, "not ready")
    with RawConnection(client.server) as connection:
        connection.send(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.read_response()[0] == 200
    stream.events()
    assert client.server.wait_exit() == 0


def test_drain_delay_still_serves(start):
    client = start(drain_delay="3s")
    client.server.signal(signal.SIGTERM)
    until(lambda: b" 503 " in ask_ready(client.server), 2, "not ready")
    assert client.text(max_tokens=2) == " Paris."
    assert client.server.wait_exit() == 0


def test_zero_timeout_cancels_with_an_error_frame(start):
    client = start("--drain-timeout", "0s")
    stream = Stream(client, max_tokens=5000)
    assert stream.started.wait(30 * SLOWNESS)
    begin = time.monotonic()
    client.server.signal(signal.SIGTERM)
    assert client.server.wait_exit(10) == 0
    assert time.monotonic() - begin < 4 * SLOWNESS
    events = stream.events()
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["code"] == "shutting_down"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_at_once(start, second):
    client = start("--drain-timeout", "400s")
    with RawConnection(client.server) as connection:
        connection.send_request("/v1/completions", {**LONG, "max_tokens": 5000})
        connection.read_head()
        client.server.signal(signal.SIGTERM)
        time.sleep(0.5)
        begin = time.monotonic()
        client.server.signal(second)
        assert client.server.wait_exit(10) == 130
        assert time.monotonic() - begin < 2 * SLOWNESS


def test_sigint_is_as_good(start):
    client = start()
    client.server.signal(signal.SIGINT)
    assert client.server.wait_exit(10) == 0
