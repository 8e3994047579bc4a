# SPDX-License-Identifier: Apache-2.0
"""lacuna bench: shapes of its output; the figures are the machine's business."""
import json
import os
import statistics

import pytest

import gguf_edit
from commands import USAGE, lacuna, refused
from harness import ROOT, model_path

KEYS = {"phase", "mode", "batch", "prompt", "context", "tok_s", "ms"}


def bench(*words):
    done = lacuna("bench", "-m", model_path(), "--threads", "2", *words, seconds=300)
    assert done.returncode == 0, done.error
    return done


def test_json_has_a_row_for_each_combination():
    rows = json.loads(bench("-p", "16,40", "-n", "3", "-b", "1,3", "-c", "0,24", "-r", "2", "--json").stdout)
    assert all(set(row) == KEYS and row["mode"] == "dense" for row in rows)
    shapes = [(row["phase"], row["batch"], row["prompt"], row["context"]) for row in rows]
    assert shapes == [("prefill", 1, 16, 0), ("prefill", 1, 16, 24), ("prefill", 1, 40, 0), ("prefill", 1, 40, 24),
                      ("decode", 1, 0, 0), ("decode", 3, 0, 0), ("decode", 1, 0, 24), ("decode", 3, 0, 24)]
    for row in rows:
        assert row["tok_s"] > 0 and row["ms"] > 0
        tokens = row["prompt"] if row["phase"] == "prefill" else row["batch"]
        assert abs(row["tok_s"] * row["ms"] / 1e3 / tokens - 1) < 0.01


def test_table_is_aligned():
    lines = bench("-p", "8", "-n", "2", "-r", "1").stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["phase", "prefill", "decode"]
    assert len(set(map(len, lines))) == 1


def test_zero_leaves_a_phase_out():
    rows = json.loads(bench("-p", "0", "-n", "2", "-r", "1", "--json").stdout)
    assert [row["phase"] for row in rows] == ["decode"]


def test_what_does_not_fit_is_skipped_with_a_note():
    done = bench("-p", "8", "-n", "2", "-c", "0,4000", "-r", "1", "--ctx", "512", "--json")
    assert [row["context"] for row in json.loads(done.stdout)] == [0, 0]
    assert done.error.count("skipped") == 2 and "--ctx" in done.error


def test_too_few_pages_are_a_note():
    # 22.5 KiB of keys and values per token: room for some 700 tokens.
    done = bench("-p", "0", "-n", "2", "-b", "1,8", "-c", "256", "-r", "2", "--ctx", "512", "--kv-bytes", "16M",
                 "--json")
    assert [row["batch"] for row in json.loads(done.stdout)] == [1]
    assert "skipped" in done.error and "--kv-bytes" in done.error


@pytest.mark.parametrize("options", [("-p", "8", "-n", "2", "-c", "4000", "--ctx", "512"), ("-p", "0", "-n", "0")])
def test_nothing_measured_is_a_failure(options):
    done = lacuna("bench", "-m", model_path(), *options, "--json")
    assert done.returncode == USAGE and done.stdout == b""
    assert "nothing was measured" in done.error.splitlines()[-1]


def test_bad_lists_are_refused():
    assert "'1,,2'" in refused(USAGE, "bench", "-m", model_path(), "-b", "1,,2")
    assert "'0'" in refused(USAGE, "bench", "-m", model_path(), "-b", "0")


def needs_direct_io(path):
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("the model lies where there is no direct I/O")


@pytest.mark.parametrize("how", ["auto", "pread"])
def test_disk_speeds_come_before_the_shapes(how):
    needs_direct_io(model_path())
    rows = json.loads(bench("--disk", "--io", how, "-p", "8", "-n", "0", "-r", "1", "--json").stdout)
    *disk, last = rows
    assert last["phase"] == "prefill" and {row["phase"] for row in disk} == {"disk"}
    patterns = {(row["order"], row["piece_bytes"], row["in_flight"]) for row in disk}
    assert len(patterns) == len(disk) and ("in order", 1 << 20, 16) in patterns
    # Little's law.  Where the disk stalls a row's median latency is far from its mean, but not of most rows, nor as far
    # as with a wrong unit.
    of_law = [row["bytes_s"] * row["ms"] / 1e3 / row["piece_bytes"] / row["in_flight"] for row in disk]
    assert all(1 / 100 < share < 100 for share in of_law), disk
    assert 1 / 4 < statistics.median(of_law) < 4, disk


