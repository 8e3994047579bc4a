# SPDX-License-Identifier: Apache-2.0
"""deploy/kubernetes/: valid by Kubernetes' own schemas, and in step with the program."""
import re
import subprocess

import pytest
import yaml

from harness import ROOT, binary, clean_environment

FOLDER = ROOT / "deploy/kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
OPENAPI = yaml.safe_load((ROOT / "openapi.yaml").read_text())
KINDS_OF_OTHERS = {"PodMonitor", "InferencePool"}  # schemas of their own


def documents():
    return [document for path in FILES for document in yaml.safe_load_all(path.read_text())]


def the(kind):
    found = [document for document in documents() if document["kind"] == kind]
    assert len(found) == 1, f"{len(found)} of kind {kind}"
    return found[0]


def pod():
    return the("Deployment")["spec"]["template"]["spec"]


def container():
    (only,) = pod()["containers"]
    return only


def environment():
    return {item["name"]: item["value"] for item in container()["env"]}


def config():
    """The options in force, as the program reads the Deployment's environment."""
    done = subprocess.run([binary(), *container()["args"], "--check-config"], capture_output=True, text=True,
                          timeout=60, env={**clean_environment(), **environment()})
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^([\w-]+) = (.*?)  # ", done.stdout, re.MULTILINE)), done.stdout


def test_resources_are_valid_by_kubernetes_schemas():
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed (111 MB)")
    checked = 0
    for document in documents():
        if document["kind"] not in KINDS_OF_OTHERS:
            validate.validate(document, "1.29", strict=True)
            checked += 1
    assert checked >= 6


def test_the_environment_is_made_of_options():
    _, said = config()
    for name in environment():
        assert f"({name})" in said or f"# {name}" in said, f"{name} is no option"


def test_probes_ask_what_the_server_answers_without_a_key():
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    paths = {}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = container()[probe]["httpGet"]
        paths[probe] = get["path"]
        assert ports[get["port"]] == 8080
        assert OPENAPI["paths"][get["path"]]["get"].get("security") == [], f"{get['path']} asks for a key"
    assert paths == {"startupProbe": "/ready", "livenessProbe": "/live", "readinessProbe": "/ready"}


def test_starting_and_stopping_get_the_time_they_need():
    startup, options = container()["startupProbe"], config()[0]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 15 * 60
    draining = sum(int(options[name].removesuffix("s")) for name in ("drain-delay", "drain-timeout"))
    assert pod()["terminationGracePeriodSeconds"] >= draining + 10
    readiness = container()["readinessProbe"]
    noticed = readiness["periodSeconds"] * readiness["failureThreshold"] + readiness["timeoutSeconds"]
    assert int(options["drain-delay"].removesuffix("s")) > noticed


def test_ports_are_those_the_program_listens_on():
    options = config()[0]
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert options["listen"].endswith(f":{ports['http']}") and options["metrics-listen"].endswith(f":{ports['metrics']}")
    assert the("Service")["spec"]["ports"][0]["targetPort"] in ports
    assert the("PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"] in ports
    assert the("InferencePool")["spec"]["targetPorts"] == [{"number": ports["http"]}]


def test_everything_selects_the_same_pods():
    labels = the("Deployment")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [the(kind)["spec"]["selector"] for kind in
                 ("Deployment", "Service", "PodDisruptionBudget", "PodMonitor", "InferencePool")]
    selectors.append(the("NetworkPolicy")["spec"]["podSelector"])
    for selector in selectors:
        wanted = selector.get("matchLabels", selector)
        assert wanted and wanted.items() <= labels
    target = the("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", the("Deployment")["metadata"]["name"])


def test_the_pod_may_do_nothing_it_does_not_need():
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod()["automountServiceAccountToken"] is False
    own = container()["securityContext"]
    assert own == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert all(mount["readOnly"] for mount in container()["volumeMounts"])
    assert container()["resources"]["requests"] == container()["resources"]["limits"]


def test_the_user_is_the_images():
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    context = pod()["securityContext"]
    assert [context["runAsUser"], context["runAsGroup"]] == [int(user[1]), int(user[2])]


def test_the_picker_knows_pods_by_their_label():
    settings = yaml.safe_load(the("ConfigMap")["data"]["config.yaml"])
    (extractor,) = [plugin for plugin in settings["plugins"] if plugin["type"] == "core-metrics-extractor"]
    labels = the("Deployment")["spec"]["template"]["metadata"]["labels"]
    names = [engine["name"] for engine in extractor["parameters"]["engineConfigs"]]
    assert labels[extractor["parameters"]["engineLabelKey"]] in names
    plugins = {plugin.get("name", plugin["type"]) for plugin in settings["plugins"]}
    assert {use["pluginRef"] for profile in settings["schedulingProfiles"] for use in profile["plugins"]} <= plugins
