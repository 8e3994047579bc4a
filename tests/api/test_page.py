# SPDX-License-Identifier: Apache-2.0
"""The page at /: whole in itself, harmless, and what people see in it is what the server says."""
import base64
import hashlib
import json
import pathlib
import re
import shutil
import subprocess

import pytest

from harness import SANITIZED, SLOWNESS, free_port, until

HERE = pathlib.Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WORDS_OF_A_REFUSED_KEY = re.compile(r"error: Failed to load resource: .* 401 ")



def in_browser(test):
    test = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed: apt-get install chromium")(test)
    return pytest.mark.skipif(SANITIZED, reason="the page is the same in every build")(test)


def policy_of(answer):
    return dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))


def test_its_policy_names_its_own_script_and_style_alone(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = policy_of(answer)
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        [inside] = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'" and policy["base-uri"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_it_needs_nothing_from_elsewhere(client):
    text = client.get("/").text
    assert not re.findall(r"(?:src|href)=\"(?!data:|metrics\")[^\"]*\"", text)
    urls = set(re.findall(r"https?://[^\s'\"]+", text))
    assert urls == {"http://www.w3.org/2000/svg"}, "a name, not an address"
    assert not re.search(r"<[^>]* on\w+=", re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL))


def test_it_is_there_while_all_else_wants_a_key(start, tmp_path):
    (tmp_path / "keys").write_text("alice:sk-alice\n")
    client = start("--api-key-file", str(tmp_path / "keys"))
    assert client.get("/").status_code == 200
    assert client.request("HEAD", "/").status_code == 200
    assert client.get("/metrics").status_code == 401


def test_it_can_be_switched_off(start):
    client = start("--no-page")
    assert client.get("/").status_code == 404
    assert client.get("/ready").status_code == 200


def test_it_is_not_at_the_address_of_the_metrics(start):
    import httpx
    port = free_port()
    client = start("--metrics-listen", f"127.0.0.1:{port}")
    assert client.get("/").status_code == 200
    assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 404


@pytest.fixture
def browse():
    def run(client, step, argument="", complaints=0):
        done = subprocess.run(["node", HERE / "browser.js", CHROMIUM, client.server.url + "/", step, argument,
                               str(30 * SLOWNESS)], capture_output=True, text=True, timeout=170 * SLOWNESS)
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout)
        refused = [one for one in seen["complaints"] if WORDS_OF_A_REFUSED_KEY.match(one)]
        assert len(seen["complaints"]) - len(refused) == complaints, seen["complaints"]
        assert all(one.startswith((client.server.url, "data:")) for one in seen["requests"]), seen["requests"]
        return seen
    return run


@in_browser
def test_numbers_are_those_of_the_server(browse, client):
    seen = browse(client, "numbers")
    values = client.metrics()
    pages = sum(value for (name, _), value in values.items() if name == "lacuna_kv_cache_pages")
    assert (seen["state"], seen["model"], seen["running"], seen["waiting"]) == ("ready", "smollm2-135m", "0", "0")
    assert int(seen["pages"].replace(",", "")) == pages and seen["pages-used"] == "0"
    assert re.match(r"\d+(\.\d+)? [MG]iB$", seen["memory"])
    assert seen["line"].startswith("M")
    assert client.get("/version").json()["version"] in seen["build"]


@in_browser
def test_a_completion_streams_and_says_what_it_took(browse, client):
    seen = browse(client, "complete")
    assert seen["answer"] == client.text(max_tokens=24)
    assert re.match(r"length · 5 prompt tokens( \(\d+ cached\))? · 24 generated · first after [\d.]+ m?s · [\d.]+ tokens/s$",
                    seen["result"]), seen["result"]
    assert re.match(r"[\d.]+ m?s$", seen["ttft"]) and re.match(r"[\d.]+ m?s$", seen["itl"])


@in_browser
def test_keys_alone_are_enough(browse, client):
    seen = browse(client, "keyboard")
    assert seen["answer"] == client.text(max_tokens=4)
    assert seen["outline"] != "none", "the focus is seen"


@in_browser
def test_stop_ends_the_request_on_the_server_too(browse, client):
    seen = browse(client, "stop")
    assert seen["result"].startswith("stopped · ")
    until(lambda: client.metric("lacuna_requests_running") == 0, 5, "cancelled")


@in_browser
def test_errors_are_said_in_the_servers_words(browse, client):
    seen = browse(client, "refused", complaints=1)
    assert seen["result"].startswith("error: ") and "tokens" in seen["result"]


@in_browser
def test_a_key_is_asked_for_and_kept_for_the_tab(browse, start, tmp_path):
    (tmp_path / "keys").write_text("alice:sk-alice\n")
    seen = browse(start("--api-key-file", str(tmp_path / "keys")), "key", "sk-alice")
    assert "not known" in seen["error"]
    assert seen["result"].startswith("length · ")
    assert seen["kept"]["session"] == 1 and seen["kept"]["local"] == 0 and not seen["kept"]["cookie"]
    assert "sk-alice" not in seen["kept"]["url"] + "".join(seen["requests"])
    assert seen["session"] == 0 and not seen["numbers"]


@in_browser
def test_metrics_elsewhere_are_said_to_be_there(browse, start):
    client = start("--metrics-listen", f"127.0.0.1:{free_port()}")
    seen = browse(client, "elsewhere", complaints=1)
    assert not seen["numbers"]


@in_browser
def test_names_are_text(browse, start):
    name = "<img src=x onerror=alert(1)>&amp;\"'"
    seen = browse(start("--alias", name, alias=None), "text")
    assert seen["model"] == name and seen["images"] == 0


@in_browser
def test_a_narrow_screen_shows_all(browse, client):
    seen = browse(client, "narrow")
    assert seen["width"] <= 360
    assert seen["cut"] == []


@in_browser
def test_text_is_readable_in_light_and_dark(browse, client):
    seen = browse(client, "colours")
    for scheme in ("light", "dark"):
        assert len(seen[scheme]) > 30
        assert [one for one in seen[scheme] if one["ratio"] < 4.5] == []
