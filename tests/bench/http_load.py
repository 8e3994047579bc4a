# SPDX-License-Identifier: Apache-2.0
"""One request over one connection of its own, at little cost: the machine that asks is the machine that serves.

A client library takes about a millisecond per request and per streamed token; that would be measured, too.
"""
import asyncio
import dataclasses
import json
import re
import time

WORDS = ("time year people way day man thing woman life child world school state family student group country problem "
         "hand part place case week company system program question work number night point home water room").split()


def words(rng, n):
    return " ".join(rng.choice(WORDS) for _ in range(n))


def quantile(values, p):
    """NaN of nothing."""
    values = sorted(values) or [float("nan")]
    return values[min(len(values) - 1, int(p * len(values)))]


def request_bytes(path, body=None):
    """A POST of this JSON, or a GET, after which the server closes."""
    data = b"" if body is None else json.dumps(body).encode()
    method = "GET" if body is None else "POST"
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return head.encode() + b"\r\n" + data


def stream_bytes(prompt, max_tokens, **fields):
    """A greedy streamed completion of exactly so many tokens; Answer.n_tokens needs its usage."""
    return request_bytes("/v1/completions", {
        "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True}, **fields})


@dataclasses.dataclass
class Answer:
    """Times are seconds of one clock."""
    begin: float
    end: float = None
    arrivals: list = dataclasses.field(default_factory=list)  # of a stream: (when, how many events)
    status: int = 0  # 0: no answer
    headers: dict = dataclasses.field(default_factory=dict)
    body: bytes = b""
    error: str = ""  # of the connection, or inside a stream

    @property
    def is_good(self):
        return self.status == 200 and not self.error

    @property
    def seconds(self):
        return self.end - self.begin

    @property
    def seconds_to_first(self):
        return self.arrivals[0][0] - self.begin

    def n_tokens(self, since, until):
        """How many of a stream's tokens came in this time.  It ends with its usage; an event is mostly a token."""
        inside = sum(n for when, n in self.arrivals if since <= when < until)
        usage = json.loads(self.body.split(b"data: ")[-2])["usage"]  # the last is [DONE]
        return usage["completion_tokens"] * inside / sum(n for _, n in self.arrivals)

    def is_stream(self):
        return self.headers.get("content-type", "").startswith("text/event-stream")


def joined_chunks(data):
    """The body of a chunked answer; None if its last chunk is missing."""
    body, at = [], 0
    while (line_end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line_end].split(b";")[0], 16)
        if size == 0:
            return b"".join(body)
        body.append(data[line_end + 2:line_end + 2 + size])
        at = line_end + 2 + size + 2
    return None


def take_apart(answer, data):
    head, mark, body = data.partition(b"\r\n\r\n")
    if not mark:
        answer.error = "no answer"
        return
    status, *lines = head.decode("latin-1").split("\r\n")
    answer.status = int(status.split()[1])
    answer.headers = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    if answer.headers.get("transfer-encoding", "").lower() == "chunked":
        body = joined_chunks(body)
    elif len(body) != int(answer.headers.get("content-length", 0)):
        body = None
    if body is None:
        answer.error = "cut off"
        return
    answer.body = body
    if answer.is_stream() and (frame := re.search(rb'data: {"error".*"code":"(\w+)"', body)):
        answer.error = f"error frame {frame[1].decode()}"
    elif answer.is_stream() and not body.endswith(b"data: [DONE]\n\n"):
        answer.error = "no [DONE]"


async def exchange(port, request, answer):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = bytearray()
    try:
        writer.write(request)
        while piece := await reader.read(65536):
            data += piece
            if n_events := piece.count(b"data: {"):
                answer.arrivals.append((time.perf_counter(), n_events))
    finally:
        writer.close()
        answer.end = time.perf_counter()
        take_apart(answer, bytes(data))


async def ask(port, request, seconds=600):
    """Never raises for what the server does."""
    answer = Answer(time.perf_counter())
    try:
        async with asyncio.timeout(seconds):
            await exchange(port, request, answer)
    except (OSError, TimeoutError) as error:
        answer.end = time.perf_counter()
        answer.error = type(error).__name__
    return answer


async def metrics(port):
    """The lines of /metrics: name with labels -> value."""
    answer = await ask(port, request_bytes("/metrics"), 60)
    assert answer.is_good, f"/metrics: {answer.status} {answer.error}"
    lines = [line.rsplit(" ", 1) for line in answer.body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


async def sum_of(port, name):
    """Over all labels of a metric."""
    return sum(value for key, value in (await metrics(port)).items() if key.split("{")[0] == name)


async def until(port, name, is_so, seconds=120):
    """Waits until a metric is as it should be."""
    deadline = time.perf_counter() + seconds
    while not is_so(value := await sum_of(port, name)):
        assert time.perf_counter() < deadline, f"{name} is {value} after {seconds} s"
        await asyncio.sleep(0.1)
