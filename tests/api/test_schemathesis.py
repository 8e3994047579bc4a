# SPDX-License-Identifier: Apache-2.0
"""Requests made from openapi.yaml, good ones and bad ones: no answer is a fault of the server, and
each is as openapi.yaml says."""
import os
import pathlib
import subprocess
import sys

from harness import ROOT, SLOWNESS, Client, Server

HERE = pathlib.Path(__file__).parent
# Left out are checks of taste: whether every bad request is refused (unknown fields are not), and
# every good one served (a field may be described and not be supported by the model).
CHECKS = ["not_a_server_error", "status_code_conformance", "content_type_conformance",
          "response_headers_conformance", "response_schema_conformance", "unsupported_method"]
SECONDS = 30


def test_every_answer_is_described(contract, tmp_path):
    # A small context, so that no request of so many keeps the others waiting.
    with Server("--ctx", "48", "--max-tokens-default", "4", "--slots-endpoint") as server:
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "--config-file", HERE / "schemathesis.toml", "run",
             ROOT / "openapi.yaml", "--url", server.url, "--seed", "1", "--max-examples", "8", "--phases",
             "examples,coverage,fuzzing", "--max-time", str(SECONDS), "--checks", ",".join(CHECKS),
             "--continue-on-failure", "--no-shrink", "--no-color", "--warnings", "off", "--workers", "1",
             "--request-timeout", str(20 * SLOWNESS), "--generation-database", "none"],
            cwd=tmp_path, capture_output=True, text=True, timeout=4 * SECONDS * SLOWNESS,
            env={**os.environ, "PYTHONPATH": ""})
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "Tested: " in done.stdout, done.stdout
        assert Client(server, contract).complete(max_tokens=2)["choices"], "and the server is well"
