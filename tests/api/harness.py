# SPDX-License-Identifier: Apache-2.0
"""What the black-box tests share: a server process, answers checked against openapi.yaml, sockets.

Every answer that goes through `Client` is held against openapi.yaml, so each test is also a test of
the contract.
"""
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time

import httpx
import jsonschema
import referencing
import referencing.jsonschema
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
SANITIZED = bool(os.environ.get("LACUNA_TEST_SANITIZE"))
# Times that tests wait for are for an optimised build; a sanitized one is given more.
SLOWNESS = 4 if SANITIZED else 1
SANITIZER_WORDS = re.compile(r"Sanitizer|runtime error")


def binary():
    default = ROOT / "build/release/lacuna"
    return os.environ.get("LACUNA_TEST_BIN", str(default))


def fetch(name, variable):
    path = os.environ.get(variable)
    if not path:
        script = ROOT / "deploy/fetch-model.sh"
        path = subprocess.run([script, name], check=True, capture_output=True, text=True).stdout.strip()
    return path


def model_path():
    return fetch("smollm2-135m", "LACUNA_TEST_MODEL")


def gemma_path():
    return fetch("gemma3-270m", "LACUNA_TEST_GEMMA")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clean_environment():
    """LACUNA_* variables are options of the server: only the test decides on those."""
    return {k: v for k, v in os.environ.items() if not k.startswith("LACUNA_")}


class Certificate:
    """A self-signed certificate and its key, as files; clients are to trust it as it is."""

    SUBJECT = ("-subj", "/CN=lacuna test", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1")

    def __init__(self, folder, name="tls", options=("-newkey", "rsa:2048", "-days", "2"), names=SUBJECT):
        self.cert, self.key = folder / f"{name}.crt", folder / f"{name}.key"
        subprocess.run(["openssl", "req", "-x509", "-nodes", *options, *names, "-keyout", self.key, "-out", self.cert],
                       check=True, capture_output=True)

    def options(self):
        return "--tls-cert", str(self.cert), "--tls-key", str(self.key)

    def context(self):
        return ssl.create_default_context(cafile=self.cert)

    def replace(self, other):
        """The same files, another pair."""
        self.cert.write_bytes(other.cert.read_bytes())
        self.key.write_bytes(other.key.read_bytes())


class Server:
    """`lacuna serve` as a child process; over TLS if it is given a Certificate."""

    def __init__(self, *options, model=None, environment=None, wait=True, drain_delay="0s", port=None,
                 launcher=(), pass_fds=(), alias="smollm2-135m", tls=None):
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"https://{self.address}" if tls else f"http://{self.address}"
        self.context = tls.context() if tls else None
        self.verify = self.context or True
        options = (*(tls.options() if tls else ()), *options)
        self.log_file = tempfile.NamedTemporaryFile(prefix="lacuna-log-", suffix=".txt")
        command = [*launcher, binary(), "serve", "-m", model or model_path(), "--listen", self.address,
                   "--drain-delay", drain_delay, *(["--alias", alias] if alias else []), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log_file,
                                        stderr=self.log_file, pass_fds=pass_fds,
                                        env={**clean_environment(), **(environment or {})})
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds=60 * SLOWNESS):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the server ended:\n{self.log()}"
            try:
                if httpx.get(self.url + "/ready", timeout=5, verify=self.verify).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"not ready after {seconds} s:\n{self.log()}")

    def wait_listening(self, seconds=60 * SLOWNESS):
        """Until it answers at all: from then on it takes signals, too."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the server ended:\n{self.log()}"
            try:
                return httpx.get(self.url + "/live", timeout=5, verify=self.verify)
            except httpx.TransportError:
                time.sleep(0.005)
        raise AssertionError(f"not listening after {seconds} s:\n{self.log()}")

    def log(self):
        return pathlib.Path(self.log_file.name).read_text(errors="replace")

    def signal(self, number):
        self.process.send_signal(number)

    def wait_exit(self, seconds=60):
        return self.process.wait(timeout=seconds * SLOWNESS)

    def stop(self):
        """SIGTERM; a clean end is part of every test."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            status = self.wait_exit()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"no end after SIGTERM:\n{self.log()}") from None
        self.check_log()
        assert status == 0, f"exit status {status}:\n{self.log()[-4000:]}"

    def check_log(self):
        log = self.log()
        assert not SANITIZER_WORDS.search(log), log

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        if kind is None:
            self.stop()
        elif self.process.poll() is None:
            print(self.log()[-4000:])
            self.process.kill()
            self.process.wait()


