"""One pass over the logs: columns of all requests, and an even sample of those whose text was kept."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from distill.estimate.columns import FORMS, MONEY_UNKNOWN, NOT_KEPT, OPEN, UNSUPPORTED, Columns
from distill.estimate.logged import Logged, logged
from distill.exchange import Exchange, Unreadable
from distill.imports import BatchInputs
from distill.log_files import entries
from ledger.conversations import conversation_id
from ledger.prices import Price
from router.comparators import Reply, choose
from router.features import RequestView, edges
from router.policy import Capabilities, supported
from router.settings import RouterSettings

__all__ = ("MAX_SAMPLE", "Reading", "Sampled", "Wanted", "read_logs")

MAX_SAMPLE: Final = 8_000
TOLD: Final = 20
"""So many bad lines are kept in the report."""
CONTEXT: Final = 2_000
"""Characters that are kept of what is not the user's: system prompts and former answers."""
LONGEST: Final = 8_000
"""Characters of an answer; a longer one is free text, whatever it looks like."""
MAX_MODELS: Final = 1_000
OTHER: Final = "(other models)"
FORM_OF: Final = {"exact": "label", "numeric": "number", "json": "json", "tools": "tools"}
"""By comparator; all others ask a model."""

_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is read, and how. ``price`` goes before the logs' own costs; no ``models`` are all of them."""

    capabilities: Capabilities
    router: RouterSettings
    price: Price | None = None
    models: frozenset[str] = frozenset()
    sample: int = MAX_SAMPLE


@dataclass(frozen=True, slots=True)
class Sampled:
    """A request with its answer. ``order`` is its place in the logs, ``conversation`` the hash of its beginning."""

    at: int
    order: int
    view: RequestView
    context: str
    form: str
    comparator: str
    reply: Reply
    cost: int
    prompt: int
    completion: int
    conversation: int
    later_turn: bool


@dataclass(slots=True)
class Reading:
    """What the logs hold. ``seen`` counts requests by what happened to them, ``why`` the unsupported ones."""

    columns: Columns = field(default_factory=Columns)
    models: dict[str, int] = field(default_factory=dict[str, int])
    sample: list[Sampled] = field(default_factory=list[Sampled])
    seen: Counter[str] = field(default_factory=Counter[str])
    formats: Counter[str] = field(default_factory=Counter[str])
    why: Counter[str] = field(default_factory=Counter[str])
    bad_lines: list[str] = field(default_factory=list[str])


def read_logs(paths: Sequence[Path], wanted: Wanted, on_bytes: Callable[[int], None]) -> Reading:
    """Read the files; ``on_bytes`` is told how many more bytes were read.

    What cannot be read is counted, and its first places are named. Memory is 50 bytes a request and the sample.
    Raises ``OSError`` for a file that cannot be opened.
    """
    work = _Work(wanted)
    inputs = BatchInputs()
    for path in paths:
        inputs.index(path)
    with inputs:
        for path in paths:
            if path not in inputs.files:
                for place, found in entries(path, on_bytes):
                    work.take(place, found, inputs.sent)
    work.done.sample.sort(key=lambda each: (each.at, each.order))
    return work.done


