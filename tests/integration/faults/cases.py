"""The faults, and what each is to a request: the one table that the matrix is made of."""

import json
from dataclasses import dataclass
from enum import Enum, auto

from tests.fault_proxy import EVENT_END, GOOD, HEAD_END, Fault
from tests.scripted_upstream import Script, event, stream_events, token_logprobs, usage

FIRST_BYTE, SILENCE, TOTAL, RETRIES = 0.3, 0.4, 0.75, 1
"""The gateway's timeouts (s) and retries, of both sides."""
WORDS = "two three four five six seven eight"
LIMITED_BODY = (
    b'{"error":{"message":"Rate limit reached","type":"requests","param":null,"code":"rate_limit_exceeded"}}'
)
QUOTA_BODY = (
    b'{"error":{"message":"You exceeded your quota","type":"insufficient_quota","param":null,'
    b'"code":"insufficient_quota"}}'
)
BIG = "x" * 5_000_000


class Effect(Enum):
    """What a fault is to the request that meets it."""

    NONE = auto()
    LOST = auto()
    """Nothing of it was sent to the client: the other side may answer."""
    BROKEN = auto()
    """The client saw a part: an error event ends it."""
    LATE = auto()
    """As `LOST`, by the deadline."""
    BROKEN_LATE = auto()
    """As `BROKEN`, by the deadline."""
    LIMITED = auto()
    """The side asks for patience: the teacher may answer for the student, else it is passed on."""


@dataclass(frozen=True)
class Case:
    """A fault and its effects. None: there is no such fault of a plain answer."""

    plain: Effect | None
    student_stream: Effect
    teacher_stream: Effect
    network: Fault = GOOD
    script: Script | None = None
    """What the upstream itself does; None: answer well."""
    stream_script: Script | None = None
    """What it does with streams, where that is something else."""
    code: str = "rate_limit_exceeded"
    """What the upstream calls its refusal."""
    lost: int = 0
    """Tokens of a student's stream that are lost with it, and billed as an attempt's."""

    def script_for(self, stream: bool) -> Script | None:
        return self.stream_script if stream and self.stream_script else self.script

    def effect(self, side: str, stream: bool) -> Effect | None:
        if not stream:
            return self.plain
        return self.student_stream if side == "student" else self.teacher_stream


ASKED = {"model": "m", "logprobs": True, "top_logprobs": 5, "stream_options": {"include_usage": True}}


def _told(word: str) -> list[bytes]:
    """The events of a good stream that begins with this word."""
    return list(stream_events(ASKED, Script(text=f"{word} {WORDS}", logprob=-0.02)))


def _big_events() -> tuple[bytes, ...]:
    """A stream whose seventh event is of 5 MB."""
    choice = {"index": 0, "delta": {"content": BIG}, "finish_reason": None, "logprobs": None}
    big = event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]})
    events = _told("big")
    return (*events[:6], big, *events[6:])


def _big_answer() -> bytes:
    said = [token_logprobs(word, -0.02, 5) for word in f"big {WORDS}".split()]
    message = {"role": "assistant", "content": f"big {WORDS}{BIG}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": said}}
    return json.dumps(
        {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage(8)}
    ).encode()


def _lost(network: Fault = GOOD, script: Script | None = None) -> Case:
    return Case(Effect.LOST, Effect.LOST, Effect.LOST, network, script)


def _broken(then: str, insert: bytes = b"", more: int = 20) -> Case:
    """A stream breaks behind its sixth event, a plain answer behind its headers."""
    return Case(None, Effect.BROKEN, Effect.BROKEN, Fault(then, EVENT_END, 6, more, insert))


def _answers(status: int, body: bytes = b"", **headers: str) -> Script:
    return Script(status=status, body=body, headers={name.replace("_", "-"): text for name, text in headers.items()})


FAULTS = {
    # the network's
    "refused": _lost(Fault("refuse")),
    "blackhole": _lost(Fault("stall")),
    "latency that is borne": Case(Effect.NONE, Effect.NONE, Effect.NONE, Fault(delay=0.12)),
    "latency beyond the timeout": _lost(Fault(delay=3 * FIRST_BYTE)),
    "reset before the headers": _lost(Fault("reset")),
    "closed before the headers": _lost(Fault("close")),
    "reset after the headers": _lost(Fault("reset", HEAD_END, 1)),
    "closed after the headers": _lost(Fault("close", HEAD_END, 1)),
    "half-closed after the headers": _lost(Fault("half-close", HEAD_END, 1)),
    "silent after the headers": _lost(Fault("stall", HEAD_END, 1)),
    "cut within the first chunk": _lost(Fault("close", HEAD_END, 1, 40)),
    "cut within the headers": _lost(Fault("close", more=30)),
    "garbage for the first chunk's size": _lost(
        script=Script(
            raw=b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nZZZ\r\n"
        )
    ),
    "headers that drip": _lost(Fault("drip", more=1)),
    "cut within the hold": Case(
        None, Effect.LOST, Effect.BROKEN, Fault("close", EVENT_END, 3, 20), lost=2
    ),
    "reset in mid-stream": _broken("reset"),
    "half-closed in mid-stream": _broken("half-close"),
    "silent in mid-stream": _broken("stall"),
    "cut within a chunk": _broken("close"),
    "garbage for a chunk's size": _broken("close", b"ZZZ\r\n", 0),
    "a body that drips": Case(Effect.LATE, Effect.LATE, Effect.LATE, Fault("drip", HEAD_END, 1)),
    "a stream that drips": Case(None, Effect.BROKEN_LATE, Effect.BROKEN_LATE, Fault("drip", EVENT_END, 6)),
    # the upstream's own
    "500": _lost(script=_answers(500, b'{"error":{"message":"x"}}')),
    "502": _lost(script=_answers(502, b"<html>Bad Gateway</html>")),
    "503": _lost(script=_answers(503)),
    "503 with a long retry-after": _lost(script=_answers(503, retry_after="30")),
    "429 with retry-after": Case(
        Effect.LIMITED, Effect.LIMITED, Effect.LIMITED, script=_answers(429, LIMITED_BODY, retry_after="30")
    ),
    "429 for the quota": Case(
        Effect.LIMITED, Effect.LIMITED, Effect.LIMITED, script=_answers(429, QUOTA_BODY), code="insufficient_quota"
    ),
    "200 with invalid JSON": _lost(script=Script(body=b'{"id": ')),
    "an event that is not JSON": Case(
        None, Effect.LOST, Effect.LOST, script=Script(events=(b"data: {oops\n\n", event(b"[DONE]")))
    ),
    "no [DONE]": Case(None, Effect.BROKEN, Effect.BROKEN, script=Script(events=tuple(_told("no")[:-1]))),
    "an answer of 5 MB": Case(
        Effect.NONE, Effect.NONE, Effect.NONE,
        script=Script(body=_big_answer()), stream_script=Script(events=_big_events()),
    ),
}  # fmt: skip
