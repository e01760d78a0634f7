"""vLLM's own figures: read from its text, and tokens per second between two readings."""

import pytest

from serving.engine_metrics import EngineFigures, Rates, parse_figures

TEXT = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="with {braces} and spaces"} 2.0
vllm:num_requests_running{engine="1",model_name="x"} 3.0
vllm:num_requests_waiting{engine="0"} 7.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.75
vllm:generation_tokens_total{engine="0"} 1.5e3
vllm:generation_tokens_created{engine="0"} 1.7e9
vllm:prompt_tokens_total{engine="0"} NaN
"""


def test_counts_of_engines_are_summed_and_the_fullest_cache_is_taken():
    assert parse_figures(TEXT) == EngineFigures(running=5, waiting=7, kv_cache=0.75, generation_tokens=1500)


@pytest.mark.parametrize(
    "text", ["", "# HELP\n", "process_cpu_seconds_total 1\n", "vllm:kv_cache_usage_perc x\n", "<html>"]
)
def test_a_text_without_them_has_no_figures(text):
    assert parse_figures(text) is None


def at(generated: float, prompt: float = 0.0) -> EngineFigures:
    return EngineFigures(generation_tokens=generated, prompt_tokens=prompt)


def test_a_rate_is_over_the_readings_of_the_last_minute_and_none_at_the_first():
    rates = Rates()
    assert rates.add("a", at(0), 0) is None
    rate = rates.add("a", at(50, 100), 10)
    assert (rate.generation, rate.prompt, rate.seconds) == (5, 10, 10)
    assert rates.add("a", at(50, 100), 40).generation == 50 / 40
    assert rates.add("a", at(350, 100), 70).generation == 300 / 60, "the reading of 70 s ago is forgotten"
    assert rates.add("b", at(1), 70) is None


def test_a_server_that_began_anew_and_one_not_asked_for_long_have_no_rate_at_first():
    rates = Rates()
    rates.add("a", at(1_000), 0)
    assert rates.add("a", at(10), 5) is None
    assert rates.add("a", at(20), 10).generation == 2
    assert rates.add("a", at(20_000), 1_000) is None
