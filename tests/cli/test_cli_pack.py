# SPDX-License-Identifier: Apache-2.0
"""lacuna pack: the same model, laid out as loading would."""
import os
import pathlib
import shutil

import pytest

from commands import DATAERR, USAGE, good, lacuna, refused
from harness import model_path

QUANT = pathlib.Path(__file__).parents[1] / "golden/quant"
TOKENS = "1,20,30,4,5"


def logits(model, tmp_path, *more):
    out = tmp_path / "logits.f32"
    good("eval", "-m", model, "--tokens", TOKENS, "--logits-out", out, *more)
    return out.read_bytes()


def packed(model, tmp_path):
    out = tmp_path / "packed.gguf"
    assert str(out).encode() in good("pack", "-m", model, "-o", out)
    return out


@pytest.mark.parametrize("model", [model_path, lambda: QUANT / "MIXED_MOE.gguf", lambda: QUANT / "Q4_K_M.gguf",
                                   lambda: QUANT / "BF16.gguf"])
def test_gives_the_same_bits(model, tmp_path):
    original = logits(model(), tmp_path)
    out = packed(model(), tmp_path)
    assert logits(out, tmp_path) == original
    assert logits(out, tmp_path, "--no-mmap") == original
    assert b"packed" in good("inspect", out) and b"packed" not in good("inspect", model())


def test_takes_no_more_room_than_the_model(tmp_path):
    out = packed(model_path(), tmp_path)
    assert out.stat().st_size <= 1.01 * os.stat(model_path()).st_size
    assert os.listdir(tmp_path) == ["packed.gguf"]


def test_says_what_it_cannot_do_and_leaves_nothing(tmp_path):
    model, out = QUANT / "Q4_0.gguf", tmp_path / "out.gguf"
    assert "--out" in refused(USAGE, "pack", "-m", model)
    assert "is the model itself" in lacuna("pack", "-m", model, "-o", model).error
    assert "No such file" in lacuna("pack", "-m", model, "-o", tmp_path / "nowhere" / "x.gguf").error
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model.read_bytes()[:-4096])
    refused(DATAERR, "pack", "-m", cut, "-o", out)
    assert sorted(os.listdir(tmp_path)) == ["cut.gguf"]


@pytest.mark.parametrize("name", ["Q4_0.gguf", "BF16.gguf"])
def test_a_packed_model_is_not_packed_again(name, tmp_path):
    assert "packed already" in refused(DATAERR, "pack", "-m", packed(QUANT / name, tmp_path), "-o", tmp_path / "x")


def test_a_file_beside_the_output_is_not_touched(tmp_path):
    model = tmp_path / "out.gguf.part"
    shutil.copy(QUANT / "Q4_0.gguf", model)
    model.chmod(0o640)
    good("pack", "-m", model, "-o", tmp_path / "out.gguf")
    assert model.read_bytes() == (QUANT / "Q4_0.gguf").read_bytes()
    assert (tmp_path / "out.gguf").stat().st_mode & 0o777 == 0o640


def test_panels_of_another_version_are_refused(tmp_path):
    path = packed(QUANT / "Q4_0.gguf", tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(b"lacuna.panels") + len(b"lacuna.panels") + 4
    data[at] += 1
    path.write_bytes(data)
    assert "another version of lacuna" in refused(DATAERR, "inspect", path)


def test_an_old_file_stays_until_the_new_one_is_complete(tmp_path):
    out = tmp_path / "packed.gguf"
    out.write_text("something that took long to make")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes((QUANT / "Q4_0.gguf").read_bytes()[:-4096])
    assert lacuna("pack", "-m", cut, "-o", out).returncode == DATAERR
    assert out.read_text() == "something that took long to make"
