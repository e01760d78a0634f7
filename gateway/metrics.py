"""The gateway's Prometheus metrics. Label values come from closed sets; keys and models are not among them."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from gateway.metric_list import counter, gauge, histogram, info
from gateway.trial import OnTrial
from ledger.records import NANO, RequestRecord
from router.pacing import Pacer

__all__ = ("Metrics",)

STATUS_CLASSES = tuple(f"{i}xx" for i in range(10))


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
        self._requests = counter(registry, "stillroom_requests", ("route", "reason", "status"))
        self._latency = histogram(registry, "stillroom_request_seconds", route)
        self._first_token = histogram(registry, "stillroom_first_token_seconds", route)
        self._tokens = counter(registry, "stillroom_tokens", ("route", "kind"))
        self._abandoned = self._tokens.labels("student", "abandoned")
        self._cost = counter(registry, "stillroom_cost", route)
        self._baseline = counter(registry, "stillroom_baseline_cost")
        self._count_upstreams(registry)
        self.spool_failures = gauge(registry, "stillroom_spool_write_failures")
        self.spool_bytes = gauge(registry, "stillroom_spool_backlog_bytes")
        self.store_reachable = gauge(registry, "stillroom_store_reachable")
        self.in_flight = gauge(registry, "stillroom_in_flight_requests")
        self.shared_reachable = gauge(registry, "stillroom_shared_limits_reachable")
        self.shared_missed = counter(registry, "stillroom_shared_limits_missed")
        self._teacher_share = gauge(registry, "stillroom_teacher_share")
        self._pacing_price = gauge(registry, "stillroom_pacing_price", ("ceiling",))
        self._spent_today = gauge(registry, "stillroom_teacher_spend_today")
        self.release = info(registry, "stillroom_release")
        self.release.info({"id": "none"})
        self._trial_share = gauge(registry, "stillroom_canary_share")
        self._trial = gauge(registry, "stillroom_canary", ("rule", "side"))

    def _count_upstreams(self, registry: CollectorRegistry) -> None:
        self.upstream_errors = counter(registry, "stillroom_upstream_errors", ("upstream",))
        self.upstream_retries = counter(registry, "stillroom_upstream_retries", ("upstream",))
        self.breaker_open = gauge(registry, "stillroom_breaker_open", ("upstream", "index"))
        self.upstream_in_flight = gauge(registry, "stillroom_upstream_in_flight_requests", ("upstream", "index"))
        self.affinity_missed = counter(registry, "stillroom_affinity_missed")

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
