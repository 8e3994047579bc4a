# SPDX-License-Identifier: Apache-2.0
"""/metrics: counts are exact, an independent parser reads them, scraping changes nothing."""
import pathlib
import re
import shutil
import subprocess
import time

import pytest

from harness import SANITIZED, SLOWNESS, until

# Of section 8.4: what exists from the start.
GAUGES = ["lacuna_requests_running", "lacuna_requests_waiting", "lacuna_kv_cache_usage_ratio",
          "lacuna_http_connections", "lacuna_sse_streams", "lacuna_batch_size", "lacuna_waiting_prompt_tokens",
          "lacuna_ready", "lacuna_draining", "lacuna_model_load_seconds", "lacuna_build_info",
          "lacuna_last_reload_success_timestamp_seconds", "lacuna_kv_cache_pages",
          "lacuna_cache_config_info", "lacuna_io_backend_info", "lacuna_experts", "lacuna_experts_per_token",
          "lacuna_sparsity_points_withdrawn",
          "process_resident_memory_bytes",
          "process_start_time_seconds", "process_open_fds", "process_max_fds", "process_virtual_memory_bytes"]
COUNTERS = ["lacuna_prompt_tokens_total", "lacuna_prefill_tokens_total", "lacuna_generation_tokens_total",
            "lacuna_request_success_total",
            "lacuna_http_requests_total", "lacuna_requests_rejected_total", "lacuna_requests_cancelled_total",
            "lacuna_log_messages_total", "process_cpu_seconds_total", "lacuna_prefix_cache_queries_total",
            "lacuna_prefix_cache_hits_total", "lacuna_num_preemptions_total", "lacuna_draft_tokens_total",
            "lacuna_accepted_draft_tokens_total", "lacuna_neurons_total", "lacuna_neurons_up_total",
            "lacuna_neurons_down_total", "lacuna_sparsity_audits_total",
            "lacuna_expert_cache_hits_total", "lacuna_expert_cache_misses_total",
            "lacuna_expert_cache_foreseen_total", "lacuna_expert_cache_unused_total",
            "lacuna_expert_cache_evictions_total", "lacuna_expert_replaced_total",
            "lacuna_expert_read_bytes_total", "lacuna_expert_stall_seconds_total"]
HISTOGRAMS = ["lacuna_time_to_first_token_seconds", "lacuna_inter_token_latency_seconds",
              "lacuna_e2e_request_latency_seconds", "lacuna_request_queue_time_seconds",
              "lacuna_request_prefill_time_seconds", "lacuna_request_decode_time_seconds",
              "lacuna_request_prompt_tokens", "lacuna_request_generation_tokens",
              "lacuna_request_max_num_generation_tokens", "lacuna_request_params_max_tokens",
              "lacuna_request_params_n", "lacuna_request_time_per_output_token_seconds",
              "lacuna_request_inference_time_seconds",
              "lacuna_http_request_duration_seconds", "lacuna_engine_step_seconds", "lacuna_engine_step_tokens",
              "lacuna_expert_read_seconds"]


MEMORY = [f"lacuna_memory_{what}_bytes"
          for what in ("allocated", "active", "metadata", "resident", "mapped", "retained")]
# Closed sets of labels: each of them is there from the start.
LABELS = {
    "lacuna_requests_rejected_total": {"reason": {"queue_full", "token_backlog", "queue_timeout", "key_limit", "loading",
                                                  "draining", "invalid", "too_long"}},
    "lacuna_requests_cancelled_total": {"phase": {"queued", "prefill", "decode"},
                                        "cause": {"client", "slow_reader", "deadline", "shutdown"}},
    "lacuna_request_success_total": {"finished_reason": {"stop", "length", "abort"}},
    "lacuna_kv_cache_pages": {"state": {"used", "cached", "free"}},
    "lacuna_log_messages_total": {"level": {"debug", "info", "warn", "error"}},
    "lacuna_engine_step_seconds_count": {"phase": {"prefill", "decode"}},
    "lacuna_build_info": {"version": None, "commit": None, "cpu_isa": None},
    "lacuna_io_backend_info": {"backend": None},
    "lacuna_cache_config_info": {"block_size": None, "num_blocks": None, "cache_dtype": None},
}


def test_labels_are_closed_sets_from_the_start(start):
    seen = {}
    for name, labels in start().metrics():
        for key, value in labels:
            seen.setdefault(name, {}).setdefault(key, set()).add(value)
    for name, wanted in LABELS.items():
        for key, values in wanted.items():
            assert seen[name][key] == values if values else len(seen[name][key]) == 1, (name, key)


def test_pages_add_up(client):
    values = client.metrics()
    pages = {dict(labels)["state"]: value for (name, labels), value in values.items() if name == "lacuna_kv_cache_pages"}
    [config] = [dict(labels) for name, labels in values if name == "lacuna_cache_config_info"]
    assert sum(pages.values()) == float(config["num_blocks"]) > 0
    assert float(config["block_size"]) > 0


def test_every_series_is_there_before_the_first_request(start):
    names = {name for name, _ in start().metrics()}
    if not SANITIZED:  # a sanitizer brings its own allocator
        assert names.issuperset(MEMORY)
    for name in GAUGES + COUNTERS:
        assert name in names, name
    for name in HISTOGRAMS:
        for suffix in ("_bucket", "_sum", "_count"):
            assert name + suffix in names, name + suffix


