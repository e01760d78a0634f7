"""Every metric of the gateway with its meaning; docs/reference/metrics.md is written from here.

A metric is made by one of these functions, so that none is without a meaning.
"""

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

__all__ = ("MEANINGS", "counter", "gauge", "histogram", "info")

LATENCY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
MEANINGS: Final[dict[str, str]] = {
    "stillroom_requests": (
        "Requests answered. `status` is a class such as `2xx`; `reason` says why the route was taken "
        "(`low_confidence` and `student_down`: the student was asked, or was to be, and the request was "
        "escalated)."
    ),
    "stillroom_request_seconds": "Time to the last byte.",
    "stillroom_first_token_seconds": "Time to the first byte of a stream.",
    "stillroom_tokens": (
        "Tokens billed. `kind` is `prompt`, `completion` or, on the student's route, `abandoned` (read and "
        "written for answers that were given up)."
    ),
    "stillroom_cost": (
        "Money spent, in the settings' unit of prices. A float for graphs; the ledger holds the exact sums."
    ),
    "stillroom_baseline_cost": "What the same requests would have cost on the teacher alone. It is an estimate.",
    "stillroom_upstream_errors": "Calls that failed at an upstream. Appears with the first.",
    "stillroom_upstream_retries": "Further attempts, hedged ones too.",
    "stillroom_breaker_open": "1 while an upstream is left alone or tried with one request, else 0.",
    "stillroom_upstream_in_flight_requests": "Requests under way at an upstream, streams until they end.",
    "stillroom_affinity_missed": (
        "Calls that went to another student than their conversation's, which had its share."
    ),
    "stillroom_spool_write_failures": "Records that the spool's disk refused since the process began.",
    "stillroom_spool_backlog_bytes": (
        "Bytes of the spool that the store has not taken. While the store is away all that is in the spool counts."
    ),
    "stillroom_store_reachable": "1 while the store answers.",
    "stillroom_in_flight_requests": "Requests being answered.",
    "stillroom_shared_limits_reachable": (
        "1 while limits are shared by Redis, and where none is set; 0 while each process counts alone."
    ),
    "stillroom_shared_limits_missed": (
        "Requests that one process alone has counted, since Redis did not answer in time."
    ),
    "stillroom_teacher_share": "Teacher's share of about the last 1000 requests for `auto`.",
    "stillroom_pacing_price": (
        "Least gain the teacher is asked for; 0 below the ceiling. `ceiling` is `share` or `spend`."
    ),
    "stillroom_teacher_spend_today": "Teacher's cost this day (UTC), expected costs too.",
    "stillroom_release": "Always 1; `id` is the live release, or `none`.",
    "stillroom_canary_share": "Share of the conversations that a release is tried on; 0 for none.",
    "stillroom_canary": (
        "Figures of the newest look at the release on trial, by the canary's rule and by side (`champion`, "
        "`candidate`). Appears with the first."
    ),
    "stillroom_labels": "Labels that came to the ledger: `explore`, `shadow`, `escalated`, `feedback`, `other`.",
    "stillroom_labels_agreed": (
        "Sum of those labels' agreement (0 to 1 each). Divided by `stillroom_labels_total`: the plain mean, "
        "not weighed by propensity. The `/ops` pages have the unbiased estimate."
    ),
    "stillroom_events": "Events of the ledger: `canary`, `drift`, `trigger`, `other`.",
    "stillroom_jobs": "Distillation jobs in each state.",
    "stillroom_replicas": (
        "Student replicas with a heartbeat of the last 30 s: `starting`, `ready`, `down`, `draining`, `other`."
    ),
    "stillroom_webhook_deliveries": (
        "Deliveries of webhooks that the ledger still has (30 days): `pending` (not tried yet), `retrying` "
        "(failed, and tried again), `delivered`, `failed` (given up), `other`."
    ),
    "stillroom_keys_over_budget": "Keys whose budget of the day or of the month is used up.",
    "stillroom_budget_left_least_ratio": (
        "Share that is left of the budget that is nearest its end; 1 where there is none."
    ),
    "stillroom_ledger_read_timestamp_seconds": (
        "When this process last read the figures of the ledger (seconds since 1970)."
    ),
    "stillroom_responses_lost": "Kept responses let go before the store took them.",
    "stillroom_response_save_failures": "Attempts to save kept responses that the store refused.",
}
"""By name, without the suffixes that Prometheus' text adds."""


def counter(registry: CollectorRegistry, name: str, labels: Sequence[str] = ()) -> Counter:
    """A counter of this name."""
    return Counter(name, MEANINGS[name], labels, registry=registry)


def gauge(registry: CollectorRegistry, name: str, labels: Sequence[str] = ()) -> Gauge:
    """A gauge of this name."""
    return Gauge(name, MEANINGS[name], labels, registry=registry)


def histogram(registry: CollectorRegistry, name: str, labels: Sequence[str] = ()) -> Histogram:
    """A histogram of this name of seconds."""
    return Histogram(name, MEANINGS[name], labels, registry=registry, buckets=LATENCY_BUCKETS)


def info(registry: CollectorRegistry, name: str) -> Info:
    """A text, as a label of a gauge that is always 1."""
    return Info(name, MEANINGS[name], registry=registry)
