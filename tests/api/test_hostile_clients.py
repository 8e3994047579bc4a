# SPDX-License-Identifier: Apache-2.0
"""Slow, half-dead and greedy clients: nobody else notices."""
import json
import resource
import socket
import time

import pytest

from harness import SLOWNESS, RawConnection, choice_text, parse_sse, until

LONG = {"prompt": "1, 2, 3,", "temperature": 0, "ignore_eos": True}


def assert_others_are_served(client):
    begin = time.monotonic()
    assert client.text(max_tokens=2) == " Paris."
    assert time.monotonic() - begin < 5 * SLOWNESS


def test_half_sent_body(server, client):
    with RawConnection(server) as connection:
        connection.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                        b"Content-Length: 1000\r\n\r\n{\"prompt\":")
        assert_others_are_served(client)
    assert_others_are_served(client)


def test_dripping_headers(server, client):
    with RawConnection(server) as connection:
        for byte in b"POST /v1/completions HT":
            connection.send(bytes([byte]))
            time.sleep(0.01)
        assert_others_are_served(client)


def test_dripping_body_arrives(server):
    body = json.dumps({"prompt": "The capital of France is", "max_tokens": 2, "temperature": 0}).encode()
    with RawConnection(server) as connection:
        connection.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                        b"Content-Length: %d\r\n\r\n" % len(body))
        for byte in body:
            connection.send(bytes([byte]))
            time.sleep(0.002)
        status, _, answer = connection.read_response()
    assert status == 200 and json.loads(answer)["choices"][0]["text"] == " Paris."


def test_chunked_body_is_a_body(server):
    body = json.dumps({"prompt": "The capital of France is", "max_tokens": 2, "temperature": 0}).encode()
    with RawConnection(server) as connection:
        connection.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                        b"Transfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 7):
            piece = body[start:start + 7]
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.send(b"0\r\n\r\n")
        status, _, answer = connection.read_response()
    assert status == 200 and json.loads(answer)["choices"][0]["text"] == " Paris."


def test_many_idle_connections(server, client):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, max(soft, 4096))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(min(1000, wanted - 100))]
    try:
        assert_others_are_served(client)
        assert client.get("/ready").status_code == 200
    finally:
        for one in idle:
            one.close()
    until(lambda: client.metric("lacuna_http_connections") < 10, 10, "connections closed")


def test_idle_connections_make_room_when_files_run_out(start):
    """More idle ones than the server has files for: those that are idle longest are closed, everybody else is let in."""
    client = start("--threads", "1", launcher=("prlimit", "--nofile=400:400"))
    port = client.server.port
    idle = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(600)]
    try:
        for _ in range(3):
            with RawConnection(client.server) as connection:
                connection.send(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert connection.read_response()[0] == 200
        assert client.metric("lacuna_http_connections") <= 272
        assert idle[0].recv(1) == b"", "the first to come goes first"
    finally:
        for one in idle:
            one.close()


def test_without_a_free_descriptor_connections_wait_until_there_is_one(start):
    client = start("--threads", "1")
    server = client.server
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    with RawConnection(server) as connection:
        connection.send(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        until(lambda: "accept_failed" in server.log(), 5, "logged")
        time.sleep(0.5)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)
        assert connection.read_response()[0] == 200
    assert server.log().count("accept_failed") == 1, "one line for one shortage"
    assert_others_are_served(client)


def test_declared_oversize_is_refused_before_it_is_sent(server, client):
    with RawConnection(server) as connection:
        connection.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                        b"Content-Length: 17000000000\r\nExpect: 100-continue\r\n\r\n")
        line = connection.read_until(b"\r\n\r\n")
        assert b" 413 " in line.split(b"\r\n")[0], line
    assert_others_are_served(client)


def test_413_has_the_usual_shape(start):
    client = start("--max-body", "1K")
    answer = client.post_raw("/v1/completions", b'{"prompt":"' + b"a" * 2000 + b'"}')
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert error["code"] == "body_too_large" and "1024" in error["message"]
    assert client.post_raw("/v1/completions", b'{"prompt":"' + b"a" * 900 + b'","max_tokens":1}').status_code == 200


def test_endless_chunked_body_is_cut_off(start):
    client = start("--max-body", "64K")
    sent = 0
    with RawConnection(client.server) as connection:
        connection.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                        b"Transfer-Encoding: chunked\r\n\r\n")
        piece = b"1000\r\n" + b" " * 4096 + b"\r\n"
        try:
            while sent < 64 << 20:
                connection.send(piece)
                sent += 4096
        except (ConnectionError, TimeoutError):
            pass
    assert sent < 32 << 20, "the server read far more than its limit"
    assert_others_are_served(client)


