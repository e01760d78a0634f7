"""The metrics of several workers as one."""

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import Metrics
from gateway.siblings import merged
from ledger.records import RequestRecord


def counted(*latencies: int, in_flight: int = 0, failures: int = 0, reachable: int = 1) -> Metrics:
    metrics = Metrics()
    for number, latency in enumerate(latencies):
        metrics.observe(
            RequestRecord(
                id=f"req_{number}", created_at=0, route="teacher", reason="hard", latency_ms=latency, prompt_tokens=7
            )
        )
    metrics.in_flight.set(in_flight)
    metrics.spool_failures.set(failures)
    metrics.store_reachable.set(reachable)
    metrics.release.info({"id": "r1"})
    return metrics


def read(text: bytes) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items()) or ''}": sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_the_metrics_of_one_worker_are_its_own_byte_for_byte():
    text = counted(3, 70, 800, in_flight=2).render()
    assert merged([text]) == text


def test_counts_are_added_and_what_is_read_from_the_store_is_not():
    found = read(
        merged([counted(3, 70, in_flight=2, failures=1).render(), counted(800, in_flight=5, reachable=0).render()])
    )
    labels = [("reason", "hard"), ("route", "teacher"), ("status", "2xx")]
    assert found[f"stillroom_requests_total{labels}"] == 3
    route = ("route", "teacher")
    assert found[f"stillroom_tokens_total{[('kind', 'prompt'), route]}"] == 21
    assert found[f"stillroom_request_seconds_bucket{[('le', '0.1'), route]}"] == 2
    assert found[f"stillroom_request_seconds_count{[route]}"] == 3
    assert found["stillroom_in_flight_requests"] == 7
    assert found["stillroom_spool_write_failures"] == 1
    assert found["stillroom_store_reachable"] == 0
    assert found[f"stillroom_release_info{[('id', 'r1')]}"] == 1


def test_a_series_that_only_one_worker_has_is_kept():
    found = read(merged([generate_latest(counted().registry), counted(5).render()]))
    assert found[f"stillroom_request_seconds_count{[('route', 'teacher')]}"] == 1