def test_the_page_cache_is_no_disk():
    assert "page cache" in refused(USAGE, "bench", "-m", model_path(), "--disk", "-p", "0", "-n", "0", "--io", "mmap")


def test_the_disk_alone_is_enough():
    needs_direct_io(model_path())
    lines = bench("--disk", "-p", "0", "-n", "0").stdout.decode().splitlines()
    assert lines[0].split()[0] == "disk" and not any(line.startswith("phase") for line in lines)


def test_a_file_too_small_for_its_disk_is_named_with_the_limit(tmp_path):
    small = tmp_path / "small.gguf"
    small.write_bytes(b"GGUF" + bytes(1 << 20))
    needs_direct_io(small)
    done = lacuna("bench", "-m", small, "--disk")
    assert done.returncode != 0 and "small.gguf" in done.error and str(16 << 20) in done.error


def test_several_sizes_of_the_expert_cache_are_measured_one_after_the_other():
    model = str(ROOT / "tests/golden/arch/smallthinker.gguf")
    done = lacuna("bench", "-m", model, "-p", "16", "-n", "8", "-r", "2", "--temperature", "1", "--expert-cache",
                  "100%,50%,24576", "--json", seconds=300)
    assert done.returncode == 0, done.error
    rows = json.loads(done.stdout)
    assert [row["phase"] for row in rows] == ["prefill", "decode"] * 3
    assert [row["experts"]["share"] for row in rows] == [1, 1, 0.5, 0.5, 0.1, 0.1]
    for row in rows:
        experts = row["experts"]
        assert (experts["read_bytes"] == 0) == (experts["share"] == 1)
        assert 0 <= experts["hit_rate"] <= 1 and experts["tokens"] > 0
        if experts["share"] < 1:
            assert 0 <= experts["best_fixed_hit_rate"] <= experts["best_hit_rate"] <= 1
    table = lacuna("bench", "-m", model, "-p", "0", "-n", "8", "-r", "1", "--expert-cache", "100%,50%", seconds=300)
    assert "hits" in table.stdout.decode().splitlines()[0] and " 50.0%" in table.stdout.decode()


@pytest.mark.parametrize("name, how", [("arcee", "always"), ("arcee", "auto"), ("smallthinker", "always")])
def test_neurons_that_are_zero_are_skipped_and_counted(name, how, tmp_path):
    model = gguf_edit.with_q8_0(ROOT / f"tests/golden/arch/{name}.gguf", tmp_path / "q8_0.gguf")
    done = lacuna("bench", "-m", model, "-p", "20", "-n", "4", "-r", "1", "--skip-zeros", how, "--json")
    assert done.returncode == 0, done.error
    rows = json.loads(done.stdout)
    assert [(row["phase"], row["mode"]) for row in rows] == [("prefill", "dense"), ("decode", "dense"),
                                                             ("prefill", "sparse"), ("decode", "sparse")]
    for row in rows[:2]:
        assert (row["neurons_up"], row["neurons_down"], row["times_dense"]) == (1, 1, 1)
    for row in rows[2:]:
        assert 0.2 < row["neurons_down"] < 0.8, row
        assert row["times_dense"] > 0 and "kl" not in row
        assert ("products_skipping" in row) == (how == "auto")
        if name == "arcee":
            assert row["neurons_up"] == 1, "only up itself says which are zero"
        else:
            assert row["neurons_down"] <= row["neurons_up"] < 0.8, row


def test_without_relu_no_neuron_is_skipped_which_is_said():
    done = bench("-p", "8", "-n", "2", "-r", "1", "--skip-zeros", "always", "--json")
    assert "no ReLU" in done.error
    assert [(row["neurons_up"], row["neurons_down"]) for row in json.loads(done.stdout)] == [(1, 1)] * 4


def test_an_unknown_operating_point_is_refused():
    assert "--quality" in refused(USAGE, "bench", "-m", model_path(), "--quality", "exact,fastest")
