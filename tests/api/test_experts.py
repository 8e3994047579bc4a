# SPDX-License-Identifier: Apache-2.0
"""A mixture whose experts are read when tokens choose them: the same answers, to many at once; and what goes wrong."""
import concurrent.futures
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from harness import ROOT, SANITIZED, until

FIXTURE = ROOT / "tests/golden/arch/smallthinker.gguf"
LEAST = "24576"  # bytes of two of its experts; it has 5 layers of 4


def body(i):
    return {"prompt": [5 + i, 6, 7 * i], "max_tokens": 24, "temperature": 0.7 * (i % 2), "seed": i, "ignore_eos": True,
            "return_token_ids": True, "cache_prompt": False}


def complete(client, i):
    answer = client.post("/v1/completions", body(i))
    assert answer.status_code == 200, answer.text
    return answer.json()


def token_ids(client, i):
    return complete(client, i)["choices"][0]["token_ids"]


def usage(client, i):
    return complete(client, i)["usage"]


def together(client, n):
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        return list(pool.map(lambda i: token_ids(client, i), range(n)))


def test_answers_are_those_of_a_model_in_memory(start):
    resident = start(model=str(FIXTURE))
    expected = [token_ids(resident, i) for i in range(8)]
    assert resident.metric("lacuna_expert_cache_slots") == resident.metric("lacuna_expert_read_bytes_total") == 0
    for options in (("--io", "uring"), ("--io", "pread"), ("--io", "mmap"), ("--no-mmap",)):
        client = start("--expert-cache", LEAST, "--expert-heat", "off", *options, model=str(FIXTURE))
        assert [token_ids(client, i) for i in range(8)] == expected
        assert together(client, 8) == expected
        assert client.metric("lacuna_expert_cache_slots") == 2
        assert client.metric("lacuna_expert_cache_misses_total") > 100
        assert client.metric("lacuna_expert_read_bytes_total") > 100 * int(LEAST) / 2


def test_without_io_uring_they_are_read_with_pread(start):
    """As in a container whose seccomp profile forbids it."""
    expected = [token_ids(start(model=str(FIXTURE)), i) for i in range(2)]
    client = start("--expert-cache", LEAST, "--expert-heat", "off", model=str(FIXTURE),
                   launcher=(sys.executable, str(pathlib.Path(__file__).parent / "without_io_uring.py")))
    assert [token_ids(client, i) for i in range(2)] == expected
    log = client.server.log()
    assert "io_uring is not available" in log and "Operation not permitted" in log
    assert '"expert_io":"pread"' in log