def test_counts_are_exact(start):
    client = start()
    n_requests, n_tokens = 5, 7
    for i in range(n_requests):
        (client.stream if i % 2 else client.complete)(max_tokens=n_tokens)
    assert client.metric("lacuna_time_to_first_token_seconds_count") == n_requests
    assert client.metric("lacuna_inter_token_latency_seconds_count") == n_requests * (n_tokens - 1)
    assert client.metric("lacuna_generation_tokens_total") == n_requests * n_tokens
    assert client.metric("lacuna_prompt_tokens_total") == n_requests * 5
    assert client.metric("lacuna_request_success_total") == n_requests
    assert client.metric("lacuna_e2e_request_latency_seconds_count") == n_requests
    assert client.metric("lacuna_request_prompt_tokens_sum") == n_requests * 5
    assert client.metric("lacuna_request_generation_tokens_sum") == n_requests * n_tokens


def test_histograms_are_cumulative(client):
    client.complete()
    buckets = {}
    values = client.metrics()
    for (name, labels), value in values.items():
        if name.endswith("_bucket"):
            labels = dict(labels)
            bound = float(labels.pop("le"))
            buckets.setdefault((name[:-7], tuple(sorted(labels.items()))), []).append((bound, value))
    assert buckets
    for (name, labels), found in buckets.items():
        found.sort()
        assert found[-1][0] == float("inf"), name
        assert found[-1][1] == values[(name + "_count", labels)], name
        assert [count for _, count in found] == sorted(count for _, count in found), name


def test_requests_are_counted_by_route(client):
    def count():
        values = client.metrics()
        return sum(value for (name, labels), value in values.items()
                   if name == "lacuna_http_requests_total" and dict(labels)["code"] == "404")

    before = count()
    for i in range(3):
        client.get(f"/nothing/{i}")
    assert count() == before + 3
    labels = {dict(labels)["route"] for name, labels in client.metrics() if name == "lacuna_http_requests_total"}
    assert not any("nothing" in route for route in labels), "a raw path must not become a label"


def test_rejected_requests_are_counted(client):
    def rejected(reason):
        return client.metrics()[("lacuna_requests_rejected_total",
                                 tuple(sorted({"model_name": "smollm2-135m", "reason": reason}.items())))]

    before = rejected("invalid")
    client.refused({"prompt": "a", "temperature": 9})
    assert rejected("invalid") == before + 1
    before = rejected("too_long")
    client.refused({"prompt": [5] * 40000})
    assert rejected("too_long") == before + 1


def test_gauges_go_back_to_zero(client):
    client.stream()
    for name in ("lacuna_requests_running", "lacuna_requests_waiting", "lacuna_sse_streams",
                 "lacuna_waiting_prompt_tokens", "lacuna_kv_cache_usage_ratio"):
        until(lambda name=name: client.metric(name) == 0, 2, name)


def test_scraping_changes_nothing(client):
    def engine_side():
        return {key: value for key, value in client.metrics().items()
                if not key[0].startswith(("process_", "lacuna_http_", "lacuna_memory_", "lacuna_log_"))}

    assert engine_side() == engine_side()


def test_text_format(client):
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.text
    assert text.endswith("\n") and "\r" not in text
    families, seen_types = [], set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            family = line.split()[2]
            assert family not in seen_types, f"{family} is split"
            seen_types.add(family)
            families.append(family)
        elif not line.startswith("#"):
            name = re.match(r"[a-zA-Z_:][a-zA-Z0-9_:]*", line)[0]
            assert re.sub(r"_(bucket|sum|count)$", "", name) == families[-1] or name == families[-1], line


def test_openmetrics_format(client):
    from prometheus_client.openmetrics.parser import text_string_to_metric_families
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.text.endswith("# EOF\n")
    assert len(list(text_string_to_metric_families(answer.text))) > 20


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_finds_nothing(client):
    client.complete()
    done = subprocess.run(["promtool", "check", "metrics"], input=client.get("/metrics").text, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_own_listener(start):
    from harness import free_port
    import httpx
    port = free_port()
    client = start("--metrics-listen", f"127.0.0.1:{port}")
    assert "lacuna_ready" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert client.http.get("/metrics").status_code == 404


def test_what_vllm_calls_it_is_there_if_asked_for(start, client):
    assert "vllm:" not in client.get("/metrics").text
    text = start("--metrics-compat", "vllm")
    values = text.metrics()
    own = {name: value for (name, _), value in values.items() if name.startswith("vllm:")}
    assert own == {"vllm:num_requests_running": 0, "vllm:num_requests_waiting": 0, "vllm:kv_cache_usage_perc": 0,
                   "vllm:cache_config_info": 1}
    [theirs] = [dict(labels) for name, labels in values if name == "vllm:cache_config_info"]
    [ours] = [dict(labels) for name, labels in values if name == "lacuna_cache_config_info"]
    assert theirs["block_size"] == ours["block_size"] and theirs["num_gpu_blocks"] == ours["num_blocks"]
    assert theirs["model_name"] == "smollm2-135m"


def cpu_seconds(process):
    """Of all threads, as the kernel's scheduler counts it: in nanoseconds."""
    tasks = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@pytest.mark.skipif(SANITIZED, reason="an optimised build is meant")
def test_a_scrape_takes_less_than_a_millisecond_of_cpu(client):
    """Routers scrape every 50 ms.  Processor time: what else runs on the machine does not count."""
    n = 200
    client.http.get("/metrics")
    before = cpu_seconds(client.server.process)
    for _ in range(n):
        client.http.get("/metrics")
    assert (cpu_seconds(client.server.process) - before) / n < 1e-3


def test_scrape_is_quick(client):
    client.metrics()
    begin = time.monotonic()
    for _ in range(50):
        client.http.get("/metrics")
    assert (time.monotonic() - begin) / 50 < 0.02 * SLOWNESS
