# SPDX-License-Identifier: Apache-2.0
"""lacuna eval: perplexity, and logits as raw floats."""
import array
import json
import math

import pytest

from commands import DATAERR, NOINPUT, USAGE, good, refused
from harness import ROOT, model_path

TEXT = b"The lighthouse keeper wrote in his log every evening, whether or not anything had happened.\n" * 3
TOKENS = [504, 3575, 282, 4649, 314, 7042, 30, 657, 314, 1343]
N_VOCAB = 49152


def evaluate(*words, stdin=b""):
    return json.loads(good("eval", "-m", model_path(), "--json", *words, stdin=stdin, seconds=300))


def logits(tmp_path, *words, tokens=TOKENS):
    path = tmp_path / "logits.f32"
    answer = evaluate("--tokens", ",".join(map(str, tokens)), "--logits-out", path, *words)
    return path.read_bytes(), answer


def test_perplexity_of_a_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT)
    answer = evaluate("-f", path)
    assert answer["tokens"] == answer["predicted"] + 1 > 40
    assert math.isclose(answer["perplexity"], math.exp(answer["nll"] / answer["predicted"]), rel_tol=1e-6)
    assert 1 < answer["perplexity"] < 60  # a plain sentence, then repeated
    assert evaluate("-f", "-", stdin=TEXT)["nll"] == answer["nll"]
    assert f"perplexity {answer['perplexity']:.4f}" in good("eval", "-m", model_path(), "-f", path).decode()


def test_windows_start_anew():
    whole, short = evaluate("-f", "-", stdin=TEXT), evaluate("-f", "-", "--ctx", "16", stdin=TEXT)
    assert short["window"] == 16
    assert short["predicted"] < whole["predicted"]
    assert short["perplexity"] > whole["perplexity"]  # it cannot see that the text repeats


def test_keys_and_values_of_8_bits_are_measured_against_exact_ones(tmp_path):
    text = TEXT * 4  # a few whole pages
    exact, answer = evaluate("-f", "-", stdin=text), evaluate("-f", "-", "--kv-type", "q8", stdin=text)
    assert (exact["kv_type"], answer["kv_type"], answer["reference"]["kv_type"]) == ("f16", "q8", "f16")
    assert "reference" not in exact
    assert answer["reference"]["nll"] == exact["nll"] != answer["nll"]
    assert answer["reference"]["differ"] == answer["tokens"] - 64  # the first page is read as it is
    assert 0 < answer["reference"]["kl"] <= answer["reference"]["kl_most"]
    assert answer["reference"]["kl"] < 0.02
    assert 0.8 < answer["reference"]["top1"] <= 1
    assert abs(answer["perplexity"] / exact["perplexity"] - 1) < 0.02
    path = tmp_path / "text.txt"
    path.write_bytes(text)
    assert "KL divergence" in good("eval", "-m", model_path(), "-f", path, "--kv-type", "q8").decode()
    short = ["eval", "-m", model_path(), "--tokens", "504,3575", "--kv-type", "q8"]
    assert "no position differs" in good(*short).decode()
    assert "q8" not in good(*short, "--logits-out", tmp_path / "logits.f32").decode()


MIXTURE = str(ROOT / "tests/golden/arch/smallthinker.gguf")  # 2 of 4 experts per token
MIXTURE_TOKENS = "5,6,7,8,9,10,11,12,13,14,15,16"


def mixture(*words):
    return json.loads(good("eval", "-m", MIXTURE, "--json", "--tokens", MIXTURE_TOKENS, *words))


def test_fewer_experts_are_measured_against_all():
    exact, answer = mixture(), mixture("--experts-used", "1")
    assert (answer["experts_used"], answer["reference"]["experts_used"]) == (1, 2)
    assert answer["reference"]["nll"] == exact["nll"] != answer["nll"]
    assert answer["reference"]["differ"] == 12 and answer["reference"]["kl"] > 0
    text = good("eval", "-m", MIXTURE, "--tokens", MIXTURE_TOKENS, "--experts-used", "1").decode()
    assert "1 of 2 experts per token, against exact" in text


def test_experts_that_give_way_are_measured_against_the_true_ones():
    answer = mixture("--experts-kept", "1", "--expert-cache", "50%")
    assert answer["chunk"] == 1 and (answer["experts_used"], answer["experts_kept"]) == (2, 1)
    assert 0 < answer["reference"]["differ"] <= 12 and answer["reference"]["kl"] > 0
    assert "reference" not in mixture("--experts-kept", "2", "--expert-cache", "50%"), "all are kept"


def test_more_experts_than_a_token_has_are_refused_with_their_number():
    assert "the model has 2" in refused(USAGE, "eval", "-m", MIXTURE, "--tokens", "1,2", "--experts-used", "3")
    assert "a token has 1" in refused(USAGE, "eval", "-m", MIXTURE, "--tokens", "1,2", "--experts-used", "1",
                                      "--experts-kept", "2")
    assert "no mixture" in refused(USAGE, "eval", "-m", model_path(), "--tokens", "1,2", "--experts-used", "1")


def test_logits_are_one_row_per_token(tmp_path):
    data, answer = logits(tmp_path)
    assert len(data) == 4 * N_VOCAB * len(TOKENS)
    rows = array.array("f", data)
    assert all(map(math.isfinite, rows))
    nll = 0.0
    for i, following in enumerate(TOKENS[1:]):
        row = rows[i * N_VOCAB:(i + 1) * N_VOCAB]
        most = max(row)
        nll += most + math.log(math.fsum(math.exp(x - most) for x in row)) - row[following]
    assert answer["predicted"] == len(TOKENS) - 1
    assert math.isclose(nll, answer["nll"], rel_tol=1e-5)


def test_neither_chunk_nor_threads_nor_company_change_a_bit(tmp_path):
    first, _ = logits(tmp_path, "--threads", "1")
    for words in (["--threads", "2", "--chunk", "1"], ["--chunk", "3"], ["--chunk", "100"]):
        assert logits(tmp_path, *words)[0] == first, words
    shorter, _ = logits(tmp_path, tokens=TOKENS[:4])
    assert shorter == first[:len(shorter)]


def test_logits_to_standard_output():
    out = good("eval", "-m", model_path(), "--tokens", "504,3575", "--logits-out", "-")
    assert len(out) == 4 * N_VOCAB * 2


def test_one_token_predicts_nothing():
    answer = evaluate("--tokens", "504")
    assert (answer["predicted"], answer["perplexity"]) == (0, None)


@pytest.mark.parametrize("words", [[], ["-f", "x", "--tokens", "1"]])
def test_wants_either_a_text_or_tokens(words):
    assert "--tokens" in refused(USAGE, "eval", "-m", model_path(), *words)


def test_refuses_tokens_that_are_none():
    assert "49152" in refused(DATAERR, "eval", "-m", model_path(), "--tokens", "1,49152")
    assert "'-1'" in refused(USAGE, "eval", "-m", model_path(), "--tokens", "-1")


def test_refuses_more_tokens_than_the_context():
    assert "--ctx" in refused(DATAERR, "eval", "-m", model_path(), "--ctx", "4", "--tokens", "1,2,3,4,5")


def test_missing_and_empty_texts(tmp_path):
    assert "nowhere.txt" in refused(NOINPUT, "eval", "-m", model_path(), "-f", tmp_path / "nowhere.txt")
    assert "no tokens" in refused(DATAERR, "eval", "-m", model_path(), "-f", "-")
