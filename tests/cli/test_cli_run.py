# SPDX-License-Identifier: Apache-2.0
"""lacuna run: text on stdout, figures on stderr."""
import re
import signal
import subprocess

from commands import DATAERR, INTERRUPTED, good, lacuna, refused
from harness import SLOWNESS, binary, clean_environment, model_path

PROMPT = "The capital of France is"


def run(*words, **how):
    return good("run", "-m", model_path(), *words, **how).decode()


def test_completes_a_prompt():
    done = lacuna("run", "-m", model_path(), PROMPT, "-n", "8")
    assert done.returncode == 0, done.error
    assert done.stdout.decode().startswith(" Paris.")
    assert re.search(r"prompt 5 tokens, .*tok/s; first token after \d+ ms; generated 8 tokens, .*\(length\)",
                     done.error)


def test_reads_the_prompt_from_standard_input():
    text = run(PROMPT, "-n", "8")
    assert run("-", "-n", "8", stdin=PROMPT.encode()) == text
    assert run("-n", "8", stdin=PROMPT.encode()) == text


def test_same_seed_same_text():
    words = [PROMPT, "-n", "12", "--temperature", "1.5"]
    texts = [run(*words, "--seed", seed) for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1
    assert run(*words, "--top-k", "1") == run(PROMPT, "-n", "12")
    assert run(*words, "--top-p", "0") == run(*words, "--min-p", "1") == run(PROMPT, "-n", "12")


def test_special_reads_and_shows_control_tokens():
    chat = "<|im_start|>user\nSay hi<|im_end|>\n<|im_start|>assistant\n"
    plain = lacuna("run", "-m", model_path(), chat, "-n", "1")
    special = lacuna("run", "-m", model_path(), chat, "-n", "1", "--special")
    count = [int(re.search(r"prompt (\d+) tokens", done.error)[1]) for done in (plain, special)]
    assert count[1] < count[0]


def test_stops_at_the_end_of_the_context():
    done = lacuna("run", "-m", model_path(), "1, 2, 3, 4, 5,", "-n", "1000", "--ctx", "24")
    assert done.returncode == 0
    assert "(length)" in done.error


def test_refuses_prompts_that_cannot_be():
    assert "empty" in refused(DATAERR, "run", "-m", model_path(), "")
    assert "--ctx" in refused(DATAERR, "run", "-m", model_path(), "--ctx", "4", PROMPT)


def test_interrupt_ends_the_text_with_its_figures():
    process = subprocess.Popen([binary(), "run", "-m", model_path(), "1, 2, 3, 4,", "-n", "100000"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                               env=clean_environment())
    try:
        assert process.stdout.read(4)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30 * SLOWNESS)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == INTERRUPTED
    assert b"(stopped)" in error
