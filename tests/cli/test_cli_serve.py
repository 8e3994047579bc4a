# SPDX-License-Identifier: Apache-2.0
"""lacuna serve as a command: what it prints, how it starts and ends.  What it answers: tests/api."""
import json
import os
import shutil
import socket
import subprocess

import httpx
import pytest

from commands import NOINPUT, UNAVAILABLE, USAGE, lacuna
from harness import SLOWNESS, Server, free_port, model_path, until


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


def test_a_truncated_mapping_is_said(tmp_path):
    path = tmp_path / "model.gguf"
    shutil.copy(model_path(), path)
    server = Server(model=str(path))
    try:
        os.truncate(path, 4096)
        with pytest.raises(httpx.TransportError):
            httpx.post(server.url + "/v1/completions", json={"prompt": "a", "max_tokens": 4}, timeout=30)
        assert server.wait_exit() == 74
        assert "truncated" in server.log()
    finally:
        server.process.kill()
        server.process.wait()
