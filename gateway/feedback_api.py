"""``POST /v1/feedback``: what a caller says of an answer. A correction is the best training example there is."""

import asyncio
import contextlib
import re
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, post
from litestar.types import ASGIApp
from msgspec import Meta

from gateway.admission import Ask, Visit
from gateway.asgi import PlainAnswer
from gateway.auth import opt
from gateway.errors import BadRequest, NotFound
from gateway.exchange import body_of
from gateway.visits import attend
from ledger import feedback
from ledger.feedback import Feedback, NothingKept, UnknownRequest
from ledger.keys import Key
from ledger.request_ids import time_of
from ledger.store import Store, now_ms

__all__ = ("NewFeedback", "Remark", "add_feedback", "create_feedback")

WAITS_S: Final = (0.2, 0.4, 0.8, 1.6, 3.2, 3.8)
"""Between looks for an answer that was just given: it may lie in a spool yet, of this process or another."""
JUST_ASKED_MS: Final = 3_600_000
"""A request that began earlier is in the store by now, or nowhere."""
MAX_TEXT: Final = 200_000
PARAMETER: Final = re.compile(r"`\$\.(\w+)|field `(\w+)`")

Text = Annotated[str, Meta(max_length=MAX_TEXT, pattern=r"\S")]


class Remark(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is said of an answer: at least one of score, label, correction and comment."""

    score: Annotated[float, Meta(ge=0, le=1)] | None = None
    """From 0 (wrong) to 1 (right)."""
    label: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00]+$")] | None = None
    """A word of the caller's own."""
    correction: Text | None = None
    """What the answer should have been. The next student is trained on it."""
    comment: Text | None = None


class NewFeedback(Remark, forbid_unknown_fields=True, kw_only=True):
    """Body of ``POST /v1/feedback``."""

    # PostgreSQL's text has no NUL, and neither has an id
    request_id: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00]+$")]
    """The ``x-request-id`` of the answer."""


_decoder = msgspec.json.Decoder(NewFeedback)


@post("/v1/feedback", opt=opt("inference"), status_code=201)
async def create_feedback(request: Request[Any, Any, Any]) -> ASGIApp:
    """Say of an earlier request whether its answer was right, or what it should have been.

    The newest feedback of a request counts. A key speaks of its own requests, an admin key of any. Texts are kept
    where the request's content is (``kept`` in the answer).
    """

    async def work(visit: Visit) -> ASGIApp:
        await visit.admit_everywhere(Ask())
        wanted = _read(await body_of(request))
        kept = await add_feedback(request.app.state.store, wanted, wanted.request_id, visit.key)
        sent = [name for name in ("score", "label", "correction", "comment") if getattr(wanted, name) is not None]
        shown = msgspec.structs.asdict(kept)
        body = {"object": "feedback"} | shown | {"kept": [name for name in sent if shown[name] is not None]}
        return PlainAnswer(201, visit.headers | {"x-request-id": visit.id}, msgspec.json.encode(body))

    return await attend(request, work)


def _read(raw: bytes) -> NewFeedback:
    try:
        wanted = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        found = PARAMETER.search(str(error))
        param = next(filter(None, found.groups()), None) if found else None
        raise BadRequest(f"We could not read the JSON body of your request: {error}", param=param) from error
    return wanted


async def add_feedback(store: Store, wanted: Remark, request_id: str, key: Key | None) -> Feedback:
    """Keep it as this key's. Returns what was kept.

    Raises `NotFound` for what this key never asked, `BadRequest` where nothing is said, or texts alone that may not
    be kept.
    """
    if wanted.score is None and not (wanted.label or wanted.correction or wanted.comment):
        raise BadRequest("feedback needs a score, a label, a correction or a comment", param="score")
    values: dict[str, Any] = msgspec.structs.asdict(wanted) | {"request_id": request_id}
    said = Feedback(id="", created_at=0, **values)
    asker, anyones = (key.id, "admin" in key.scopes) if key else (None, True)
    try:
        return await _added(store, said, asker, anyones)
    except UnknownRequest as error:
        raise NotFound(str(error), code="request_not_found", param="request_id") from error
    except NothingKept as error:
        raise BadRequest(str(error), code="content_not_kept") from error


async def _added(store: Store, said: Feedback, asker: str | None, anyones: bool) -> Feedback:
    began = time_of(said.request_id)
    was_just_asked = began is not None and now_ms() - began < JUST_ASKED_MS
    for wait in WAITS_S if was_just_asked else ():
        with contextlib.suppress(UnknownRequest):
            return await asyncio.to_thread(feedback.add, store, said, asker, anyones)
        await asyncio.sleep(wait)
    return await asyncio.to_thread(feedback.add, store, said, asker, anyones)
