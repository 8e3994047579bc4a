# SPDX-License-Identifier: Apache-2.0
"""lacuna inspect: what a file holds, without loading it."""
import pytest

from commands import DATAERR, good, refused
from harness import gemma_path, model_path


@pytest.mark.parametrize("path, words", [(model_path, ["llama", "Q4_1"]), (gemma_path, ["gemma3", "Q4_K"])])
def test_shows_architecture_and_tensor_types(path, words):
    text = good("inspect", path()).decode()
    assert all(word in text for word in words), text
    assert good("inspect", "-m", path()).decode() == text


def test_refuses_what_is_no_model(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_text("This is no model.\n" * 100)
    refused(DATAERR, "inspect", path)
