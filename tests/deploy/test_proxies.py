# SPDX-License-Identifier: Apache-2.0
"""deploy/nginx/lacuna.conf and deploy/haproxy/haproxy.cfg, with the real programs in front of two real
servers: streams flow, refusals are retried or passed on, as the comments in these files say."""
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess

import httpx
import pytest

from harness import ROOT, Client, Contract, RawConnection, Server, free_port, until

LONG = {"prompt": "1, 2, 3,", "max_tokens": 6000, "temperature": 0, "ignore_eos": True}
SHORT = {"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
KINDS = ("nginx", "haproxy")
SMALL = ("--slots", "1", "--max-queue", "1", "--ctx", "8192")


def program(kind):
    """Debian keeps both in sbin, which is not in every PATH."""
    path = shutil.which(kind, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not path:
        pytest.skip(f"{kind} is not installed")
    return path


def replaced(text, pattern, replacement):
    text, n = re.subn(pattern, replacement, text, flags=re.MULTILINE)
    assert n == 1, f"{pattern}: {n} times"
    return text


def nginx_files(port, backends, folder):
    """The site as it is but for its ports, in the smallest main file that holds it."""
    site = replaced((ROOT / "deploy/nginx/lacuna.conf").read_text(), r"listen 80;", f"listen 127.0.0.1:{port};")
    for example, backend in zip((8081, 8082), backends):
        site = replaced(site, rf"127\.0\.0\.1:{example}", f"127.0.0.1:{backend}")
    (folder / "site.conf").write_text(site)
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n"
                    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;\n" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}daemon off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\n{paths}access_log off;\ninclude {folder}/site.conf;\n}}\n")
    return [program("nginx"), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def haproxy_files(port, backends, folder):
    text = replaced((ROOT / "deploy/haproxy/haproxy.cfg").read_text(), r"bind :80$", f"bind 127.0.0.1:{port}")
    for example, backend in zip((8081, 8082), backends):
        text = replaced(text, rf"127\.0\.0\.1:{example}", f"127.0.0.1:{backend}")
    (folder / "haproxy.cfg").write_text(text)
    subprocess.run([program("haproxy"), "-c", "-q", "-f", folder / "haproxy.cfg"], check=True)
    return [program("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]


class Proxy:
    """What Client and RawConnection want of a server: a port and a URL."""

    def __init__(self, kind, servers, folder):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.verify, self.context = True, None  # no TLS
        files = {"nginx": nginx_files, "haproxy": haproxy_files}[kind]
        command = files(self.port, [server.port for server in servers], folder)
        self.log = open(folder / "log", "wb")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        until(self.answers, 10, kind)

    def answers(self):
        assert self.process.poll() is None
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(self.url + "/ready", timeout=5).status_code == 200
        return False

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


@pytest.fixture
def stack(tmp_path):
    """stack(KIND, [OPTIONS, OPTIONS]) -> client of the proxy, clients of the two servers."""
    with contextlib.ExitStack() as closing:
        def build(kind, *options):
            program(kind)
            servers = []
            for some in options:
                server = Server("--kv-bytes", "256M", *some)
                closing.callback(lambda s=server: s.stop() if s.process.poll() is None else None)
                servers.append(server)
            proxy = Proxy(kind, servers, tmp_path)
            closing.callback(proxy.close)
            contract = Contract()
            return Client(proxy, contract), [Client(server, contract) for server in servers]

        yield build


@pytest.fixture(scope="module")
def servers():
    """Two with default options, for all tests that change nothing."""
    with Server("--kv-bytes", "256M") as one, Server("--kv-bytes", "256M") as other:
        yield [one, other]


@pytest.fixture(scope="module", params=KINDS)
def plain(request, servers, tmp_path_factory):
    """The client of each proxy in turn, and those of the two servers."""
    proxy = Proxy(request.param, servers, tmp_path_factory.mktemp(request.param))
    contract = Contract()
    yield Client(proxy, contract), [Client(server, contract) for server in servers]
    proxy.close()


@contextlib.contextmanager
def filled(client):
    """The server takes nothing more: one request runs, one waits."""
    with RawConnection(client.server) as running, RawConnection(client.server) as waiting:
        for connection, metric in ((running, "lacuna_requests_running"), (waiting, "lacuna_requests_waiting")):
            connection.send_request("/v1/completions", {**LONG, "stream": True})
            until(lambda m=metric: client.metric(m) == 1, 10, metric)
        yield


def post(client, **fields):
    return client.http.post("/v1/completions", json={**SHORT, **fields})


def total(client, metric, **wanted):
    return sum(value for (name, labels), value in client.metrics().items()
               if name == metric and set(wanted.items()) <= set(labels))


def completions_of(client):
    return total(client, "lacuna_http_requests_total", route="/v1/completions", code="200")


def expect_completions(back, n):
    """A request is counted once its last byte was taken, which its client may know before."""
    until(lambda: completions_of(back) >= n, 10, f"{n} completions")
    assert completions_of(back) == n


def cancelled_by_clients(clients):
    return sum(total(client, "lacuna_requests_cancelled_total", cause="client") for client in clients)


def test_events_arrive_while_the_request_runs(plain):
    front, backs = plain
    before = cancelled_by_clients(backs)
    with front.http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer:
        assert answer.status_code == 200
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        for _ in range(5):
            assert json.loads(next(lines)[len("data: "):])["choices"][0]["text"]
        assert sum(back.metric("lacuna_requests_running") for back in backs) == 1, "it came at the end, in one piece"
    until(lambda: sum(back.metric("lacuna_requests_running") for back in backs) == 0, 10, "cancelled")
    assert cancelled_by_clients(backs) == before + 1


def test_a_stream_through_the_proxy_is_whole(plain):
    front, backs = plain
    chunks = front.stream(max_tokens=32, ignore_eos=True)
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    assert text == backs[0].text(max_tokens=32, ignore_eos=True)


@pytest.mark.parametrize("kind", KINDS)
def test_comments_in_silence_reach_the_client_at_once(kind, stack):
    one_slot = ("--slots", "1", "--ping", "1s")
    front, backs = stack(kind, one_slot, one_slot)
    with contextlib.ExitStack() as closing:
        for back in backs:
            closing.enter_context(RawConnection(back.server)).send_request("/v1/completions", {**LONG, "stream": True})
            until(lambda: back.metric("lacuna_requests_running") == 1, 10, "running")
        waiting = closing.enter_context(RawConnection(front.server))
        waiting.send_request("/v1/completions", {**SHORT, "stream": True})
        assert waiting.read_head()[0] == 200
        assert waiting.read_chunk() == waiting.read_chunk() == b":\n\n"
        assert sum(back.metric("lacuna_requests_waiting") for back in backs) == 1, "it is not waiting any more"


def test_nginx_asks_another_server_when_one_is_full(stack):
    front, (full, free) = stack("nginx", SMALL, ())
    with filled(full):
        assert [post(front).status_code for _ in range(6)] == [200] * 6
        assert full.metric("lacuna_requests_rejected_total") >= 1, "the full one was never asked"
    expect_completions(free, 6)


def test_nginx_passes_429_on_when_all_are_full(stack):
    front, backs = stack("nginx", SMALL, SMALL)
    with filled(backs[0]), filled(backs[1]):
        for _ in range(3):  # not 502 from the second on
            answer = post(front)
            assert answer.status_code == 429 and answer.json()["error"]["code"] == "queue_full"
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert all(back.metric("lacuna_requests_rejected_total") >= 3 for back in backs)


def test_haproxy_passes_429_on(stack):
    front, backs = stack("haproxy", SMALL, ())
    with filled(backs[0]):
        answers = [post(front) for _ in range(6)]
    assert {answer.status_code for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "queue_full" and "retry-after" in refused.headers


def test_haproxy_asks_another_server_when_one_is_full_and_says_503(stack):
    front, (full, free) = stack("haproxy", (*SMALL, "--overload-status", "503"), ())
    with filled(full):
        assert [post(front).status_code for _ in range(6)] == [200] * 6
        assert full.metric("lacuna_requests_rejected_total") >= 1, "the full one was never asked"
    expect_completions(free, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_drains_is_not_noticed(kind, stack):
    front, (leaving, staying) = stack(kind, (), ())
    with RawConnection(leaving.server) as running:
        running.send_request("/v1/completions", {**LONG, "stream": True, "max_tokens": 300})
        until(lambda: leaving.metric("lacuna_requests_running") == 1, 10, "running")
        leaving.server.signal(signal.SIGTERM)
        until(lambda: post(leaving).status_code == 503, 10, "draining")
        assert [post(front).status_code for _ in range(6)] == [200] * 6
        assert b"data: [DONE]" in running.read_response()[2], "what ran was not finished"
    assert leaving.server.wait_exit() == 0
    assert [post(front).status_code for _ in range(6)] == [200] * 6, "after its end"
    expect_completions(staying, 12)


def test_long_prompts_get_to_the_server(plain):
    """2 MB: more than nginx lets through by itself, and than HAProxy's buffer holds."""
    front, _ = plain
    answer = post(front, prompt="one two " * 250_000)
    assert answer.status_code == 400, answer.text[:200]
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_metrics_are_not_shown_outside(plain):
    front, _ = plain
    assert front.http.get("/metrics").status_code == 404


def test_haproxy_keeps_a_session_with_its_server(stack):
    front, backs = stack("haproxy", (), ())
    for session in ("anna", "bert", "carl"):
        before = [completions_of(back) for back in backs]
        for _ in range(4):
            answer = front.http.post("/v1/completions", json=SHORT, headers={"X-Session-Token": session})
            assert answer.status_code == 200
        until(lambda: sum(completions_of(back) for back in backs) == sum(before) + 4, 10, "all counted")
        grown = [completions_of(back) - n for back, n in zip(backs, before)]
        assert sorted(grown) == [0, 4], session
