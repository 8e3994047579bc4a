# SPDX-License-Identifier: Apache-2.0
"""Help that teaches, errors that say what would have been right."""
import re

import pytest

from commands import COMMANDS, CONFIG, NOINPUT, USAGE, good, lacuna, refused


def test_help_lists_all_commands():
    text = good("--help").decode()
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", text, re.MULTILINE), name
    assert "EXAMPLE" in text and "EXIT CODES" in text
    assert good("-h") == good("help") == good("--help")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_has_usage_options_example_and_exit_codes(name):
    text = good(name, "--help").decode()
    assert text.startswith(f"Usage: lacuna {name} ")
    assert "-m, --model=FILE" in text
    assert f"lacuna {name}" in text.split("\nEXAMPLE\n")[1].split("\nEXIT CODES\n")[0]
    assert re.search(r"^ +64  ", text.split("\nEXIT CODES\n")[1], re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 120
    assert text.count("(") == text.count(")"), "an option's text is cut off"


def test_help_shows_defaults_and_ranges():
    text = " ".join(good("serve", "--help").decode().split())
    assert "requests waiting (default 64; 1 to 65536)" in text
    assert "LACUNA_SOME_NAME" in text


def test_version():
    assert re.match(rb"lacuna \d+\.\d+\.\d+", good("--version"))


def test_no_command_lists_them():
    done = lacuna()
    assert done.returncode == USAGE
    assert all(name in done.error for name in COMMANDS)


def test_unknown_command_lists_them_and_suggests():
    done = lacuna("sevre")
    assert done.returncode == USAGE
    assert "did you mean 'serve'?" in done.error and "tokenize" in done.error


@pytest.mark.parametrize("name", COMMANDS)
def test_unknown_flag_suggests_the_nearest(name):
    assert "did you mean --model?" in refused(USAGE, name, "--mdoel", "x")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_model_is_needed(name):
    words = {"eval": ["-f", "-"]}.get(name, [])
    assert "--model" in refused(USAGE, name, *words)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_model_is_named(name, tmp_path):
    words = {"eval": ["-f", "-"]}.get(name, [])
    assert "nowhere.gguf" in refused(NOINPUT, name, "-m", tmp_path / "nowhere.gguf", *words)


def test_value_out_of_range_names_flag_value_and_range():
    message = refused(USAGE, "serve", "--max-n", "1000")
    assert "--max-n" in message and "'1000'" in message and "1 to 128" in message


def test_bad_line_of_a_file_is_named(tmp_path):
    path = tmp_path / "lacuna.conf"
    path.write_text("slots = 4\n\nmax-queue = none\n")
    assert f"{path}:3: max-queue" in refused(CONFIG, "serve", "--config", path)


def test_bad_variable_is_named():
    assert "LACUNA_THREADS" in refused(CONFIG, "bench", environment={"LACUNA_THREADS": "many"})


def test_check_config_prints_what_is_in_force(tmp_path):
    path, keys = tmp_path / "lacuna.conf", tmp_path / "keys.txt"
    path.write_text(f"slots = 4\nmax-queue = 5\napi-key-file = {keys}\n")
    text = good("serve", "--config", path, "--max-queue", "6", "--check-config",
                environment={"LACUNA_MAX_N": "7"}).decode()
    lines = text.splitlines()
    assert f"slots = 4  # {path}:1" in lines
    assert "max-queue = 6  # --max-queue" in lines
    assert "max-n = 7  # LACUNA_MAX_N" in lines
    assert "max-body = 16M  # default" in lines
    assert str(keys) not in text
    path.write_text(text)
    again = good("serve", "--config", path, "--check-config").decode()
    values = [line.split("  #")[0] for line in lines if line[0] != "#"]
    assert values == [line.split("  #")[0] for line in again.splitlines() if line[0] != "#"]
