# SPDX-License-Identifier: Apache-2.0
"""Probes answer at once, whatever the engine or the preparation thread is doing."""
import threading
import time

import httpx

from harness import SLOWNESS

LIMIT = 0.05 * SLOWNESS  # seconds; of nearly all answers
WORST = 0.5 * SLOWNESS  # this machine's scheduler may hold any one of them


def probe_while(client, thread, paths=("/health", "/metrics", "/live", "/ready")):
    """Latencies of the probes until the thread has ended."""
    latencies = []
    with httpx.Client(base_url=client.server.url, timeout=30) as probe:
        while thread.is_alive():
            for path in paths:
                begin = time.monotonic()
                assert probe.get(path).status_code == 200
                latencies.append(time.monotonic() - begin)
            time.sleep(0.02)
    latencies.sort()
    assert len(latencies) >= 8, "the work was over too soon to say anything"
    return latencies


def in_background(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def check(latencies):
    assert latencies[int(len(latencies) * 0.95)] < LIMIT, latencies[-10:]
    assert latencies[-1] < WORST, latencies[-10:]


def test_during_a_long_prefill(client):
    prompt = list(range(100, 3100))
    check(probe_while(client, in_background(lambda: client.complete(prompt, max_tokens=1))))


def test_during_many_decodes(client):
    def work():
        client.complete(["1, 2, 3,"] * 8, max_tokens=64, ignore_eos=True)

    check(probe_while(client, in_background(work)))


def test_short_texts_do_not_wait_for_a_huge_one(client):
    """One text is tokenized in one turn; short ones have a thread of their own."""
    huge = {"content": "lorem ipsum dolor sit amet " * 38000}
    times = {"huge": [], "short": []}

    def timed(kind, body):
        begin = time.monotonic()
        answer = client.http.post("/tokenize", json=body)  # unchecked: that takes the schema's reader half a minute
        times[kind].append(time.monotonic() - begin)
        assert answer.status_code == 200

    def work():
        for _ in range(4):
            timed("huge", huge)

    thread = in_background(work)
    while thread.is_alive():
        timed("short", {"content": "hello"})
    median = {kind: sorted(values)[len(values) // 2] for kind, values in times.items()}
    assert median["short"] < median["huge"] / 10, median


def test_while_a_huge_body_is_tokenized(client):
    body = {"prompt": ["lorem ipsum dolor sit amet " * 2000] * 60, "max_tokens": 1}

    def work():
        for _ in range(3):
            client.refused(body)  # longer than the context, which only the tokenizer can tell

    check(probe_while(client, in_background(work)))
