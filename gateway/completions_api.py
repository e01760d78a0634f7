"""``/v1/completions``: a text to go on from, the older of OpenAI's two shapes, routed as one message of a user."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from litestar import Request, post
from litestar.types import ASGIApp

from gateway.auth import opt
from gateway.call import Call, Caller, Endpoint, begin_call, decode_body
from gateway.errors import BadRequest
from gateway.openai_api import answer_call
from gateway.wire import as_written

__all__ = ("COMPLETIONS", "completions", "read_completion")

COMPLETIONS: Final = Endpoint("completions", "/completions", chat=False)
MAX_LOGPROBS: Final = 20
TEACHERS_OWN: Final = {"suffix": (None, ""), "echo": (None, False), "best_of": (None, 1)}
"""Fields that send a prompt to the teacher, with the values that ask for nothing."""


@post("/v1/completions", opt=opt("inference", short_way=True), status_code=200)
async def completions(request: Request[Any, Any, Any]) -> ASGIApp:
    """OpenAI's completions, plain or streamed."""
    return await answer_call(request, read_completion)


def read_completion(raw: bytes, headers: Mapping[str, str], caller: Caller) -> Call:
    """Read a request for a completion. Raises `BadRequest` or `NotFound` with the parameter that is wrong."""
    body = decode_body(raw)
    prompt, top = body.get("prompt"), body.get("logprobs")
    if not isinstance(prompt, str | list) or prompt == []:
        raise BadRequest("'prompt' must be a string, or a list of strings or of tokens", param="prompt")
    if top is not None and (not isinstance(top, int) or isinstance(top, bool) or not 0 <= top <= MAX_LOGPROBS):
        raise BadRequest(f"'logprobs' must be an integer between 0 and {MAX_LOGPROBS}", param="logprobs")
    call = begin_call(COMPLETIONS, body, [{"role": "user", "content": prompt}], headers, caller)
    call.written = as_written(raw)
    call.asked = replace(call.asked, logprobs=top is not None, top_logprobs=top or 0)
    teachers = any(body.get(name) not in values for name, values in TEACHERS_OWN.items())
    call.view = replace(call.view, unserved=call.view.unserved or teachers or not isinstance(prompt, str))
    # a student is trained on turns of a conversation in its chat template; this text was continued outside of one
    call.trainable = False
    return call
