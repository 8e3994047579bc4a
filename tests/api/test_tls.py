# SPDX-License-Identifier: Apache-2.0
"""--tls-cert and --tls-key: HTTPS like HTTP, a pair that SIGHUP replaces, clients that misbehave below HTTP."""
import datetime
import http.server
import json
import pathlib
import socket
import ssl
import subprocess
import threading
import time

import httpx
import pytest

from harness import (SANITIZED, SLOWNESS, Certificate, RawConnection, Server, binary, clean_environment, free_port, 
                     model_path, parse_sse, until)
from test_reload import Configured

USAGE, CONFIG = 64, 78
LONG = {"prompt": "1, 2, 3,", "temperature": 0, "ignore_eos": True, "stream": True, "max_tokens": 5000}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return Certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(pair):
    with Server(tls=pair) as running:
        yield running


def lacuna(*words):
    done = subprocess.run([binary(), *map(str, words)], capture_output=True, text=True, timeout=60 * SLOWNESS,
                          env=clean_environment())
    assert "Sanitizer" not in done.stderr, done.stderr
    return done


def serial(connection):
    return connection.socket.getpeercert()["serialNumber"]


# ---- HTTPS like HTTP ----

def test_requests_and_streams_are_answered(client):
    whole = client.text(max_tokens=24)
    streamed = "".join(c["text"] for chunk in client.stream(max_tokens=24) for c in chunk["choices"])
    assert whole == streamed and whole


def test_a_large_body_arrives_whole(client):
    """Many records, the last of which are already decrypted when the socket has nothing more to read."""
    prompts = ["a" * 300_000] * 10
    answer = client.post("/v1/completions", {"prompt": prompts, "max_tokens": 1})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "context_length_exceeded", answer.text


def test_requests_of_one_record_are_answered_in_turn(server):
    one = b"GET /live HTTP/1.1\r\nHost: localhost\r\nX-Padding: %s\r\n\r\n" % (b"a" * 4000)
    with RawConnection(server) as connection:
        connection.send(one * 3)
        assert [connection.read_response()[0] for _ in range(3)] == [200] * 3


def test_the_log_says_where_to_connect(server, pair):
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    assert [line["url"] for line in lines if line["event"] == "ready"] == [server.url]
    with RawConnection(server) as connection:
        shown = [line for line in lines if line["event"] == "tls_certificate"][0]
        assert int(shown["serial"], 16) == int(serial(connection), 16)


def test_it_ends_well_with_connections_open(pair):
    with Server(tls=pair) as one:
        idle, half = RawConnection(one), socket.create_connection(("127.0.0.1", one.port))
        half.sendall(b"\x16\x03\x01")
        one.stop()
        assert idle.is_closed() and half.recv(1) == b""


# ---- what is spoken ----

@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_that_are_spoken(server, pair, version):
    context = pair.context()
    context.minimum_version = context.maximum_version = version
    with RawConnection(server, context=context) as connection:
        connection.send_request("/live", b"", method="GET")
        assert connection.read_response()[0] == 200
        assert connection.socket.version().replace(".", "_") == version.name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_versions_are_refused(server, client, pair, version):
    context = pair.context()
    context.set_ciphers("ALL:@SECLEVEL=0")  # this side would
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, version
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        RawConnection(server, context=context)
    assert client.get("/live").status_code == 200


@pytest.mark.parametrize("words", [b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x17\x03\x03\x00\x05hello",
                                   b"\0" * 5000])
def test_what_is_no_handshake_is_closed_without_harm(server, client, words):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(words)
        try:
            received = connection.recv(1000)
        except ConnectionResetError:
            received = b""
        assert not received.startswith(b"HTTP")
    assert client.get("/live").status_code == 200


def test_unix_sockets_and_metrics_stay_plain(pair, tmp_path):
    port = free_port()
    path = tmp_path / "socket"
    with Server("--listen", f"unix:{path}", "--metrics-listen", f"127.0.0.1:{port}", tls=pair) as one:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as plain:
            assert plain.get("http://localhost/live").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/metrics").status_code == 200
        assert httpx.get(one.url + "/live", verify=one.verify).status_code == 200


