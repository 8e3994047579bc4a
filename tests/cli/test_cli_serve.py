# SPDX-License-Identifier: Apache-2.0
"""lacuna serve as a command: what it prints, how it starts and ends.  What it answers: tests/api."""
import json
import os
import pathlib
import shutil
import socket
import subprocess

import httpx
import pytest

from commands import NOINPUT, UNAVAILABLE, USAGE, lacuna
from harness import SLOWNESS, Server, free_port, model_path, until

GOLDEN_BF16 = pathlib.Path(__file__).parents[1] / "golden/quant/BF16.gguf"


def test_prints_a_line_to_paste():
    with Server("--log-format", "text") as server:
        until(lambda: "curl http" in server.log(), 5, "the curl line")
        line = next(line for line in server.log().splitlines() if line.startswith("curl "))
        answer = subprocess.run(["bash", "-c", line], capture_output=True, timeout=60 * SLOWNESS, check=True)
        assert "Paris" in json.loads(answer.stdout)["choices"][0]["text"]
        assert "memory plan" in server.log()


def test_json_log_is_json_only():
    with Server("--log-format", "json") as server:
        pass
    lines = [json.loads(line) for line in server.log().splitlines()]
    events = [line["event"] for line in lines]
    for event in ("model_loaded", "memory_plan", "ready", "draining", "stopped"):
        assert event in events, events
    assert events[-1] == "stopped"
    tenths = [line["percent"] for line in lines if line["event"] == "loading"]
    assert tenths == sorted(set(tenths)) and len(tenths) <= 11


def test_options_come_from_file_and_environment(tmp_path):
    path = tmp_path / "lacuna.conf"
    path.write_text("alias = from-file\nmax-n = 2\n")
    environment = {"LACUNA_CONFIG": str(path), "LACUNA_MAX_N": "1"}
    with Server(environment=environment) as server:
        answer = httpx.post(server.url + "/v1/completions", json={"prompt": "a", "n": 2, "max_tokens": 1})
        assert answer.status_code == 400
        assert httpx.post(server.url + "/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200


def test_healthcheck_of_a_server():
    with Server() as server:
        assert lacuna("--healthcheck", server.url + "/ready").returncode == 0
        assert lacuna("--healthcheck", server.url + "/nowhere").returncode == 1


def test_an_address_in_use_is_said_before_loading():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        done = lacuna("serve", "-m", model_path(), "--listen", address)
    assert done.returncode in (USAGE, UNAVAILABLE)
    assert address in done.error and "model_loaded" not in done.error


def test_a_missing_model_ends_at_once(tmp_path):
    done = lacuna("serve", "-m", tmp_path / "nowhere.gguf", "--listen", f"127.0.0.1:{free_port()}")
    assert done.returncode == NOINPUT


def truncated(model, tmp_path):
    """A server whose model file lost all but its first page."""
    path = tmp_path / "model.gguf"
    shutil.copy(model, path)
    server = Server(model=str(path))
    os.truncate(path, 4096)
    return server


def complete(server):
    return httpx.post(server.url + "/v1/completions", json={"prompt": "a", "max_tokens": 4}, timeout=30)


def test_a_truncated_mapping_is_said(tmp_path):
    server = truncated(GOLDEN_BF16, tmp_path)  # computed with where it is mapped
    try:
        with pytest.raises(httpx.TransportError):
            complete(server)
        assert server.wait_exit() == 74
        assert "truncated" in server.log()
    finally:
        server.process.kill()
        server.process.wait()


def test_quantised_weights_no_longer_need_their_file(tmp_path):
    server = truncated(model_path(), tmp_path)
    try:
        assert complete(server).status_code == 200
    finally:
        server.stop()
