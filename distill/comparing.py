"""Comparing two answers by the request's comparator, also where that one asks a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from distill.judge import judge
from distill.likelihood import answer_logprob
from distill.similarity import similarity
from distill.upstreams import Upstream
from ledger.prices import Tokens
from router.comparators import DEFERRED, Reply, choose, compare, obvious
from router.settings import RouterSettings

__all__ = ("Case", "Compared", "Comparing")

FOR_FREE_TEXT: Final = "embedding"
"""What `choose` says of free text. Where it cannot be asked, the next one that can is."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request and the two answers to it; ``model`` is the name that it was sent to."""

    messages: Sequence[dict[str, Any]]
    parameters: Mapping[str, Any]
    student: Reply
    teacher: Reply
    tags: Sequence[str] = ()
    model: str = ""

    def comparator(self, settings: RouterSettings) -> str:
        """The name of the one that suits."""
        body = dict(self.parameters) | {"messages": self.messages}
        return choose(settings, self.tags, self.model, body, self.teacher)


@dataclass(frozen=True, slots=True)
class Compared:
    """Agreement from 0 to 1, and the comparator that said so."""

    agreement: float
    comparator: str


@dataclass(frozen=True, slots=True)
class Comparing:
    """The comparators, with the servers that there are to ask."""

    settings: RouterSettings
    client: httpx.AsyncClient
    spent: Callable[[str, Upstream, Tokens], None]
    """Hears of each paid call: the comparator, who was asked, and the tokens."""
    embeddings: Upstream | None = None
    judge: Upstream | None = None
    student: Upstream | None = None
    may_judge: Callable[[], bool] = lambda: True
    """False for as long as no call of the judge is left."""
    judges_free_text: bool = True
    """False leaves to the judge only what the settings name it for."""

    async def compare(self, case: Case) -> Compared | None:
        """The agreement of a case, None where nobody can be asked now. Raises ``httpx.HTTPError`` and `BadAnswer`."""
        name = case.comparator(self.settings)
        if name not in DEFERRED:
            return Compared(compare(name, case.student, case.teacher), name)
        known = obvious(case.student, case.teacher)
        if known is not None:
            return Compared(known, "exact")
        for each in self._in_turn(name):
            if each == "judge" and self.judge and not self.may_judge():
                return None
            agreement = await self._ask(each, case)
            if agreement is not None:
                return Compared(agreement, each)
        return None

    def _in_turn(self, name: str) -> tuple[str, ...]:
        if name != FOR_FREE_TEXT:
            return (name,)
        return DEFERRED if self.judges_free_text else tuple(each for each in DEFERRED if each != "judge")

    async def _ask(self, name: str, case: Case) -> float | None:
        texts = (case.student.text, case.teacher.text)
        if name == "embedding" and (embeddings := self.embeddings):
            cosine = await similarity(self.client, embeddings, texts, lambda n: self.spent(name, embeddings, n))
            return float(cosine >= self.settings.similarity_floor)
        if name == "judge" and (teacher := self.judge):
            return await judge(self.client, teacher, case.messages, texts, lambda n: self.spent(name, teacher, n))
        if name == "likelihood" and self.student:
            nats = await answer_logprob(self.client, self.student, case.messages, case.teacher.text)
            return float(nats >= self.settings.likelihood_floor)
        return None
