# SPDX-License-Identifier: Apache-2.0
"""deploy/lacuna.service, lacuna.socket and lacuna.conf: valid, as tight as promised, and in step with
the program."""
import pathlib
import re
import shutil
import subprocess

import pytest

from harness import ROOT, Certificate, binary, clean_environment

UNIT = ROOT / "deploy/lacuna.service"
SOCKET = ROOT / "deploy/lacuna.socket"
CONFIG = ROOT / "deploy/lacuna.conf"
MOST_EXPOSURE = 1.5

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")


def run(*words):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=60,
                          env=clean_environment())
    return done.returncode, done.stdout + done.stderr


def settings(path):
    """Name -> all its values."""
    found = {}
    for line in path.read_text().splitlines():
        match = re.match(r"([A-Z]\w*)=(.*)", line)
        if match:
            found.setdefault(match[1], []).append(match[2])
    return found


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|min)", text).groups()
    return int(number) * {"s": 1, "min": 60}[unit]


def defaults():
    status, text = run(binary(), "serve", "--check-config")
    assert status == 0, text
    return dict(re.findall(r"^([\w-]+) = (.*?)  # default$", text, re.MULTILINE))


@needs_systemd
def test_units_are_valid(tmp_path):
    for unit in (UNIT, SOCKET):
        text = unit.read_text().replace("/usr/bin/lacuna", binary())
        (tmp_path / unit.name).write_text(text)
    status, said = run("systemd-analyze", "verify", "--man=no", tmp_path / UNIT.name, tmp_path / SOCKET.name)
    assert (status, said) == (0, "")


@needs_systemd
def test_the_service_is_as_closed_as_promised():
    status, said = run("systemd-analyze", "security", "--offline=true", "--no-pager", UNIT)
    exposure = float(re.search(r"Overall exposure level for lacuna.service: ([\d.]+)", said)[1])
    assert status == 0 and exposure <= MOST_EXPOSURE, said


@needs_systemd
def test_the_service_may_use_io_uring_and_pin_to_numa_nodes():
    """What SystemCallFilter lets through, by systemd's own lists."""
    def members(name):
        _, text = run("systemd-analyze", "syscall-filter", "--no-pager", name)
        found = set()
        for word in re.findall(r"^    (@?[\w-]+)$", text, re.MULTILINE):
            found |= members(word) if word.startswith("@") else {word}
        assert found, text
        return found

    allowed = set()
    for value in settings(UNIT)["SystemCallFilter"]:
        names = set().union(*(members(word) for word in value.lstrip("~").split()))
        allowed = allowed - names if value.startswith("~") else allowed | names
    assert {"io_uring_setup", "io_uring_enter", "io_uring_register", "mbind", "sched_setaffinity"} <= allowed
    assert not {"mount", "ptrace", "kexec_load", "setuid", "add_key", "init_module"} & allowed


def test_stopping_gets_more_time_than_draining_takes():
    unit, default = settings(UNIT), defaults()
    draining = seconds(default["drain-delay"]) + seconds(default["drain-timeout"])
    assert seconds(unit["TimeoutStopSec"][0]) > draining


def test_statuses_that_are_not_restarted_are_the_programs():
    _, help_text = run(binary(), "serve", "--help")
    known = set(re.findall(r"^ +(\d+)  ", help_text.split("\nEXIT CODES\n")[1], re.MULTILINE))
    given = set(settings(UNIT)["RestartPreventExitStatus"][0].split())
    assert given <= known
    assert "70" not in given, "an engine that stood still is started again"


def test_options_of_the_unit_are_the_programs(tmp_path):
    (tmp_path / "keys").write_text("a:b\n")
    command = settings(UNIT)["ExecStart"][0].split()
    command[0] = binary()
    command = [word.replace("/etc/lacuna", str(ROOT / "deploy")).replace("${RUNTIME_DIRECTORY}", str(tmp_path))
               for word in command]
    status, said = run(*command, "--check-config")
    assert status == 0, said
    assert "api-key-file is set, not shown (--api-key-file)" in said


def test_every_line_of_the_example_configuration_is_valid(tmp_path):
    """Those that are commented out, too: they are what people will switch on."""
    lines = re.sub(r"^#(?=[a-z-]+ = )", "", CONFIG.read_text(), flags=re.MULTILINE)
    keys = re.findall(r"^([a-z-]+) = ", lines, re.MULTILINE)
    assert len(keys) > 10 and len(keys) == len(set(keys))
    pair = Certificate(tmp_path, options=("-newkey", "ed25519"))  # these files are read by the check
    lines = lines.replace("/etc/lacuna/tls/cert.pem", str(pair.cert)).replace("/etc/lacuna/tls/key.pem", str(pair.key))
    path = tmp_path / "lacuna.conf"
    path.write_text(lines)
    status, said = run(binary(), "serve", "--config", path, "--check-config")
    assert status == 0, said
    for key in keys:
        assert re.search(rf"^{key} = .*  # {re.escape(str(path))}:\d+$", said, re.MULTILINE), key


def test_the_example_configuration_as_it_comes_changes_nothing():
    status, said = run(binary(), "serve", "--config", CONFIG, "--check-config")
    assert status == 0 and f"{CONFIG}:" not in said, said


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local"])
def test_installing_puts_everything_where_the_unit_looks(prefix, tmp_path):
    build = pathlib.Path(binary()).parent
    if not (build / "cmake_install.cmake").exists():
        pytest.skip("the program does not lie in a build folder")
    done = subprocess.run(["cmake", "--install", build, "--prefix", prefix], capture_output=True, text=True,
                          env={**clean_environment(), "DESTDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    unit = tmp_path / prefix.lstrip("/") / "lib/systemd/system/lacuna.service"
    program = settings(unit)["ExecStart"][0].split()[0]
    assert program == f"{prefix}/bin/lacuna"
    assert (tmp_path / program.lstrip("/")).stat().st_mode & 0o111
    assert (unit.parent / "lacuna.socket").exists()
    assert not (tmp_path / "etc").exists(), "only the package owns files under /etc"
    pages = tmp_path / prefix.lstrip("/") / "share/man/man1"
    if shutil.which("help2man"):
        page = (pages / "lacuna-serve.1").read_text()
        assert ".TH LACUNA-SERVE " in page and r"\-\-kv\-bytes" in page