@pytest.mark.parametrize("kind", [["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], ["ed25519"]])
def test_other_kinds_of_keys(tmp_path, kind):
    with Server(tls=Certificate(tmp_path, options=("-newkey", *kind, "-days", "2"))) as one:
        assert httpx.get(one.url + "/live", verify=one.verify).status_code == 200


def test_a_chain_is_sent_whole(tmp_path):
    """Clients know the authority alone; the one between comes with the certificate."""
    root = Certificate(tmp_path, "root")
    leaf = Certificate(tmp_path, "leaf")

    def sign(name, subject, issuer, extensions):
        (tmp_path / "ext").write_text(extensions)
        run = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", subject, "-keyout",
               tmp_path / f"{name}.key", "-out", tmp_path / "request"]
        subprocess.run(run, check=True, capture_output=True)
        subprocess.run(["openssl", "x509", "-req", "-in", tmp_path / "request", "-CA", issuer.cert, "-CAkey",
                        issuer.key, "-days", "2", "-extfile", tmp_path / "ext", "-out", tmp_path / f"{name}.crt"],
                       check=True, capture_output=True)

    sign("between", "/CN=between", root, "basicConstraints=critical,CA:true\n")
    between = Certificate.__new__(Certificate)
    between.cert, between.key = tmp_path / "between.crt", tmp_path / "between.key"
    sign("leaf", "/CN=leaf", between, "subjectAltName=IP:127.0.0.1\n")
    leaf.cert.write_bytes(leaf.cert.read_bytes() + between.cert.read_bytes())
    with Server(*leaf.options(), wait=False) as one:
        one.url, one.verify = one.url.replace("http:", "https:"), root.context()
        one.wait_ready()


# ---- clients that misbehave ----

def cpu_seconds(server):
    fields = pathlib.Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def log_line(server, request):
    found = [line for line in server.log().splitlines() if request in line]
    return json.loads(found[0]) if found else None


@pytest.mark.parametrize("politely", [True, False])
def test_leaving_is_noticed_at_once(server, politely):
    request = f"leaves-{politely}"
    with RawConnection(server) as connection:
        connection.send_request("/v1/completions", LONG, headers=[f"X-Request-Id: {request}"])
        connection.read_head()
        for _ in range(3):
            connection.read_chunk()
        if politely:  # TLS is told first
            connection.socket.settimeout(0)
            with pytest.raises(ssl.SSLWantReadError):
                connection.socket.unwrap()
        left = time.time()
    until(lambda: log_line(server, request), 5, "its line in the log")
    line = log_line(server, request)
    noticed = datetime.datetime.fromisoformat(line["ts"].replace("Z", "+00:00")).timestamp()
    assert line["status"] == 499 and noticed - left < 0.25 * SLOWNESS, line


def test_leaving_frees_the_seat(start, pair, tmp_path):
    (tmp_path / "keys").write_text("bob:sk-bob:1\n")
    client = start("--api-key-file", str(tmp_path / "keys"), tls=pair, headers={"X-Api-Key": "sk-bob"})

    def status():
        return client.http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code

    with RawConnection(client.server) as connection:
        connection.send_request("/v1/completions", LONG, headers=["X-Api-Key: sk-bob"])
        connection.read_head()
        assert status() == 429
    until(lambda: status() == 200, 1, "the seat is free")


def test_a_reader_who_stops_does_not_hold_others(server, client):
    with RawConnection(server) as slow:
        slow.send_request("/v1/completions", {**LONG, "logprobs": 20, "max_tokens": 2000})
        until(lambda: client.metric("lacuna_requests_running") >= 1, 5, "running")
        for _ in range(3):
            assert client.text(max_tokens=4)
    until(lambda: client.metric("lacuna_requests_running") == 0, 3, "cancelled")


def test_handshakes_that_stop_cost_nothing_and_are_closed(server, client):
    """Nothing at all, the beginning of a record, and a whole greeting that is not followed up."""
    outgoing = ssl.MemoryBIO()
    greeting = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        greeting.do_handshake()
    hello = outgoing.read()
    connections = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(12)]
    for i, one in enumerate(connections):
        one.sendall([b"", b"\x16", hello[:-1], hello][i % 4])
    begin, before = time.monotonic(), cpu_seconds(server)
    time.sleep(2)
    assert cpu_seconds(server) - before < 0.5 * SLOWNESS, "a thread spins"
    assert client.text(max_tokens=4), "others are served"
    for one in connections:
        try:
            while one.recv(65536):
                pass
        except ConnectionResetError:
            pass
        one.close()
    assert 20 < time.monotonic() - begin < 45
    until(lambda: client.metric("lacuna_http_connections") <= 2, 5, "closed")


def test_a_handshake_byte_by_byte_succeeds(server, pair):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    slow = pair.context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                slow.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    connection.sendall(bytes([byte]))
                    time.sleep(0.0005)
                incoming.write(connection.recv(65536))
        slow.write(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        connection.sendall(outgoing.read())
        while data := connection.recv(65536):
            incoming.write(data)
        assert slow.read().startswith(b"HTTP/1.1 200 ")


def test_many_come_and_go_during_their_handshakes(server, client):
    def knock():
        for i in range(50):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
                connection.sendall(b"\x16\x03\x01\x02\x00"[:1 + i % 5])

    threads = [threading.Thread(target=knock) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: client.metric("lacuna_http_connections") <= 2, 10, "closed")


# ---- files that are wrong ----

def refused(*options):
    """Both at start and by --check-config."""
    checked = lacuna("serve", *options, "--check-config")
    started = lacuna("serve", *options, "-m", model_path(), "--listen", f"127.0.0.1:{free_port()}",
                     "--log-format", "text")
    assert started.returncode == checked.returncode != 0
    assert started.stderr == checked.stderr and started.stderr.startswith("lacuna: ")
    return checked


NO_CERTIFICATE = "no certificate in PEM"


@pytest.mark.parametrize("what, says", [(None, "No such file"), ("nonsense\n", NO_CERTIFICATE), ("", NO_CERTIFICATE),
                                        ("key", NO_CERTIFICATE), (b"\x30\x82\x01\x00", NO_CERTIFICATE),
                                        ("x" * (1 << 20), "larger than 1 MiB")])
def test_a_bad_certificate_is_named(pair, tmp_path, what, says):
    bad = tmp_path / "bad"
    if what is not None:
        bad.write_bytes(pair.key.read_bytes() if what == "key" else what if isinstance(what, bytes) else what.encode())
    done = refused("--tls-cert", bad, "--tls-key", pair.key)
    assert done.returncode == USAGE and f"tls-cert '{bad}'" in done.stderr and says in done.stderr


@pytest.mark.parametrize("what, says", [(None, "No such file"), ("nonsense\n", "no private key in PEM"),
                                        ("cert", "no private key in PEM"), ("folder", "Is a directory"),
                                        ("locked", "pass phrase")])
def test_a_bad_key_is_named(pair, tmp_path, what, says):
    bad = tmp_path / "bad"
    if what == "folder":
        bad.mkdir()
    elif what == "locked":
        subprocess.run(["openssl", "pkey", "-in", pair.key, "-aes256", "-passout", "pass:abcd", "-out", bad],
                       check=True)
    elif what is not None:
        bad.write_bytes(pair.cert.read_bytes() if what == "cert" else what.encode())
    done = refused("--tls-cert", pair.cert, "--tls-key", bad)
    assert done.returncode == USAGE and f"tls-key '{bad}'" in done.stderr and says in done.stderr


def test_a_key_of_another_certificate_is_refused(pair, tmp_path):
    other = Certificate(tmp_path, "other")
    done = refused("--tls-cert", pair.cert, "--tls-key", other.key)
    assert done.returncode == USAGE
    assert f"'{other.key}' is not the key of the first certificate in '{pair.cert}'" in done.stderr


def test_one_without_the_other_is_refused(pair, tmp_path):
    done = refused("--tls-cert", pair.cert)
    assert done.returncode == USAGE and "--tls-cert" in done.stderr and "tls-key is not set" in done.stderr
    (tmp_path / "lacuna.conf").write_text(f"\ntls-key = {pair.key}\n")
    done = refused("--config", tmp_path / "lacuna.conf")
    assert done.returncode == CONFIG and "lacuna.conf:2" in done.stderr and "tls-cert is not set" in done.stderr


def test_an_expired_certificate_is_served_with_a_warning(tmp_path):
    old = Certificate(tmp_path)
    subprocess.run(["openssl", "x509", "-in", old.cert, "-signkey", old.key, "-days", "-1", "-out", old.cert],
                   check=True, capture_output=True)
    done = lacuna("serve", *old.options(), "--check-config")
    assert done.returncode == 0 and str(old.cert) in done.stderr and "expired" in done.stderr
    with Server(*old.options(), wait=False) as one:
        one.url, one.verify = one.url.replace("http:", "https:"), False
        one.wait_ready()
        warning = [json.loads(line) for line in one.log().splitlines() if '"tls_warning"' in line]
        assert warning[0]["level"] == "warn" and str(old.cert) in warning[0]["message"]


def test_a_good_pair_passes_the_check(pair):
    done = lacuna("serve", *pair.options(), "--check-config")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"tls-cert = {pair.cert}  # --tls-cert" in done.stdout


# ---- SIGHUP ----

@pytest.fixture
def reloadable(start, tmp_path):
    """A server whose files may be written, and the pairs before and after."""
    now, then = Certificate(tmp_path, "now"), Certificate(tmp_path, "then")
    one = Configured(lambda *options, **how: start(*options, tls=now, **how), tmp_path)
    trusting = ssl.create_default_context(cafile=now.cert)
    trusting.load_verify_locations(cafile=then.cert)
    one.connect = lambda: RawConnection(one.server, context=trusting)
    one.now, one.then = now, then
    return one


def test_a_reload_changes_the_certificate_for_new_connections(reloadable):
    with reloadable.connect() as before:
        before.send_request("/v1/completions", {**LONG, "max_tokens": 400})
        before.read_head()
        reloadable.now.replace(reloadable.then)
        reloadable.reload()
        with reloadable.connect() as after:
            assert serial(after) != serial(before)
            assert int(serial(after), 16) == int(reloadable.event("tls_certificate")["serial"], 16)
        events = parse_sse(b"".join(iter(before.read_chunk, b"")))
        assert events[-1] == "[DONE]" and json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        before.send_request("/live", b"", method="GET")
        assert before.read_response()[0] == 200, "the old connection goes on"


@pytest.mark.parametrize("damage", ["cert", "key", "mixed", "gone"])
def test_a_bad_reload_keeps_the_pair(reloadable, damage):
    with reloadable.connect() as before:
        if damage == "gone":
            reloadable.now.cert.unlink()
        elif damage == "mixed":
            reloadable.now.key.write_bytes(reloadable.then.key.read_bytes())
        else:
            getattr(reloadable.now, damage).write_text("nonsense\n")
        reloadable.reload(expect="reload_failed")
        wrong = reloadable.now.cert if damage in ("cert", "gone") else reloadable.now.key
        assert str(wrong) in reloadable.event("reload_failed")["message"]
        with reloadable.connect() as after:
            assert serial(after) == serial(before)


def test_tls_is_not_turned_on_by_a_reload(start, pair, tmp_path):
    one = Configured(start, tmp_path)
    one.reload(config=f"tls-cert = {pair.cert}\ntls-key = {pair.key}\n", expect="reload_failed")
    assert "restart" in one.event("reload_failed")["message"]
    assert one.http.get("/live").status_code == 200


def test_handshakes_under_reloads_all_succeed(reloadable):
    stop, wrong, n_good = threading.Event(), [], [0] * 3

    def knock(i):
        while not stop.is_set():
            try:
                with reloadable.connect() as connection:
                    connection.send_request("/live", b"", method="GET")
                    n_good[i] += connection.read_response()[0] == 200
            except Exception as error:  # whatever it is
                wrong.append(error)

    threads = [threading.Thread(target=knock, args=(i,)) for i in range(len(n_good))]
    for thread in threads:
        thread.start()
    pairs = [(reloadable.now.cert.read_bytes(), reloadable.now.key.read_bytes()),
             (reloadable.then.cert.read_bytes(), reloadable.then.key.read_bytes())]
    for i in range(20):
        for path, data in zip((reloadable.now.cert, reloadable.now.key), pairs[i % 2]):
            path.write_bytes(data)
        reloadable.hang_up("reloaded")
    until(lambda: min(n_good) > 10, 60, "handshakes of every client")
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]


# ---- lacuna --healthcheck ----

def test_healthcheck(server):
    assert lacuna("--healthcheck", server.url + "/ready").returncode == 0
    assert lacuna("--healthcheck", f"https://localhost:{server.port}/ready").returncode == 0
    assert lacuna("--healthcheck", server.url + "/nowhere").returncode == 1
    assert lacuna("--healthcheck", server.url.replace("https:", "http:") + "/ready").returncode == 1
    assert lacuna("--healthcheck", f"https://127.0.0.1:{free_port()}/ready").returncode == 1


def default_port_is_free():
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 8080))
        except OSError:
            return False
    return True


@pytest.mark.parametrize("is_tls", [False, True])
def test_healthcheck_without_a_url_finds_out_what_is_spoken(pair, is_tls):
    if not default_port_is_free():
        pytest.skip("something else listens on 127.0.0.1:8080")
    with Server(port=8080, tls=pair if is_tls else None):
        assert lacuna("--healthcheck").returncode == 0


def own_address():
    """One of this machine that is not a loopback one, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        address = probe.getsockname()[0]
    return None if address.startswith("127.") else address


def test_healthcheck_of_another_machine_verifies(pair):
    address = own_address()
    if not address:
        pytest.skip("this machine has no address but loopback ones")
    answering = http.server.HTTPServer((address, 0), http.server.SimpleHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    answering.socket = context.wrap_socket(answering.socket, server_side=True)
    answering.handle_error = lambda *_: None
    threading.Thread(target=answering.serve_forever, daemon=True).start()
    try:
        done = lacuna("--healthcheck", f"https://{address}:{answering.server_address[1]}/")
    finally:
        answering.shutdown()
        answering.server_close()
    assert done.returncode == 1 and "not to be trusted" in done.stderr
