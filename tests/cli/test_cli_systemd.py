# SPDX-License-Identifier: Apache-2.0
"""lacuna serve under systemd: what it says of its life, the sockets and the keys that it is given."""
import signal
import socket
import time

import httpx
import pytest

from commands import lacuna
from harness import SLOWNESS, RawConnection, Server, Systemd, free_port, gemma_path, model_path, until

# What systemd does before it starts a service: the sockets are descriptors from 3 on, LISTEN_PID is its own.
WITH_SOCKETS = """
n=0; for fd in $FDS; do eval "exec $((n + 3))<&$fd"; n=$((n + 1)); done
LISTEN_FDS=$n LISTEN_PID=$$ exec "$@"
"""


@pytest.fixture
def systemd(tmp_path):
    return Systemd(tmp_path)


def listening(kind=socket.AF_INET, address=("127.0.0.1", 0)):
    one = socket.socket(kind, socket.SOCK_STREAM)
    one.bind(address)
    one.listen(128)
    return one


def serve_on(sockets, *options, names=None, **how):
    port = sockets[0].getsockname()[1] if sockets[0].family == socket.AF_INET else free_port()
    environment = {"FDS": " ".join(str(one.fileno()) for one in sockets)}
    if names:
        environment["LISTEN_FDNAMES"] = names
    return Server(*options, port=port, launcher=["bash", "-c", WITH_SOCKETS, "bash"], environment=environment,
                  pass_fds=[one.fileno() for one in sockets], **how)


def test_states_come_in_their_order(systemd):
    with Server("--no-mmap", model=gemma_path(), environment={"NOTIFY_SOCKET": systemd.path}):
        until(lambda: systemd.times_of("READY=1"), 5, "READY=1")
    until(lambda: systemd.times_of("STOPPING=1"), 5, "STOPPING=1")
    lines = systemd.lines()
    wanted = ["STATUS=loading the model", "READY=1", "STATUS=serving", "STOPPING=1", "STATUS=draining"]
    assert [lines.index(line) for line in wanted] == sorted(lines.index(line) for line in wanted), lines
    assert lines.count("READY=1") == 1
    assert not [line for line in lines if line.startswith("WATCHDOG")], "nobody watches"
    extended = systemd.times_of("EXTEND_TIMEOUT_USEC=30000000")
    assert extended and extended[0] <= systemd.times_of("READY=1")[0], "more time is asked for while it loads"


def test_more_time_is_asked_for_while_requests_finish(systemd):
    def asked():
        stopping = systemd.times_of("STOPPING=1")
        return [t for t in systemd.times_of("EXTEND_TIMEOUT_USEC") if stopping and t > stopping[0]]

    with Server("--drain-timeout", "60s", environment={"NOTIFY_SOCKET": systemd.path}) as server:
        with RawConnection(server) as connection:
            connection.send_request("/v1/completions", {"prompt": "1, 2, 3,", "max_tokens": 8000,
                                                        "ignore_eos": True, "stream": True, "n": 4})
            connection.read_head()
            server.signal(signal.SIGTERM)
            until(lambda: len(asked()) >= 2, 15, "asked twice")
        # Its client has left: nothing is left to wait for.
        assert server.wait_exit(20) == 0
    assert "STATUS=draining, 1 requests left" in systemd.lines()
    assert 4 < asked()[1] - asked()[0] < 10 * SLOWNESS


def test_alive_is_said_in_time(systemd):
    environment = {"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "1500000"}
    with Server(environment=environment):
        time.sleep(4)
    said = systemd.times_of("WATCHDOG=1")
    assert len(said) >= 6
    assert max(b - a for a, b in zip(said, said[1:])) < 1.5 * SLOWNESS


def test_reloading_is_said_with_its_time(systemd):
    with Server(environment={"NOTIFY_SOCKET": systemd.path}) as server:
        before = time.monotonic()
        server.signal(signal.SIGHUP)
        until(lambda: len(systemd.times_of("READY=1")) == 2, 5, "ready again")
    lines = systemd.lines()
    stamp = int(lines[lines.index("RELOADING=1") + 1].removeprefix("MONOTONIC_USEC="))
    assert before * 1e6 <= stamp <= time.monotonic() * 1e6
    assert lines.index("READY=1", lines.index("RELOADING=1")) > 0


def test_sockets_are_taken_over_instead_of_listen():
    with listening() as one, serve_on([one]) as server:
        # The harness also gave --listen for this very port, which can be bound only once.
        answer = httpx.post(server.url + "/v1/completions", json={"prompt": "a", "max_tokens": 1}, timeout=60)
        assert answer.status_code == 200
        assert f"\"address\":\"127.0.0.1:{server.port}\"" in server.log()


def test_nobody_is_turned_away_between_two_servers():
    with listening() as one:
        with serve_on([one]) as server:
            pass
        answers = []
        with socket.create_connection(("127.0.0.1", server.port)) as early:  # nobody serves now
            early.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            with serve_on([one]):
                early.settimeout(30)
                answers.append(early.recv(4096))
        assert answers[0].startswith(b"HTTP/1.1 200 ")


def test_a_socket_named_metrics_has_the_metrics_alone(tmp_path):
    path = str(tmp_path / "api")
    with listening() as metrics, listening(socket.AF_UNIX, path) as api:
        with serve_on([metrics, api], names="metrics:api", wait=False) as server:
            server.wait_ready()  # probes are answered on either
            assert "lacuna_ready" in httpx.get(server.url + "/metrics").text
            assert httpx.post(server.url + "/v1/completions", json={"prompt": "a"}).status_code == 404
            with httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://localhost") as http:
                answer = http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}, timeout=60)
                assert answer.status_code == 200
                assert http.get("/metrics").status_code == 404
        assert (tmp_path / "api").exists(), "the socket is its owner's"


def test_a_socket_that_is_none_is_refused():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wrong:
        wrong.bind(("127.0.0.1", 0))
        server = serve_on([wrong], wait=False)
        assert server.wait_exit() > 0
        assert "descriptor 3" in server.log() and "not a listening stream socket" in server.log()


def test_keys_come_as_a_credential(tmp_path):
    (tmp_path / "api-keys").write_text("alice:sk-alice\n")
    with Server(environment={"CREDENTIALS_DIRECTORY": str(tmp_path)}) as server:
        assert httpx.get(server.url + "/v1/models").status_code == 401
        answer = httpx.get(server.url + "/v1/models", headers={"Authorization": "Bearer sk-alice"})
        assert answer.status_code == 200
    (tmp_path / "api-keys").unlink()
    with Server(environment={"CREDENTIALS_DIRECTORY": str(tmp_path)}) as server:
        assert httpx.get(server.url + "/v1/models").status_code == 200


def test_a_named_key_file_beats_the_credential(tmp_path):
    (tmp_path / "api-keys").write_text("alice:sk-alice\n")
    (tmp_path / "mine").write_text("bob:sk-bob\n")
    done = lacuna("serve", "-m", model_path(), "--api-key-file", tmp_path / "mine", "--check-config",
                  environment={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert b"# api-key-file is set, not shown (--api-key-file)" in done.stdout


def test_hangup_while_it_loads_is_answered_later(systemd):
    with Server("--no-mmap", model=gemma_path(), environment={"NOTIFY_SOCKET": systemd.path}, wait=False) as server:
        server.wait_listening()
        server.signal(signal.SIGHUP)
        server.wait_ready()
        until(lambda: "reloaded" in server.log(), 5, "the reload")