def test_slow_reader_does_not_hold_others(server, client):
    # A tiny receive window that is never read: the server may not wait for it.
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    slow.connect(("127.0.0.1", server.port))
    body = json.dumps({**LONG, "max_tokens": 2000, "stream": True, "logprobs": 20}).encode()
    slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)
    try:
        until(lambda: client.metric("lacuna_requests_running") >= 1, 5, "running")
        for _ in range(3):
            assert_others_are_served(client)
    finally:
        slow.close()
    until(lambda: client.metric("lacuna_requests_running") == 0, 3, "cancelled")


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_cancels(server, client, stream):
    with RawConnection(server) as connection:
        connection.send_request("/v1/completions", {**LONG, "max_tokens": 5000, "stream": stream})
        until(lambda: client.metric("lacuna_requests_running") == 1, 5, "running")
    begin = time.monotonic()
    until(lambda: client.metric("lacuna_requests_running") == 0, 2, "cancelled")
    assert time.monotonic() - begin < 1 * SLOWNESS
    until(lambda: client.metric("lacuna_kv_cache_usage_ratio") == 0, 1, "pages given back")


def test_half_close_counts_as_gone(server, client):
    with RawConnection(server) as connection:
        connection.send_request("/v1/completions", {**LONG, "max_tokens": 5000, "stream": True})
        connection.read_head()
        connection.socket.shutdown(socket.SHUT_WR)
        until(lambda: client.metric("lacuna_requests_running") == 0, 3, "cancelled")


def test_leaving_during_prefill_cancels(server, client):
    with RawConnection(server) as connection:
        connection.send_request("/v1/completions", {"prompt": [100] * 7000, "max_tokens": 5})
        until(lambda: client.metric("lacuna_requests_running") == 1, 10, "running")
    until(lambda: client.metric("lacuna_requests_running") == 0, 2, "cancelled")


def test_a_queued_client_leaving_does_not_disturb_the_running_one(start):
    client = start("--slots", "1")
    expected = client.text("1, 2, 3,", max_tokens=200, ignore_eos=True)
    with RawConnection(client.server) as running, RawConnection(client.server) as queued:
        running.send_request("/v1/completions", {**LONG, "max_tokens": 200})
        until(lambda: client.metric("lacuna_requests_running") == 1, 5, "running")
        queued.send_request("/v1/completions", {**LONG, "max_tokens": 200})
        until(lambda: client.metric("lacuna_requests_waiting") == 1, 5, "waiting")
        queued.socket.close()
        until(lambda: client.metric("lacuna_requests_waiting") == 0, 2, "left the queue")
        status, _, body = running.read_response()
    assert status == 200 and json.loads(body)["choices"][0]["text"] == expected


def test_more_requests_than_slots_all_finish(start):
    import concurrent.futures
    client = start("--slots", "2")
    expected = client.text(max_tokens=12)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        texts = list(pool.map(lambda _: client.text(max_tokens=12), range(6)))
    assert texts == [expected] * 6


def test_full_queue_is_429_with_retry_after(start):
    client = start("--slots", "1", "--max-queue", "1")
    with RawConnection(client.server) as running, RawConnection(client.server) as queued:
        running.send_request("/v1/completions", {**LONG, "max_tokens": 5000})
        until(lambda: client.metric("lacuna_requests_running") == 1, 5, "running")
        queued.send_request("/v1/completions", {**LONG, "max_tokens": 5000})
        until(lambda: client.metric("lacuna_requests_waiting") == 1, 5, "waiting")
        answer = client.post("/v1/completions", {"prompt": "a"})
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "queue_full"
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert int(answer.headers["retry-after-ms"]) > 0
        assert client.get("/ready").status_code == 200, "busy is not unready"


def test_stalled_large_bodies_lock_nobody_out(start):
    client = start("--max-body", "1M")
    size = 1 << 20
    stalled = [RawConnection(client.server) for _ in range(6)]
    for one in stalled:
        one.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % size + b" " * (size - 1))
    time.sleep(1)
    assert_others_are_served(client)
    time.sleep(11)
    assert client.metric("lacuna_http_connections") <= 2, "stalled bodies are ended"
    for one in stalled:
        one.socket.close()


def test_a_reader_that_catches_up_has_missed_nothing(server, client):
    fields = {"prompt": "1, 2, 3,", "n": 4, "temperature": 1, "seed": 9, "max_tokens": 40, "ignore_eos": True,
              "logprobs": 5}
    slow = RawConnection(server)
    with slow:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.send_request("/v1/completions", {**fields, "stream": True})
        until(lambda: client.metric("lacuna_requests_running") == 1, 5, "it runs")
        until(lambda: client.metric("lacuna_requests_running") == 0, 30, "the text is made")
        status, _ = slow.read_head()
        body = b"".join(iter(slow.read_chunk, b""))
    assert status == 200 and body.endswith(b"data: [DONE]\n\n")
    chunks = [json.loads(event) for event in parse_sse(body)[:-1]]
    whole = client.complete(**fields)
    for choice in whole["choices"]:
        assert choice_text(chunks, choice["index"]) == choice["text"]
