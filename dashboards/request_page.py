"""``/ops/requests/{id}``: one request whole, what can be done about it, and what deleting its content would do.

What is read here comes from the gateway's own reading of a request, which writes it into the audit.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request, Response, get
from sqlalchemy.exc import SQLAlchemyError

from dashboards import answers, words
from dashboards.answers import BANDS, Compared
from dashboards.site import ADMIN, fragment, page
from dashboards.traffic import AWAY
from ledger import erasure, keys, requests
from ledger.erased import client_request
from ledger.erasure import Erasure
from ledger.records import Content
from ledger.replays import origin_of
from ledger.store import Store

__all__ = ("one_request", "request_erasure", "request_feedback", "request_replays")

TITLE: Final = "Request"
BESIDE: Final = {
    "explore": "the teacher was asked beside the student",
    "shadow": "the student was asked beside the teacher",
    "canary": "a release on trial was asked beside the live one",
}
REPLAYED: Final = ("chat.completions", "completions", "responses")
"""Endpoints whose requests the gateway asks again."""

Read = Mapping[str, Any]
"""What the admin API answers of one request."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A replay, and how its answer differs from the request's own."""

    row: Mapping[str, Any]
    answer: Compared | None


@get("/ops/requests/{request_id:str}", opt=ADMIN)
async def one_request(request: Request[Any, Any, Any], request_id: str) -> Response[bytes]:
    """The request: what was said and answered, why this route, what it cost and how long it took."""
    read = await _reading(request, request_id)
    if isinstance(read, str):
        return _missing(request, request_id, read)
    context = await asyncio.to_thread(_context, request.app.state.store, read)
    return page(request, "request.html", TITLE, **context)


@get("/ops/requests/{request_id:str}/replays", opt=ADMIN)
async def request_replays(request: Request[Any, Any, Any], request_id: str) -> Response[bytes]:
    """The part of the page that shows the replays; it is loaded again after one."""
    read = await _reading(request, request_id)
    if isinstance(read, str):
        return fragment(request, "request_problem.html", problem=read)
    replays = await asyncio.to_thread(_replays, read)
    return fragment(request, "request_replays.html", replays=replays)


@get("/ops/requests/{request_id:str}/feedback", opt=ADMIN)
async def request_feedback(request: Request[Any, Any, Any], request_id: str) -> Response[bytes]:
    """The part of the page that shows the feedback; it is loaded again after some was given."""
    read = await _reading(request, request_id)
    if isinstance(read, str):
        return fragment(request, "request_problem.html", problem=read)
    return fragment(request, "request_feedback.html", feedback=read["feedback"])


@get("/ops/requests/{request_id:str}/erasure", opt=ADMIN)
async def request_erasure(request: Request[Any, Any, Any], request_id: str) -> Response[bytes]:
    """What deleting the content of this request would delete, who holds copies of it, and the button that does it."""
    try:
        would = await asyncio.to_thread(_erasure, request.app.state.store, request_id)
    except SQLAlchemyError:
        return _missing(request, request_id, AWAY)
    if would is None:
        return _missing(request, request_id, _unknown(request_id))
    gone = not (would.contents or would.feedback or would.responses)
    return page(request, "request_erase.html", "Delete what a request says", id=request_id, would=would, gone=gone)


async def _reading(request: Request[Any, Any, Any], request_id: str) -> Read | str:
    """The request, or in words why there is none."""
    try:
        found = await request.app.state.read_request(request, request_id)
    except SQLAlchemyError:
        return AWAY
    return _unknown(request_id) if found is None else found


def _unknown(request_id: str) -> str:
    return f"There is no request {request_id} in the ledger. One that was just answered is here within a second."


def _missing(request: Request[Any, Any, Any], request_id: str, why: str) -> Response[bytes]:
    status = 503 if why is AWAY else 404
    return page(request, "request_missing.html", TITLE, status=status, problem=why, id=request_id)


