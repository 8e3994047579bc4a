# SPDX-License-Identifier: Apache-2.0
"""`lacuna calibrate`, and what it leaves: operating points that eval, bench and run can be asked for."""
import json
import re
import shutil
import xml.etree.ElementTree

import pytest

from commands import DATAERR, IOERR, NOINPUT, USAGE, good, lacuna, refused
from harness import ROOT

MODEL = ROOT / "tests/golden/arch/llama.gguf"
TEXT = ROOT / "openapi.yaml"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with its calibration beside it."""
    path = tmp_path_factory.mktemp("calibrated") / "model.gguf"
    shutil.copy(MODEL, path)
    said = good("calibrate", "-m", path, "-f", TEXT, seconds=300).decode()
    assert all(name in said for name in ("safe", "balanced", "fast", f"{path}.lacuna")), said
    return str(path)


def test_the_report_has_figures_of_every_point_and_layer(tmp_path):
    model, report = tmp_path / "model.gguf", tmp_path / "figures.svg"
    shutil.copy(MODEL, model)
    good("calibrate", "-m", model, "-f", TEXT, "--report", report, seconds=300)
    svg = xml.etree.ElementTree.parse(report).getroot()
    said = "\n".join(text.text for text in svg.iter("{http://www.w3.org/2000/svg}text"))
    assert all(name in said for name in ("safe:", "balanced:", "fast:", "neurons=0.9", "neurons=0.4"))
    n_layers = 1 + max(int(n) for n in re.findall(r"layer (\d+)", said))
    curves = [line.get("points").split() for line in svg.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(curve) for curve in curves] == [6, 3] + [2 * n_layers] * 6
    width, height = float(svg.get("width")), float(svg.get("height"))
    for x, y in (map(float, point.split(",")) for curve in curves for point in curve):
        assert 0 <= x <= width and 0 <= y <= height
    assert "cannot write" in refused(IOERR, "calibrate", "-m", model, "-f", TEXT, "--report", tmp_path / "none/figures.svg",
                                     seconds=300)


def text_part(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT.read_text()[:3000])
    return str(path)


def test_points_are_measured_side_by_side(model, tmp_path):
    names = ["exact", "safe", "fast", "up=0.7+down=0.5", "neurons=1"]
    answer = json.loads(good("eval", "-m", model, "-f", text_part(tmp_path), "--json", "--quality", ",".join(names)))
    points = {point["name"]: point for point in answer["points"]}
    assert list(points) == names
    for name in ("exact", "neurons=1"):
        assert points[name]["differ"] == 0 and points[name]["kl"] == 0 and points[name]["top1"] == 1
        assert points[name]["nll"] == answer["reference"]["nll"] and points[name]["weights"] == 1
    assert 0 < points["safe"]["kl"] < points["fast"]["kl"] <= points["fast"]["kl_p99"] <= points["fast"]["kl_most"]
    assert 1 > points["safe"]["weights"] > points["fast"]["weights"] > 0
    uniform = points["up=0.7+down=0.5"]
    assert abs(uniform["up"] - 0.7) < 0.1 and abs(uniform["down"] - 0.5) < 0.1


def test_the_share_of_neurons_at_which_perplexity_rises(model, tmp_path):
    answer = json.loads(good("eval", "-m", model, "-f", text_part(tmp_path), "--json", "--ppl-rise", "1,20"))
    points = [(point["down"], point["perplexity"] / answer["reference"]["perplexity"] - 1) for point in answer["points"]]
    assert len(points) == 19
    little, much = answer["ppl_rise"]
    assert (little["percent"], much["percent"]) == (1, 20) and 0 < much["neurons"] <= little["neurons"] <= 1
    for found in little, much:
        bound = found["percent"] / 100
        last = next((i for i, (_, rise) in enumerate(points) if rise > bound), len(points))
        around = [1] + [share for share, _ in points]
        assert around[min(last + 1, 19)] - 1e-6 <= found["neurons"] <= around[last] + 1e-6
    said = good("eval", "-m", model, "-f", text_part(tmp_path), "-q", "safe", "--ppl-rise", "5").decode()
    assert "perplexity rises by 5 % with " in said and "neurons=0.05" in said
    assert "--ppl-rise" in refused(USAGE, "eval", "-m", model, "--tasks", "passkey", "--ppl-rise", "1")


def test_prompts_are_answered_side_by_side(model, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the page\n\nof a model, \"that\"\nwhat it says")
    words = ("eval", "-m", model, "--answer", prompts, "-n", "12", "--quality", "neurons=1,fast")
    answer = json.loads(good(*words, "--json"))
    exact, whole, fast = answer["points"]
    assert answer["n_prompts"] == 3 and [point["name"] for point in answer["points"]] == ["exact", "neurons=1", "fast"]
    assert exact["same_answers"] == whole["same_answers"] == whole["same_tokens"] == 1 and whole["nll_change"] == 0
    assert 0 <= fast["same_answers"] <= 1 and 0 <= fast["same_tokens"] <= 1 and exact["nll"] > 0
    assert [prompt["prompt"] for prompt in answer["prompts"]] == ["the page", 'of a model, "that"', "what it says"]
    for prompt in answer["prompts"]:
        said = {one["point"]: one for one in prompt["answers"]}
        assert said["neurons=1"]["text"] == said["exact"]["text"] and 0 < said["fast"]["tokens"] <= 12
        alone = good("run", "-m", model, prompt["prompt"], "-n", "12", "--quality", "fast").decode()
        assert alone.rstrip("\n") == said["fast"]["text"].rstrip("\n"), "what lacuna run says"
    table = good(*words).decode().splitlines()
    assert [line.split()[0] for line in table[1:4]] == ["exact", "neurons=1", "fast"] and "3 prompts" in table[4]


def test_prompts_that_cannot_be_answered_are_refused(model, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    assert "no prompts" in refused(DATAERR, "eval", "-m", model, "--answer", empty)
    assert "cannot open" in refused(NOINPUT, "eval", "-m", model, "--answer", tmp_path / "none.txt")
    assert "--answer" in refused(USAGE, "eval", "-m", model, "--answer", empty, "-f", empty)


def test_the_table_has_a_line_for_each_point(model, tmp_path):
    lines = good("eval", "-m", model, "-f", text_part(tmp_path), "--quality", "safe", "-q", "fast").decode().splitlines()
    assert lines[0].split()[:2] == ["perplexity", "change"]
    assert [line.split()[0] for line in lines[1:4]] == ["exact", "safe", "fast"]


def test_bench_names_prompts_whole_whatever_the_point(model):
    rows = json.loads(good("bench", "-m", model, "-p", "20", "-n", "4", "-r", "1", "--json", "-q", "fast", "--skip-zeros", "auto"))
    assert [(row["phase"], row["mode"]) for row in rows] == [("prefill", "dense"), ("decode", "dense"), ("prefill", "sparse"),
                                                             ("decode", "fast")]


def test_bench_measures_points_beside_dense(model):
    rows = json.loads(good("bench", "-m", model, "-p", "20", "-n", "20", "-r", "1", "--json", "--quality",
                           "fast,exact,neurons=0.5"))
    assert [(row["phase"], row["mode"]) for row in rows] == [("prefill", "dense"), ("decode", "dense"), ("decode", "fast"),
                                                             ("decode", "neurons=0.5")], "prompts are computed whole"
    _, dense, fast, half = rows
    assert dense["neurons_up"] == dense["neurons_down"] == dense["times_dense"] == 1 and "kl" not in dense
    assert fast["neurons_up"] < 1 and fast["neurons_down"] < 1
    assert fast["kl"] > 0 and 0 < fast["same_top"] < 1, "what the calibration found"
    assert half["neurons_down"] < 1 and "kl" not in half, "nobody knows"
    assert fast["times_dense"] == pytest.approx(fast["tok_s"] / dense["tok_s"], rel=0.01)


def test_run_takes_a_point(model):
    words = ("run", "-m", model, "-n", "40", "the")
    exact, fast = good(*words), good(*words, "--quality", "up=0.2+down=0.2")
    assert exact and fast and exact != fast
    assert good(*words, "--quality", "neurons=1") == exact
    assert good(*words, "--quality", "up=0.2+down=0.2", "--skip-zeros", "always") == fast, "another layout, the same answer"


def test_a_share_of_same_tokens_chooses_the_cheapest_point_that_keeps_it(model):
    words = ("run", "-m", model, "-n", "30", "the", "--quality")
    assert good(*words, "1") == good(*words, "exact")
    assert good(*words, "0") == good(*words, "fast")


def test_what_is_no_point_is_refused_with_what_would_be(model):
    for quality in ("fastest", "up=2", "neurons"):
        assert "neurons=0.5" in refused(USAGE, "run", "-m", model, "the", "--quality", quality)
    assert "lacuna calibrate" in refused(USAGE, "run", "-m", MODEL, "the", "--quality", "neurons=0.5")
    assert "operating point" in refused(USAGE, "run", "-m", model, "the", "--quality", "fast", "--sidecar", "off")


def test_the_calibration_of_another_model_is_refused(model):
    other = ROOT / "tests/golden/arch/gemma3.gguf"
    said = lacuna("run", "-m", other, "the", "--sidecar", f"{model}.lacuna")
    assert said.returncode and "another model" in said.error and "--sidecar off" in said.error


def test_inspect_says_what_was_calibrated(model, tmp_path):
    said = good("inspect", model).decode()
    assert all(f"{name}: 0.0" in said for name in ("safe", "balanced", "fast")), said
    assert "safe" not in good("inspect", MODEL).decode()
    broken = tmp_path / "model.gguf"
    shutil.copy(MODEL, broken)
    (tmp_path / "model.gguf.lacuna").write_bytes(b"GGUF")
    assert "model.gguf.lacuna" in good("inspect", broken).decode()


def test_nor_does_it_serve_a_model_of_the_same_shape_with_other_weights(model, tmp_path):
    data = bytearray(MODEL.read_bytes())
    for i in range(len(data) // 8 * 4, len(data), 4):
        data[i] ^= 1  # the last bit of each number
    other = tmp_path / "other.gguf"
    other.write_bytes(data)
    said = lacuna("run", "-m", other, "the", "--sidecar", f"{model}.lacuna")
    assert said.returncode and "another model" in said.error, said.error


def test_what_cannot_be_calibrated_is_refused(tmp_path):
    assert "--file" in refused(USAGE, "calibrate", "-m", MODEL)
    assert "no/such" in refused(NOINPUT, "calibrate", "-m", MODEL, "-f", "no/such")
    short = tmp_path / "short.txt"
    short.write_text("a few words")
    out = tmp_path / "out.lacuna"
    assert "4096" in refused(DATAERR, "calibrate", "-m", MODEL, "-f", short, "-o", out)
    assert not out.exists()
    mixture = ROOT / "tests/golden/arch/qwen3moe.gguf"
    assert "mixtures" in lacuna("calibrate", "-m", mixture, "-f", TEXT, "-o", out).error
    folder = tmp_path / "no" / "such.lacuna"
    assert "such.lacuna" in lacuna("calibrate", "-m", MODEL, "-f", TEXT, "-o", folder).error


def test_tasks_say_what_is_still_found():
    words = ("eval", "-m", ROOT / "tests/golden/arch/smollm3.gguf", "--tasks", "passkey,pairs", "--lengths", "600,900",
             "--samples", "3", "--choose-pages", "-q", "tokens=256")
    rows = json.loads(good(*words, "--json"))
    assert [(row["task"], row["tokens"], row["point"]) for row in rows] == [
        (task, n, point) for task in ("passkey", "pairs") for n in (600, 900) for point in ("exact", "tokens=256")]
    assert all(row["samples"] == 3 and row["logprob"] < 0 and 0 <= row["solved"] <= 1 for row in rows)
    assert all((row["logprob_margin"] > 0) == (row["point"] != "exact") for row in rows)
    lines = good(*words).decode().splitlines()
    assert len(lines) == 1 + len(rows) and lines[0].split()[:2] == ["task", "tokens"]
    assert "passkey, needle" in refused(USAGE, "eval", "-m", MODEL, "--tasks", "passkeys")
    assert "one of" in refused(USAGE, "eval", "-m", MODEL, "--tasks", "passkey", "-f", TEXT)
