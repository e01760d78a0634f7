"""What every POST of ``/v1`` goes through: it enters, is done once per ``Idempotency-Key``, and leaves at its end."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send

from gateway.admission import Admission, Ask, Visit
from gateway.asgi import PlainAnswer
from gateway.call import Call, Pricing
from gateway.errors import ApiError, error_parts, request_id
from gateway.exchange import body_of, headers_of
from gateway.idempotency import Idempotency, KeptAnswer, digest_of
from gateway.relay import Relay
from ledger.prices import Tokens
from router.policy import supported

__all__ = ("Work", "ask_of_call", "ask_of_other", "attend")

Work: TypeAlias = Callable[[Visit], Awaitable[ASGIApp]]
BYTES_PER_TOKEN: Final = 4
IMAGE_TOKENS: Final = 1_000
ANSWER_TOKENS: Final = 256
"""Where the client sets no bound."""
MOST_TOKENS: Final = 10**9


async def attend(request: Request[Any, Any, Any], work: Work) -> ASGIApp:
    """Do a request's work as a visit, which ends with the last byte of the answer, or with its failure.

    Raises `ApiError`.
    """
    of_request = request.scope["state"]
    admission: Admission = request.app.state.admission
    visit = admission.enter(request_id(request), of_request.get("key"))
    of_request["limit_headers"] = visit.headers
    done = False
    try:
        once = "idempotency-key" in headers_of(request)
        answer = await (_once(request, visit, work) if once else work(visit))
        done = True
    finally:
        if not done:
            visit.leave()

    async def attended(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await answer(scope, receive, send)
        finally:
            visit.leave()

    return attended


async def _once(request: Request[Any, Any, Any], visit: Visit, work: Work) -> ASGIApp:
    kept: Idempotency = request.app.state.idempotency
    digest = digest_of(request.url.path, await body_of(request))
    begun = kept.begin(visit.key_id, headers_of(request)["idempotency-key"], digest)
    if isinstance(begun, KeptAnswer):
        return begun
    done = False
    try:
        answer = await work(visit)
        done = True
    except ApiError as error:
        answer = PlainAnswer(*error_parts(request, error))
        done = True
    finally:
        if not done:
            begun.end()
    return begun.watch(answer)


def ask_of_call(call: Call, size: int, relay: Relay) -> Ask:
    """What a call to the relay asks for. ``size`` is that of the client's body, in bytes."""
    view, release = call.view, relay.live.snapshot.release
    read = sum(len(text) for _, text in view.messages)
    # a picture's bytes are not tokens
    prompt = read // BYTES_PER_TOKEN + IMAGE_TOKENS if view.has_images else max(read, size) // BYTES_PER_TOKEN
    answer = min((view.max_tokens or ANSWER_TOKENS) * view.n, MOST_TOKENS)
    return Ask(
        model=call.model,
        target=call.target,
        tokens=Tokens(prompt, answer),
        prices={"student": relay.pricing.student, "teacher": relay.pricing.teacher},
        student_can=lambda: supported(view, relay.capabilities),
        student_is_live=release is not None and bool(release.student_urls),
    )


def ask_of_other(call: Call, size: int, pricing: Pricing) -> Ask:
    """What a call to another server asks for, whose answer is no text."""
    return Ask(
        model=call.model,
        target=call.target,
        tokens=Tokens(size // BYTES_PER_TOKEN),
        prices={"teacher": pricing.teacher},
    )