def _erasure(store: Store, request_id: str) -> Erasure | None:
    if requests.get(store, request_id) is None:
        return None
    return erasure.erase(store, erasure.resolve(store, "request", request_id), "", dry_run=True)


def _context(store: Store, read: Read) -> dict[str, Any]:
    row, content = read["request"], read["content"]
    client, origin = client_request(row["id"]), origin_of(row["tags"])
    names = {key.id: key.name for key in keys.list_keys(store)}
    return {
        "row": row,
        "figures": _figures(row, names),
        "read": read,
        "content": content,
        "messages": answers.messages(content.messages) if content else [],
        "tokens": answers.tokens(content) if content else [],
        "least_sure": [(token, words.percent(p)) for token, p in answers.least_sure(content)] if content else [],
        "bands": BANDS,
        "student_answers": row["route"] == "student",
        "both": _both(read),
        "beside": [(each["request"]["id"], _beside(each["request"])) for each in read["beside"]],
        "of": client if client != row["id"] else origin,
        "feedback": read["feedback"],
        "replays": _replays(read),
        "can_replay": content is not None and row["endpoint"] in REPLAYED,
    }


def _beside(row: Mapping[str, Any]) -> str:
    return BESIDE[row["id"].rpartition("-")[2]]


def _both(read: Read) -> Compared | None:
    """The student's answer and the teacher's, where both are kept: of this row or of one beside it."""
    kept: Sequence[Content | None] = [read["content"], *(each["content"] for each in read["beside"])]
    pair = next((each for each in kept if each is not None and each.student_answer is not None), None)
    return answers.compared(pair.student_answer or "", pair.answer) if pair else None


def _replays(read: Read) -> list[Replayed]:
    own: Content | None = read["content"]
    return [
        Replayed(
            each["request"],
            answers.compared(own.answer, each["content"].answer) if own and each["content"] else None,
        )
        for each in read["replays"]
    ]


def _figures(row: Mapping[str, Any], names: Mapping[str, str]) -> list[dict[str, str]]:
    status = f"{row['error_code'] or 'ok'}, {row['finish_reason'] or 'no finish reason'}"
    lost = row["attempt_completion_tokens"]
    prompt, answer, cached = (words.count(row[f"{kind}_tokens"]) for kind in ("prompt", "completion", "cached"))
    saved = row["baseline_nano"] - row["cost_nano"]
    return [
        _figure("Answered by", row["route"], row["reason"]),
        _figure("Status", str(row["status"]), status),
        _figure("Received", words.when(row["created_at"]), "streamed" if row["stream"] else "answered whole"),
        _figure("Whole answer", words.milliseconds(row["latency_ms"]), "from the request's arrival"),
        _figure("First token", words.milliseconds(row["first_token_ms"]), "of a stream"),
        _figure("Tokens", f"{prompt} + {answer}", f"asked and answered; {cached} from a cache"),
        _figure("Tokens in vain", words.count(lost), "of answers that were abandoned; they are billed"),
        _figure("Cost", words.money(row["cost_nano"]), "by the prices of its time"),
        _figure("On the teacher alone", words.money(row["baseline_nano"]), f"{words.money(saved)} saved"),
        _figure("Score", _number(row["score"]), "chance that the student's answer would do, before it was asked"),
        _figure("Confidence", _number(row["confidence"]), "the same, after its answer was read"),
        _figure("Release", row["release_id"] or words.NOTHING, f"asked for as {row['model']}"),
        _figure("Key", names.get(row["key_id"], row["key_id"]) or words.NOTHING, row["endpoint"]),
        _figure("Tags", ", ".join(row["tags"]) or words.NOTHING, _training(row)),
    ]  # fmt: skip


def _training(row: Mapping[str, Any]) -> str:
    return "may be trained on" if row["trainable"] else "not to be trained on"


def _number(value: float | None) -> str:
    return words.NOTHING if value is None else f"{value:.3f}"


def _figure(name: str, value: str, note: str = "") -> dict[str, str]:
    return {"name": name, "value": value, "note": note}
