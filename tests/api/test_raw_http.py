# SPDX-License-Identifier: Apache-2.0
"""Bytes that are no proper HTTP: an error or a close, never a crash or a hang."""
import json

import pytest

from harness import RawConnection

MALFORMED = [
    b"\r\n\r\n", b"GET\r\n\r\n", b"GET /live\r\n\r\n", b"GET /live HTTP/9.9\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 60, b"\0" * 200 + b"\r\n\r\n",
    b"GET /live HTTP/1.1\r\nHost: localhost\r\nContent-Length: abc\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /live HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET /live HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n",
    b"GET /%zz%00%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_requests(server, client, data):
    with RawConnection(server, timeout=40) as connection:
        try:
            connection.send(data)
            connection.socket.shutdown(1)
            answer = connection.receive()
        except OSError:  # it hung up before all was sent
            answer = b""
    assert answer == b"" or b" 4" in answer[:13] or b" 5" in answer[:13] or answer.startswith(b"HTTP/1.1 200"), answer
    assert not answer.startswith(b"HTTP/1.1 500"), answer
    assert client.get("/live").status_code == 200
    assert client.text(max_tokens=2) == " Paris."


def test_pipelined_requests_are_answered_in_order(server):
    with RawConnection(server) as connection:
        connection.send(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
                        b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"
                        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert [connection.read_response()[0] for _ in range(3)] == [200, 404, 200]


def test_expect_continue(server):
    body = json.dumps({"prompt": "The capital of France is", "max_tokens": 2, "temperature": 0}).encode()
    with RawConnection(server) as connection:
        connection.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                        b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert b"100" in connection.read_until(b"\r\n\r\n")
        connection.send(body)
        status, _, answer = connection.read_response()
    assert status == 200 and json.loads(answer)["choices"][0]["text"] == " Paris."


def test_wrong_type_is_refused_before_the_body(server):
    with RawConnection(server) as connection:
        connection.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
                        b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
        assert b" 415 " in connection.read_until(b"\r\n\r\n")


def test_query_strings_do_not_matter(client):
    assert client.get("/health?a=b&c=%20").status_code == 200


def test_unix_socket(start, tmp_path):
    import httpx
    path = tmp_path / "lacuna.sock"
    start("--listen", f"unix:{path}")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as local:
        assert local.get("/ready").status_code == 200


@pytest.mark.parametrize("lines", [b"Host: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                                   b"Host: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
                                   b"Content-Length: 5\r\n"],
                         ids=["length-and-coding", "two-lengths", "no-host"])
def test_ambiguous_requests_are_refused_and_closed(server, lines):
    with RawConnection(server) as connection:
        connection.send(b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\n" + lines +
                        b"\r\n0\r\n\r\n")
        assert b" 400 " in connection.read_until(b"\r\n")
        while connection.receive():
            pass