@dataclass
class _Work:
    wanted: Wanted
    done: Reading = field(default_factory=Reading)
    _kept: int = 0
    # no secret: the same logs give the same sample
    _chance: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311

    def take(
        self, place: str, found: list[dict[str, Any]] | Unreadable, sent: Callable[[str], dict[str, Any]]
    ) -> None:
        try:
            if isinstance(found, Unreadable):
                raise found
            for line in found:
                self.done.seen["records"] += 1
                request = logged(line, self.wanted.price, sent)
                if request is None:
                    self.done.seen["no answered chat"] += 1
                elif self.wanted.models and request.model not in self.wanted.models:
                    self.done.seen["other models"] += 1
                else:
                    self._add(request)
        except (Unreadable, OverflowError, RecursionError) as error:
            self.done.seen["bad"] += 1
            if len(self.done.bad_lines) < TOLD:
                self.done.bad_lines.append(f"{place}: {error}")

    def _add(self, request: Logged) -> None:
        done, columns = self.done, self.done.columns
        exchange = request.exchange
        view = None if exchange is None else RequestView.from_body(_body(exchange))
        form, comparator = (NOT_KEPT, "") if exchange is None or view is None else self._form(exchange, view)
        columns.at.append(request.at)
        columns.cost.append(MONEY_UNKNOWN if request.cost is None else request.cost)
        columns.prompt.append(request.tokens.prompt)
        columns.completion.append(request.tokens.completion)
        columns.asked.append(0 if exchange is None else _hash(exchange.messages))
        columns.answered.append(0 if exchange is None else _answer_hash(exchange))
        columns.model.append(self._model(request.model))
        columns.form.append(FORMS.index(form))
        done.formats[request.form] += 1
        done.seen["tokens guessed"] += not request.counted
        done.seen["answered from a cache"] += request.from_cache
        if exchange is not None and view is not None:
            self._draw(lambda: _sampled(request, exchange, view, (form, comparator), len(columns)))

    def _form(self, exchange: Exchange, view: RequestView) -> tuple[str, str]:
        if not supported(view, self.wanted.capabilities):
            self.done.why[_why(view, self.wanted.capabilities)] += 1
            return UNSUPPORTED, ""
        if len(exchange.answer) > LONGEST:
            return OPEN, "embedding"
        name = choose(self.wanted.router, (), exchange.model or "", _body(exchange), _reply(exchange))
        return FORM_OF.get(name, OPEN), name

    def _model(self, name: str) -> int:
        if name not in self.done.models and len(self.done.models) >= MAX_MODELS:
            name = OTHER
        return self.done.models.setdefault(name, len(self.done.models))

    def _draw(self, make: Callable[[], Sampled]) -> None:
        """Vitter's algorithm R (1985, doi:10.1145/3147.3165): each request is as likely to be kept."""
        self._kept += 1
        if len(self.done.sample) < self.wanted.sample:
            self.done.sample.append(make())
            return
        at = self._chance.randrange(self._kept)
        if at < self.wanted.sample:
            self.done.sample[at] = make()


def _sampled(request: Logged, exchange: Exchange, view: RequestView, told: tuple[str, str], order: int) -> Sampled:
    users = [text for role, text in view.messages if role == "user"]
    others = "\n".join(text for role, text in view.messages if role != "user")
    return Sampled(
        at=request.at,
        order=order,
        view=RequestView((("user", edges("\n".join(users))),)),
        context=others[:CONTEXT],
        form=told[0],
        comparator=told[1],
        reply=_reply(exchange) if len(exchange.answer) <= LONGEST else Reply(exchange.answer[:LONGEST]),
        cost=max(request.cost or 0, 0),
        prompt=request.tokens.prompt,
        completion=request.tokens.completion,
        conversation=int(conversation_id(exchange.messages)[:15], 16),
        later_turn=len(users) > 1,
    )


def _body(exchange: Exchange) -> dict[str, Any]:
    return exchange.parameters | {"messages": exchange.messages}


def _reply(exchange: Exchange) -> Reply:
    return Reply.kept(exchange.answer, exchange.tool_calls, exchange.finish_reason)


def _why(view: RequestView, capabilities: Capabilities) -> str:
    reasons: Mapping[str, bool] = {
        "several answers at once": view.n != 1,
        "features of the provider's own": view.unserved,
        "images, sound or files": view.has_images and not capabilities.images,
        "tools": view.has_tools and not capabilities.tools,
    }
    return next((name for name, holds in reasons.items() if holds), "longer than the student's context")


def _answer_hash(exchange: Exchange) -> int:
    return _hash([" ".join(exchange.answer.casefold().split()), exchange.tool_calls])


def _hash(said: Any) -> int:
    """64 bits, of which 0 stands for nothing kept."""
    return int.from_bytes(hashlib.blake2b(_encode(said), digest_size=8).digest()) or 1
