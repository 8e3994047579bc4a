# SPDX-License-Identifier: Apache-2.0
"""A model file with a fault is refused with a sentence or served, never a crash: sixty ways to damage one."""
import pathlib
import random
import subprocess

import pytest

from harness import SLOWNESS, binary, clean_environment

FIXTURES = pathlib.Path(__file__).parents[1] / "golden"
# Exit statuses of a refusal: bad data, input, memory, I/O (server/exits.h).
REFUSALS = {65, 66, 69, 70, 71, 74}


def evaluate(path):
    done = subprocess.run([binary(), "eval", "-m", path, "--tokens", "1,2,3,4", "--logits-out", "/dev/null",
                           "--threads", "1"], capture_output=True, text=True, timeout=120 * SLOWNESS,
                          env=clean_environment(), errors="replace")
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
    assert done.returncode == 0 or done.returncode in REFUSALS, (done.returncode, done.stderr)
    if done.returncode:
        assert "lacuna: " in done.stderr
    return done.returncode


@pytest.mark.parametrize("cut", range(20))
def test_truncated(cut, tmp_path):
    whole = (FIXTURES / "arch" / "gemma3.gguf").read_bytes()
    damaged = tmp_path / "model.gguf"
    damaged.write_bytes(whole[:len(whole) * cut // 20])
    assert evaluate(damaged) in REFUSALS


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bits(seed, tmp_path):
    choice = random.Random(seed)
    name = choice.choice(["llama", "gemma3", "olmoe", "phi3"])
    data = bytearray((FIXTURES / "arch" / f"{name}.gguf").read_bytes())
    header = data.find(b"output_norm.weight") + 4000  # keys and the tensor table
    for _ in range(choice.choice([1, 1, 3, 20])):
        at = choice.randrange(header)
        data[at] ^= 1 << choice.randrange(8)
    damaged = tmp_path / "model.gguf"
    damaged.write_bytes(data)
    evaluate(damaged)


def test_a_whole_file_is_served():
    assert evaluate(FIXTURES / "arch" / "gemma3.gguf") == 0
