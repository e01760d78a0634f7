"""What a person sees where a page cannot be shown: the gateway's own error in words, inside the pages' frame."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import msgspec
from litestar import Request, Response

from dashboards.site import page

__all__ = ("Answer", "in_words")

Answer: TypeAlias = Callable[[Request[Any, Any, Any], Exception], Response[bytes]]


class _Said(msgspec.Struct):
    message: str


class _Body(msgspec.Struct):
    error: _Said


def in_words(answers: Mapping[Any, Answer]) -> dict[Any, Answer]:
    """These answers to errors, as pages for who asks for one; a program and a part of a page get them as they are."""
    return {kind: partial(_in_words, answer) for kind, answer in answers.items()}


def _in_words(answer: Answer, request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    plain = answer(request, error)
    status = plain.status_code or 500
    if status < 400 or "text/html" not in request.headers.get("accept", ""):
        return plain
    try:
        said = msgspec.json.decode(plain.content, type=_Body).error.message
    except msgspec.MsgspecError:
        return plain
    again = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
    context = {"said": said, "again": again, "code": status, "request_id": plain.headers.get("x-request-id", "")}
    shown = page(request, "failed.html", "This page cannot be shown", status, **context)
    shown.headers.update(plain.headers)
    return shown
