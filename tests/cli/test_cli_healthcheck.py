# SPDX-License-Identifier: Apache-2.0
"""lacuna --healthcheck: what an image without curl asks a server with."""
import http.server
import threading

import pytest

from commands import USAGE, lacuna, refused
from harness import free_port


@pytest.fixture(params=["127.0.0.1", "::1"])
def answering(request):
    """A server that answers GET /N with status N."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(int(self.path[1:]))
            self.end_headers()

        def log_message(self, *_):
            pass

    class Server(http.server.HTTPServer):
        address_family = 10 if ":" in request.param else 2

    server = Server((request.param, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"[{request.param}]" if ":" in request.param else request.param
    yield f"http://{host}:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status, result", [(200, 0), (204, 1), (404, 1), (503, 1)])
def test_only_200_is_healthy(answering, status, result):
    assert lacuna("--healthcheck", f"{answering}/{status}").returncode == result


def test_nobody_there_is_unhealthy():
    assert "cannot connect" in refused(1, "--healthcheck", f"http://127.0.0.1:{free_port()}/ready")


@pytest.mark.parametrize("url", ["ftp://localhost/", "https:/localhost", "https://", "localhost:8080", "http://",
                                 "http://:80/", "http://[::1", "http://localhost:/", "http://localhost:123456/",
                                 "http://localhost:80x", ""])
def test_bad_urls_are_usage_errors(url):
    assert "--healthcheck" in refused(USAGE, "--healthcheck", url)
