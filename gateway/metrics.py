"""The gateway's Prometheus metrics. Label values come from closed sets; keys and models are not among them."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from gateway.trial import OnTrial
from ledger.records import NANO, RequestRecord
from router.pacing import Pacer

__all__ = ("Metrics",)

STATUS_CLASSES = tuple(f"{i}xx" for i in range(10))
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What requests of one route, reason and status are counted in."""

    requests: Counter
    latency: Histogram
    first_token: Histogram
    prompt: Counter
    completion: Counter
    cost: Counter


class Metrics:
    """One registry per application, so that tests and workers do not share counts."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._kinds: dict[tuple[str, str, int], _Kind] = {}
        route = ("route",)
        self._requests = Counter(
            "stillroom_requests", "Requests answered", ("route", "reason", "status"), registry=registry
        )
        self._latency = Histogram(
            "stillroom_request_seconds", "Time to the last byte", route, buckets=LATENCY_BUCKETS, registry=registry
        )
        self._first_token = Histogram(
            "stillroom_first_token_seconds", "Time to the first byte of a stream", route,
            buckets=LATENCY_BUCKETS, registry=registry,
        )  # fmt: skip
        self._tokens = Counter("stillroom_tokens", "Tokens billed", ("route", "kind"), registry=registry)
        self._abandoned = self._tokens.labels("student", "abandoned")
        self._cost = Counter("stillroom_cost", "Money spent, in units of the settings", route, registry=registry)
        self._baseline = Counter(
            "stillroom_baseline_cost", "What the same requests cost on the teacher alone", registry=registry
        )
        self._count_upstreams(registry)
        self.spool_failures = Gauge(
            "stillroom_spool_write_failures", "Records the spool's disk refused", registry=registry
        )
        self.spool_bytes = Gauge("stillroom_spool_backlog_bytes", "Spool not in the store yet", registry=registry)
        self.store_reachable = Gauge("stillroom_store_reachable", "1 while the store answers", registry=registry)
        self.in_flight = Gauge("stillroom_in_flight_requests", "Requests being answered", registry=registry)
        self.shared_reachable = Gauge(
            "stillroom_shared_limits_reachable", "0 while Redis is away, 1 too where none is set", registry=registry
        )
        self.shared_missed = Counter(
            "stillroom_shared_limits_missed", "Requests that one process alone has counted", registry=registry
        )
        self._teacher_share = Gauge(
            "stillroom_teacher_share", "Teacher's share of about the last 1000 auto requests", registry=registry
        )
        self._pacing_price = Gauge(
            "stillroom_pacing_price", "Least gain the teacher is asked for, 0 below the ceiling", ("ceiling",),
            registry=registry,
        )  # fmt: skip
        self._spent_today = Gauge(
            "stillroom_teacher_spend_today", "Teacher's cost this day, expected ones too", registry=registry
        )
        self.release = Info("stillroom_release", "The live release", registry=registry)
        self._trial_share = Gauge(
            "stillroom_canary_share", "Share of the conversations that a release is tried on, 0 for none",
            registry=registry,
        )  # fmt: skip
        self._trial = Gauge(
            "stillroom_canary", "Figures of the newest look at the release on trial", ("rule", "side"),
            registry=registry,
        )  # fmt: skip

    def _count_upstreams(self, registry: CollectorRegistry) -> None:
        self.upstream_errors = Counter(
            "stillroom_upstream_errors", "Calls that failed at an upstream", ("upstream",), registry=registry
        )
        self.upstream_retries = Counter(
            "stillroom_upstream_retries", "Further attempts, hedged ones too", ("upstream",), registry=registry
        )
        self.breaker_open = Gauge(
            "stillroom_breaker_open", "1 while an upstream is left alone", ("upstream", "index"), registry=registry
        )
        self.upstream_in_flight = Gauge(
            "stillroom_upstream_in_flight_requests", "Requests under way at an upstream", ("upstream", "index"),
            registry=registry,
        )  # fmt: skip
        self.affinity_missed = Counter(
            "stillroom_affinity_missed", "Calls that another student took than their conversation's",
            registry=registry,
        )  # fmt: skip

    def observe(self, record: RequestRecord) -> None:
        """Count one finished request."""
        kind = self._kinds.get((record.route, record.reason, record.status)) or self._new_kind(record)
        kind.requests.inc()
        kind.latency.observe(record.latency_ms / 1000)
        if record.first_token_ms is not None:
            kind.first_token.observe(record.first_token_ms / 1000)
        kind.prompt.inc(record.prompt_tokens)
        kind.completion.inc(record.completion_tokens)
        if record.attempt_prompt_tokens or record.attempt_completion_tokens:
            self._abandoned.inc(record.attempt_prompt_tokens + record.attempt_completion_tokens)
        kind.cost.inc(record.cost_nano / NANO)
        self._baseline.inc(record.baseline_nano / NANO)

    def show(self, pacer: Pacer) -> None:
        """Show how the pacer stands. What it kept from the teacher is counted with the requests' reasons."""
        self._teacher_share.set_function(lambda: pacer.teacher_share)
        self._spent_today.set_function(lambda: pacer.spent_today)
        self._pacing_price.labels("share").set_function(lambda: pacer.share_price)
        self._pacing_price.labels("spend").set_function(lambda: pacer.spend_price)

    def forget_upstream(self, name: str, index: str) -> None:
        """What there was of an upstream that may not be asked any more."""
        self.breaker_open.remove(name, index)
        self.upstream_in_flight.remove(name, index)

    def show_trial(self, trial: OnTrial | None) -> None:
        """Show what is tried; the rules are a closed set, and ``latency`` is in ms."""
        self._trial.clear()
        self._trial_share.set(trial.share if trial else 0.0)
        for rule in trial.figures.get("rules", ()) if trial else ():
            for side in ("candidate", "champion"):
                if rule[side] is not None:
                    self._trial.labels(rule["name"], side).set(rule[side])

    def _new_kind(self, record: RequestRecord) -> "_Kind":
        """The metrics of such requests; looking each up checks and converts its labels under a lock every time."""
        route, reason, status = record.route, record.reason, record.status
        found = self._kinds[route, reason, status] = _Kind(
            self._requests.labels(route, reason, STATUS_CLASSES[status // 100]),
            self._latency.labels(route),
            self._first_token.labels(route),
            self._tokens.labels(route, "prompt"),
            self._tokens.labels(route, "completion"),
            self._cost.labels(route),
        )
        return found

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