@pytest.mark.parametrize("io", ["auto", "mmap"])
def test_a_file_that_became_shorter_fails_requests_until_it_is_whole_again(start, tmp_path, io):
    """Nothing stays mapped of it; the server lives on."""
    model = tmp_path / "model.gguf"
    shutil.copy(FIXTURE, model)
    client = start("--expert-cache", LEAST, "--no-mmap", "--io", io, model=str(model))
    expected = token_ids(client, 1)
    whole = model.read_bytes()
    with open(model, "r+b") as file:
        file.truncate(len(whole) // 2)
    answer = client.post("/v1/completions", body(1))
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "storage_error"
    assert client.get("/health").status_code == 200
    assert "could not be read" in client.server.log()
    with open(model, "r+b") as file:
        file.write(whole)
    assert token_ids(client, 1) == expected
    until(lambda: client.metric("lacuna_requests_running") == 0, 5, "all ended")


def test_experts_that_give_way_are_said_and_counted(start):
    exact = start("--expert-cache", "50%", "--expert-heat", "off", model=str(FIXTURE))
    assert "lacuna" not in usage(exact, 1)
    client = start("--expert-cache", "50%", "--expert-heat", "off", "--experts-kept", "1", model=str(FIXTURE))
    warm_up = client.metric("lacuna_expert_replaced_total")
    said = [usage(client, i)["lacuna"]["experts"] for i in range(4)]
    assert all((one["used"], one["of"], one["kept"]) == (2, 2, 1) for one in said)
    assert 0 < sum(one["replaced"] for one in said) <= client.metric("lacuna_expert_replaced_total") - warm_up
    whole = start("--experts-kept", "1", model=str(FIXTURE))
    assert [token_ids(whole, i) for i in range(4)] == [token_ids(exact, i) for i in range(4)], "none is absent"
    assert usage(whole, 1)["lacuna"]["experts"]["replaced"] == 0


def test_fewer_experts_are_said_and_give_everybody_the_same_answer(start):
    exact = start(model=str(FIXTURE))
    client = start("--experts-used", "1", model=str(FIXTURE))
    alone = [token_ids(client, i) for i in range(8)]
    assert together(client, 8) == alone != [token_ids(exact, i) for i in range(8)]
    assert usage(client, 1)["lacuna"] == {"experts": {"used": 1, "of": 2, "kept": 1, "replaced": 0}}
    assert client.metric("lacuna_experts_per_token") == 1


def misses(client):
    return client.metric("lacuna_expert_cache_misses_total") + client.metric("lacuna_expert_cache_foreseen_total")


def test_a_start_has_the_experts_in_memory_that_the_last_run_used(start, tmp_path):
    model, heat = tmp_path / "model.gguf", tmp_path / "model.gguf.lacuna-heat"
    shutil.copy(FIXTURE, model)
    missed = []
    for kept in (False, True):
        assert heat.exists() == kept
        client = start("--expert-cache", "70%", model=str(model))
        before = misses(client)
        token_ids(client, 3)
        missed.append(misses(client) - before)
        client.server.stop()
    assert missed[1] < missed[0]


def test_heat_that_cannot_be_read_or_written_is_said_and_harms_nobody(start, tmp_path):
    heat = tmp_path / "notes.txt"
    heat.write_bytes(b"something else")
    client = start("--expert-cache", "50%", "--expert-heat", str(heat), model=str(FIXTURE))
    assert "experts start cold" in client.server.log()
    token_ids(client, 1)
    client.server.stop()
    assert heat.read_bytes() == b"something else"
    client = start("--expert-cache", "50%", "--expert-heat", str(tmp_path / "none" / "heat"), model=str(FIXTURE))
    token_ids(client, 1)
    client.server.stop()
    assert "expert_heat_not_kept" in client.server.log()


@pytest.fixture
def hanging_storage(tmp_path):
    """Environment of a server whose reads hang while a file exists, and that file."""
    library, switch = tmp_path / "hang.so", tmp_path / "hang"
    source = pathlib.Path(__file__).parent / "hang.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library), "LACUNA_TEST_HANG": str(switch)}, switch


@pytest.mark.skipif(SANITIZED, reason="the sanitizers' runtime has to be loaded first")
def test_storage_that_hangs_fails_those_who_need_it_and_nobody_else(start, hanging_storage):
    environment, switch = hanging_storage
    client = start("--expert-cache", "90%", "--expert-heat", "off", "--io", "pread", model=str(FIXTURE),
                   environment=environment)
    hot = {"prompt": [5], "max_tokens": 1, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    expected = [client.post("/v1/completions", hot).json() for _ in range(20)][-1]["choices"][0]["token_ids"]
    switch.touch()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        cold = pool.submit(client.post, "/v1/completions", body(1))
        n_answers, begin = 0, time.monotonic()
        while not cold.done():
            asked = time.monotonic()
            assert client.post("/v1/completions", hot).json()["choices"][0]["token_ids"] == expected
            assert time.monotonic() - asked < 5
            n_answers += 1
    assert cold.result().status_code == 503 and cold.result().json()["error"]["code"] == "storage_error"
    assert "does not answer" in client.server.log()
    assert 5 < time.monotonic() - begin < 30 and n_answers > 5
    assert client.get("/health").status_code == 200
    switch.unlink()
    until(lambda: client.post("/v1/completions", body(1)).status_code == 200, 5, "the storage is back")