class Systemd(threading.Thread):
    """The side of sd_notify that listens: every message, and when it came."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.path = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.messages = []
        self.start()

    def run(self):
        while True:
            data = self.socket.recv(4096)
            self.messages.append((time.monotonic(), data.decode().split("\n")))

    def times_of(self, line):
        """When a line like READY=1, or one that begins with it, was said."""
        return [when for when, lines in list(self.messages) if any(one.startswith(line) for one in lines)]

    def lines(self):
        return [line for _, lines in list(self.messages) for line in lines]


class Contract:
    """openapi.yaml as something answers can be checked against."""

    BASE = "urn:lacuna:openapi"

    def __init__(self):
        self.document = yaml.safe_load((ROOT / "openapi.yaml").read_text())
        resource = referencing.Resource.from_contents(
            self.document, default_specification=referencing.jsonschema.DRAFT202012)
        self.registry = referencing.Registry().with_resource(self.BASE, resource)
        self.validators = {}
        self.templates = []
        for template in self.document["paths"]:
            # An id may hold a slash: it is percent-decoded.
            pattern = re.sub(r"\\\{[^}]*\\\}", ".+", re.escape(template))
            self.templates.append((re.compile(pattern + r"\Z"), template))
        self.templates.sort(key=lambda item: item[1].count("{"))

    def template_of(self, path):
        path = path.split("?")[0]
        for pattern, template in self.templates:
            if pattern.match(path):
                return template
        return None

    def resolve(self, node, pointer):
        """Follows $ref of a non-schema object; gives it and where it is."""
        while "$ref" in node:
            pointer = node["$ref"][1:]
            node = self.document
            for step in pointer.strip("/").split("/"):
                node = node[step.replace("~1", "/").replace("~0", "~")]
        return node, pointer

    def validate(self, value, pointer):
        if pointer not in self.validators:
            self.validators[pointer] = jsonschema.Draft202012Validator(
                {"$ref": f"{self.BASE}#{pointer}"}, registry=self.registry)
        error = jsonschema.exceptions.best_match(self.validators[pointer].iter_errors(value))
        assert error is None, f"{pointer}: {error.message} at {error.json_path} in {value}"

    def response(self, method, path, status):
        """The response object of openapi.yaml and its place, or None for a path it does not hold."""
        template = self.template_of(path)
        method = "get" if method == "HEAD" else method.lower()
        if template is None or method not in self.document["paths"][template]:
            return None
        responses = self.document["paths"][template][method]["responses"]
        key = str(status) if str(status) in responses else "default"
        assert key in responses, f"openapi.yaml has no {status} for {method} {template}"
        escaped = template.replace("~", "~0").replace("/", "~1")
        return self.resolve(responses[key], f"/paths/{escaped}/{method}/responses/{key}")

    def check(self, method, path, status, content_type, body):
        found = self.response(method, path, status)
        kind = content_type.split(";")[0].strip()
        if found is None:  # an unknown path or method: the error shape is all there is to say
            assert status in (404, 405), f"{status} for {method} {path}, unknown to openapi.yaml"
            self.check_error(body)
            return
        response, pointer = found
        if method == "HEAD" or status == 204:
            assert not body
            return
        content = response.get("content", {})
        assert kind in content, f"{method} {path} {status}: {kind} is not in openapi.yaml"
        escaped_kind = kind.replace("/", "~1")
        if kind == "application/json":
            self.validate(json.loads(body), f"{pointer}/content/{escaped_kind}/schema")
        elif kind == "text/event-stream":
            self.check_stream(body, "ChatChunk" if "chat" in path else "CompletionChunk")
        if status >= 400:
            self.check_error(body)

    def check_error(self, body):
        self.validate(json.loads(body), "/components/schemas/Error")

    def check_stream(self, body, chunk):
        events = parse_sse(body)
        assert events and events[-1] == "[DONE]"
        for event in events[:-1]:
            value = json.loads(event)
            name = "Error" if "error" in value else chunk
            self.validate(value, f"/components/schemas/{name}")


def parse_sse(body):
    """The data of each event; strict about the framing that section 3.1 of the design fixes."""
    text = body.decode("utf-8") if isinstance(body, bytes) else body
    assert text == "" or text.endswith("\n\n"), repr(text[-80:])
    assert "\r" not in text
    events = []
    for block in text.split("\n\n")[:-1]:
        if block == ":":
            continue
        assert block.startswith("data: ") and "\n" not in block, repr(block)
        events.append(block[len("data: "):])
    return events


class Client:
    """httpx with a base URL; every answer must be as openapi.yaml says."""

    def __init__(self, server, contract, headers=None):
        self.server = server
        self.contract = contract
        self.http = httpx.Client(base_url=server.url, timeout=120 * SLOWNESS, headers=headers, verify=server.verify)

    def request(self, method, path, **how):
        answer = self.http.request(method, path, **how)
        assert answer.headers.get("x-request-id"), f"no X-Request-Id on {method} {path}"
        self.contract.check(method, answer.request.url.raw_path.decode(), answer.status_code,
                            answer.headers.get("content-type", ""), answer.content)
        return answer

    def get(self, path, **how):
        return self.request("GET", path, **how)

    def post(self, path, body, **how):
        return self.request("POST", path, json=body, **how)

    def post_raw(self, path, content, content_type="application/json", headers=None):
        return self.request("POST", path, content=content,
                            headers={"Content-Type": content_type, **(headers or {})})

    def complete(self, prompt="The capital of France is", **fields):
        """A completion that must succeed: its JSON."""
        body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, **fields}
        answer = self.post("/v1/completions", body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def text(self, prompt="The capital of France is", **fields):
        return self.complete(prompt, **fields)["choices"][0]["text"]

    def stream(self, prompt="The capital of France is", **fields):
        """A streamed completion: the list of chunks, [DONE] taken off."""
        body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "stream": True, **fields}
        answer = self.post("/v1/completions", body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [json.loads(event) for event in parse_sse(answer.content)[:-1]]

    def chat(self, messages, **fields):
        """A chat that must succeed: its JSON.  messages may be the text of the only one."""
        body = {"messages": as_messages(messages), "max_tokens": 8, "temperature": 0, **fields}
        answer = self.post("/v1/chat/completions", body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def chat_stream(self, messages, **fields):
        """A streamed chat: the list of chunks, [DONE] taken off."""
        body = {"messages": as_messages(messages), "max_tokens": 8, "temperature": 0, "stream": True, **fields}
        answer = self.post("/v1/chat/completions", body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [json.loads(event) for event in parse_sse(answer.content)[:-1]]

    def refused(self, body, status=400, code=None, param=None, path="/v1/completions"):
        """A request that must be refused: its error object.  The server must still be well."""
        answer = self.post(path, body)
        assert answer.status_code == status, f"{answer.status_code} {answer.text}"
        error = answer.json()["error"]
        if code is not None:
            assert error["code"] == code, error
        if param is not None:
            assert error["param"] == param, error
        return error

    def metrics(self):
        """Name and labels -> value, by an independent parser."""
        from prometheus_client.parser import text_string_to_metric_families
        values = {}
        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                assert key not in values, f"{key} twice"
                values[key] = sample.value
        return values

    def metric(self, name):
        """The sum over all labels."""
        found = [v for (n, _), v in self.metrics().items() if n == name]
        assert found, f"no metric {name}"
        return sum(found)


def counts(usage):
    """How many tokens: what was found in the cache depends on what came before."""
    return tuple(usage[key] for key in ("prompt_tokens", "completion_tokens", "total_tokens"))


def as_messages(messages):
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def chat_text(chunks, index=0):
    return "".join(c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"] if c["index"] == index)


def choice_text(chunks, index=0):
    return "".join(c["text"] for chunk in chunks for c in chunk["choices"] if c["index"] == index)


def finish_reasons(chunks, index=0):
    reasons = [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["index"] == index]
    return [reason for reason in reasons if reason is not None]


def until(condition, seconds=5, what="condition"):
    """Waits for something that becomes true soon."""
    deadline = time.monotonic() + seconds * SLOWNESS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds * SLOWNESS} s"
        time.sleep(0.02)


class RawConnection:
    """A socket that says exactly what it is told; over TLS if the server speaks it."""

    def __init__(self, server, timeout=30 * SLOWNESS, context=None):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=timeout)
        context = context or server.context
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *rest):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def send_request(self, path, body, method="POST", headers=()):
        data = json.dumps(body).encode() if not isinstance(body, bytes) else body
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json",
                 f"Content-Length: {len(data)}", *headers]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    def receive(self, n=65536):
        """b'' at the end of the connection, also if it was reset."""
        try:
            return self.socket.recv(n)
        except (ConnectionResetError, ssl.SSLEOFError):
            return b""

    def read_until(self, mark):
        while mark not in self.buffer:
            data = self.receive()
            if not data:
                raise EOFError(f"connection closed after {self.buffer!r}")
            self.buffer += data
        head, self.buffer = self.buffer.split(mark, 1)
        return head

    def read_exactly(self, n):
        while len(self.buffer) < n:
            data = self.receive()
            if not data:
                raise EOFError(f"connection closed after {self.buffer!r}")
            self.buffer += data
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def read_head(self):
        """Status and headers (lower-case names) of the next response; 100 Continue is passed over."""
        while True:
            lines = self.read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            status = int(lines[0].split()[1])
            headers = dict((k.strip().lower(), v.strip()) for k, v in
                           (line.split(":", 1) for line in lines[1:]))
            if status != 100:
                return status, headers

    def read_chunk(self):
        """One HTTP chunk; b'' is the last."""
        size = int(self.read_until(b"\r\n").split(b";")[0], 16)
        data = self.read_exactly(size)
        assert self.read_exactly(2) == b"\r\n"
        return data

    def read_response(self):
        status, headers = self.read_head()
        if headers.get("transfer-encoding", "").lower() == "chunked":
            chunks = list(iter(self.read_chunk, b""))
            return status, headers, b"".join(chunks)
        return status, headers, self.read_exactly(int(headers.get("content-length", "0")))

    def is_closed(self):
        """True once the peer has closed; waits for it."""
        return self.receive() == b""
