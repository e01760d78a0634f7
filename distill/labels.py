"""The worker's pass that labels requests: what the gateway left to it, and what people said.

It walks the ledger from the newest row back, a few rows at a time, and begins again when it has come to the end. A
row with a label is not met again, so that a pass that breaks off has lost nothing.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx
import structlog

from distill.comparing import Case, Compared, Comparing
from distill.judge import CALLS
from distill.upstreams import BadAnswer, Upstream
from ledger import labels, releases, replicas
from ledger.feedback import NEGATIVE
from ledger.labels import Label
from ledger.prices import Tokens, cost_nano
from ledger.records import RequestRecord
from ledger.requests import HOUR_MS, insert_records, usage_by
from ledger.store import Store, now_ms
from ledger.unlabelled import BATCH, Pair, Said, feedback_unlabelled, pairs_unlabelled
from router.comparators import Reply
from router.settings import RouterSettings
from serving.settings import StudentSettings

__all__ = ("Labelling", "calls_left", "paid_row", "served_students")

JUDGED: Final = "judge"
PASS_S: Final = 30.0
"""A job may be waiting for the worker."""
LATE_MS: Final = 60_000
"""Feedback is looked at again for so long: its row may come after one that is newer."""

log = structlog.get_logger(__name__)


@dataclass
class Labelling:
    """`run` is one pass. It remembers how far it has come."""

    store: Store
    settings: RouterSettings
    student: StudentSettings
    teacher: Upstream | None = None
    embeddings: Upstream | None = None
    _before: tuple[int, str] | None = None
    _since: int = 0

    async def run(self) -> None:
        """Label what is next, for `PASS_S` at most. A server that fails leaves its rows without a label this time."""
        async with httpx.AsyncClient(trust_env=False) as client:
            served = await asyncio.to_thread(served_students, self.store, self.student)
            left = await asyncio.to_thread(calls_left, self.store, self.settings.judge_calls_per_hour)
            spending = _Spending(self.store, left)
            comparing = Comparing(
                settings=self.settings,
                client=client,
                spent=spending.add,
                embeddings=self.embeddings,
                judge=self.teacher if self.settings.judge_calls_per_hour else None,
                may_judge=lambda: spending.left >= CALLS,
            )
            labelled = await self._pairs(comparing, served, spending) + await self._feedback(comparing, spending)
        if labelled:
            log.info("labelled", requests=labelled)

    async def _pairs(self, comparing: Comparing, served: dict[str, Upstream], spending: "_Spending") -> int:
        pairs = await asyncio.to_thread(pairs_unlabelled, self.store, self._before)
        until, done = time.monotonic() + PASS_S, 0
        for pair in pairs:
            if time.monotonic() > until:
                return done
            self._before = (pair.row["created_at"], pair.row["id"])
            asked = replace(comparing, student=served.get(pair.row["release_id"]))
            case = _case_of(pair)
            found = await self._compared(asked, case, spending) if case else None
            if found is not None:
                propensity = pair.row["propensity"] if pair.source != "escalated" else 1.0
                await self._keep(pair.row | {"id": pair.request_id}, pair.source, found, propensity)
                done += 1
        if len(pairs) < BATCH:
            self._before = None
        return done

    async def _feedback(self, comparing: Comparing, spending: "_Spending") -> int:
        now = now_ms()
        said = await asyncio.to_thread(feedback_unlabelled, self.store, self._since)
        self._since = said[-1].said_at if len(said) == BATCH else now - LATE_MS
        done = 0
        for each in said:
            found = _scored(each)
            case = _corrected(each)
            if case is not None:
                found = await self._compared(comparing, case, spending)
            if found is not None:
                await self._keep(each.row, "feedback", found, 1.0)
                done += 1
        return done

    async def _compared(self, comparing: Comparing, case: Case, spending: "_Spending") -> Compared | None:
        try:
            return await comparing.compare(case)
        except (httpx.HTTPError, BadAnswer) as error:
            log.warning("comparison_failed", error=str(error).splitlines()[0] if str(error) else repr(error))
            return None
        finally:
            await asyncio.to_thread(spending.write)

    async def _keep(self, row: dict[str, Any], source: str, found: Compared, propensity: float) -> None:
        label = Label(
            request_id=row["id"],
            source=source,
            created_at=now_ms(),
            release_id=row["release_id"],
            comparator=found.comparator,
            agreement=found.agreement,
            propensity=propensity,
        )
        await asyncio.to_thread(labels.add, self.store, [label])


def calls_left(store: Store, per_hour: int) -> int:
    """How many calls the judge may still be asked in this hour, by all workers."""
    hour = now_ms() // HOUR_MS * HOUR_MS
    usage = usage_by(store, ["reason"], hour).get((JUDGED,))
    return max(0, per_hour - (usage.requests if usage else 0))


def paid_row(comparator: str, upstream: Upstream, tokens: Tokens) -> RequestRecord:
    """A call of a comparator as a row of the ledger: it costs, and no client asked for it, so it has no baseline."""
    return RequestRecord(
        id=f"cmp_{secrets.token_hex(12)}",
        created_at=now_ms(),
        endpoint="embeddings" if comparator == "embedding" else "chat.completions",
        model=upstream.model,
        route="teacher",
        reason=comparator,
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        cost_nano=cost_nano(upstream.price, tokens),
        trainable=False,
    )


@dataclass
class _Spending:
    """Keeps account of the calls of a pass."""

    store: Store
    left: int
    _rows: Sequence[RequestRecord] = ()

    def add(self, comparator: str, upstream: Upstream, tokens: Tokens) -> None:
        """A call that was answered."""
        self.left -= comparator == JUDGED
        self._rows = (*self._rows, paid_row(comparator, upstream, tokens))

    def write(self) -> None:
        """Into the ledger, from a thread."""
        rows, self._rows = self._rows, ()
        insert_records(self.store, rows)


def served_students(store: Store, settings: StudentSettings) -> dict[str, Upstream]:
    """The releases whose student can be asked now."""
    if settings.base_url is not None:
        live = releases.live(store)
        return {live.id: Upstream(settings.base_url, settings.model, settings.api_key_env)} if live else {}
    ready = (each for each in replicas.list_replicas(store) if each.state == "ready")
    return {each.release_id: Upstream(each.url, each.model or settings.model, settings.api_key_env) for each in ready}


def _case_of(pair: Pair) -> Case | None:
    """Both answers; None where the student's was cut off."""
    content = pair.content
    if content.student_answer is None or content.student_finish_reason is None:
        return None
    return _case(pair.row, content, (_students(content), Reply.kept(content.answer, content.tool_calls)))


def _case(row: dict[str, Any], content: Any, replies: tuple[Reply, Reply]) -> Case:
    return Case(content.messages, content.parameters, *replies, row["tags"], row["model"])


def _students(content: Any) -> Reply:
    return Reply.kept(content.student_answer, content.student_tool_calls, content.student_finish_reason)


def _scored(said: Said) -> Compared | None:
    """What a score says of an answer of the student's."""
    if said.score is None or said.row["route"] != "student":
        return None
    return Compared(float(said.score >= NEGATIVE), "score")


def _corrected(said: Said) -> Case | None:
    """The student's answer against what it should have been; None where either is not known.

    A caller who opted out, or chose the route, did not choose to have the texts shown to a judge.
    """
    row, content = said.row, said.content
    if said.correction is None or content is None or row["reason"] == "pinned" or not row["trainable"]:
        return None
    if row["route"] == "student":
        student = Reply.kept(content.answer, content.tool_calls)
    elif content.student_answer is not None and content.student_finish_reason is not None:
        student = _students(content)
    else:
        return None
    return _case(row, content, (student, Reply(said.correction)))
