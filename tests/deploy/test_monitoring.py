# SPDX-License-Identifier: Apache-2.0
"""deploy/prometheus/ and deploy/grafana/: rules that hold their tests, and no metric or label that the
server does not export."""
import json
import re
import shutil
import subprocess

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from harness import ROOT, Client, Contract, Server

RULES = ROOT / "deploy/prometheus/rules.yml"
SCRAPE = ROOT / "deploy/prometheus/scrape.yml"
DASHBOARD = ROOT / "deploy/grafana/dashboard.json"
RULES_TEST = ROOT / "tests/deploy/rules_test.yml"

# What Prometheus adds, or a variable of the dashboard chooses.
NOT_OF_THE_SERVER = {"job", "instance", "le"}

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")


def promtool(*words):
    return subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=60)


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels():
    return json.loads(DASHBOARD.read_text())["panels"]


def dashboard_expressions():
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    document = json.loads(DASHBOARD.read_text())
    found += [item["query"]["query"] for item in document["templating"]["list"] if item["type"] == "query"]
    found += [item["expr"] for item in document["annotations"]["list"] if "expr" in item]
    return found


def selectors(expression):
    """(metric, {label: (operator, value)}) of each selector."""
    for name, braces in re.findall(r"\b((?:lacuna|process)_\w+|up\b)(\{[^}]*\})?", expression):
        yield name, {label: (operator, value) for label, operator, value in
                     re.findall(r'(\w+)(=~|!=|!~|=)"([^"]*)"', braces)}


@pytest.fixture(scope="module")
def exported():
    """Name -> the labels of its samples, of a server that has answered a request."""
    with Server() as server:
        client = Client(server, Contract())
        client.complete()
        samples = {}
        for family in text_string_to_metric_families(client.get("/metrics").text):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append(sample.labels)
    return samples


def matches(labels, wanted):
    for label, (operator, value) in wanted.items():
        if label in NOT_OF_THE_SERVER or "$" in value:
            continue
        is_equal = re.fullmatch(value if "~" in operator else re.escape(value), labels.get(label, "")) is not None
        if is_equal == operator.startswith("!"):
            return False
    return True


@pytest.mark.parametrize("where, expressions", [
    ("rules.yml", [rule["expr"] for rule in rules()]), ("dashboard.json", dashboard_expressions())])
def test_every_selector_finds_something_the_server_exports(where, expressions, exported):
    seen = [found for expression in expressions for found in selectors(expression)]
    assert len(seen) > 10, where
    for name, wanted in seen:
        if name == "up":
            continue
        assert name in exported, f"{where}: {name} is no metric of the server"
        assert any(matches(labels, wanted) for labels in exported[name]), f"{where}: {name}{wanted} finds nothing"


@pytest.mark.parametrize("expression", [rule["expr"] for rule in rules()] + dashboard_expressions())
def test_labels_to_group_by_exist(expression, exported):
    names = {label for name, _ in selectors(expression) for labels in exported.get(name, []) for label in labels}
    for grouping in re.findall(r"\b(?:by|on|without) \(([^)]*)\)", expression):
        for label in grouping.replace(" ", "").split(","):
            assert label in names | NOT_OF_THE_SERVER, f"{label} in {expression}"


def test_kubernetes_names_metrics_that_the_server_exports(exported):
    """For scaling and for the endpoint picker; the labels of the cache's description, too."""
    text = "".join(path.read_text() for path in (ROOT / "deploy/kubernetes").glob("*.yaml"))
    names = set(re.findall(r"\blacuna_\w+", text))
    assert {"lacuna_requests_waiting", "lacuna_requests_running", "lacuna_kv_cache_usage_ratio"} <= names
    assert names <= exported.keys()
    labels = re.findall(r"cache(?:BlockSize|NumBlocks)LabelName: (\w+)", text)
    assert len(labels) == 2 and set(labels) <= exported["lacuna_cache_config_info"][0].keys()


def test_rules_cover_what_an_operator_must_hear_of():
    assert {rule["alert"] for rule in rules()} >= {
        "LacunaDown", "LacunaNotReady", "LacunaRestartLoop", "LacunaEngineStuck", "LacunaStepSlow",
        "LacunaQueueGrowing", "LacunaRejecting", "LacunaFirstTokenSlow", "LacunaKvCacheFull",
        "LacunaFileDescriptorsLow"}


def test_each_alert_is_tested_to_fire_and_not_to_fire():
    fires, quiet = set(), set()
    for test in yaml.safe_load(RULES_TEST.read_text())["tests"]:
        for case in test["alert_rule_test"]:
            (fires if case["exp_alerts"] else quiet).add(case["alertname"])
            instances = set(re.findall(r'instance="([^"]+)"', json.dumps(test["input_series"]).replace('\\"', '"')))
            alarmed = {alert["exp_labels"]["instance"] for alert in case["exp_alerts"]}
            assert instances - alarmed, f"{test['name']}: no instance that stays quiet"
    names = {rule["alert"] for rule in rules()}
    assert fires == names and quiet == names


@needs_promtool
def test_rules_hold_their_unit_tests():
    assert promtool("check", "rules", RULES).returncode == 0
    done = promtool("test", "rules", RULES_TEST)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_scrape_example_is_valid():
    done = promtool("check", "config", "--syntax-only", SCRAPE)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_expressions_of_the_dashboard_are_promql(tmp_path):
    """Grafana's variables filled in, as recording rules, which promtool parses."""
    expressions = [expression for expression in dashboard_expressions() if not expression.startswith("label_values")]
    recorded = [{"record": f"dashboard:{i}", "expr": expression.replace("$__rate_interval", "5m").replace("$", "")}
                for i, expression in enumerate(expressions)]
    path = tmp_path / "dashboard.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    done = promtool("check", "rules", "--lint=none", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_dashboard_shows_what_an_operator_looks_for():
    text = " ".join(dashboard_expressions())
    for name in ("lacuna_http_requests_total", "lacuna_generation_tokens_total", "lacuna_time_to_first_token_seconds",
                 "lacuna_inter_token_latency_seconds", "lacuna_requests_waiting", "lacuna_kv_cache_usage_ratio",
                 "lacuna_prefix_cache_hits_total", "process_resident_memory_bytes", "process_cpu_seconds_total"):
        assert name in text, name


def test_dashboard_panels_have_a_place_and_a_name_of_their_own():
    cells, ids = set(), set()
    for panel in panels():
        assert panel["title"] and panel["id"] not in ids
        ids.add(panel["id"])
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & mine, f"{panel['title']} covers another panel"
        cells |= mine
