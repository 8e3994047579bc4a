# SPDX-License-Identifier: Apache-2.0
"""The server listens before it loads; a model that cannot be loaded is a clear end."""
import pathlib
import signal
import subprocess
import time

import httpx
import pytest

from harness import SLOWNESS, Server, binary, clean_environment, free_port, gemma_path, model_path


def test_answers_while_loading():
    # The larger model, read into memory: loading takes long enough to be seen.
    with Server("--no-mmap", model=gemma_path(), wait=False) as server:
        seen = {}
        deadline = time.monotonic() + 120 * SLOWNESS
        with httpx.Client(base_url=server.url, timeout=30) as http:
            while time.monotonic() < deadline:
                try:
                    ready = http.get("/ready")
                except httpx.TransportError:
                    assert server.process.poll() is None, server.log()
                    assert not seen, "it listened, and stopped listening"
                    continue
                if ready.status_code == 200:
                    break
                seen[ready.status_code] = ready
                live = http.get("/live")
                assert live.status_code == 200
                refused = http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
                assert refused.status_code in (200, 503)  # it may have become ready between the two
                if refused.status_code == 503:
                    assert refused.json()["error"]["code"] == "model_loading"
                    assert refused.headers["retry-after"] == "5"
            assert ready.status_code == 200
            assert list(seen) == [503], "never seen loading"
            error = seen[503].json()["error"]
            assert (error["type"], error["code"]) == ("unavailable_error", "model_loading")
            answer = http.post("/v1/completions", json={"prompt": "The capital of France is", "max_tokens": 2,
                                                        "temperature": 0}).json()
            assert answer["choices"][0]["text"] and answer["usage"]["completion_tokens"] == 2


def test_sigterm_while_loading_ends_well():
    with Server("--no-mmap", model=gemma_path(), wait=False) as server:
        server.wait_listening()
        server.signal(signal.SIGTERM)
        # Before the harness sends its own signal: a second one ends the process at once, with 130.
        assert server.wait_exit() == 0, server.log()


def serve(path, *options):
    done = subprocess.run([binary(), "serve", "-m", path, "--listen", f"127.0.0.1:{free_port()}", *options],
                          capture_output=True, text=True, timeout=60 * SLOWNESS, env=clean_environment(),
                          stdin=subprocess.DEVNULL)
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("make", ["missing", "empty", "text", "truncated", "folder", "fifo-like device"])
def test_bad_models_are_refused(tmp_path, make):
    path = tmp_path / "model.gguf"
    if make == "empty":
        path.touch()
    elif make == "text":
        path.write_text("This is no model.\n" * 100)
    elif make == "truncated":
        path.write_bytes(pathlib.Path(model_path()).read_bytes()[:5_000_000])
    elif make == "folder":
        path.mkdir()
    elif make == "fifo-like device":
        path = pathlib.Path("/dev/null")
    done = serve(str(path))
    assert done.returncode > 0, "an ordinary exit status, no signal"
    assert done.stderr.strip(), "it says why"


@pytest.mark.parametrize("options", [["--threads", "x"], ["--ctx", "-1"], ["--nonsense"], ["--listen", "nowhere"],
                                     ["--max-isa", "sse9"], ["--ping", "301s"]])
def test_bad_options_are_refused(options):
    done = serve(model_path(), *options)
    assert done.returncode > 0
    assert options[0].strip("-") in done.stderr or options[-1] in done.stderr, done.stderr


def test_taken_port_is_refused(start):
    client = start()
    done = serve(model_path(), "--listen", client.server.address)
    assert done.returncode > 0
    assert client.server.address in done.stderr


def test_both_ways_of_reading_give_the_same_text(start):
    texts = {start(*options).text(max_tokens=16)
             for options in ([], ["--no-mmap"], ["--no-mmap", "--io", "pread"], ["--threads", "1"])}
    assert len(texts) == 1
