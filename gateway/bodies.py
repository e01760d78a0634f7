"""What is asked of an upstream: the client's body, with what the router and the ledger need to see of the answer."""

from typing import Any, Final

from gateway.call import Call
from gateway.upstream import Upstream
from router.signals import SIGNAL_TOP

__all__ = ("explore_body", "student_body", "teacher_body")

# an attempt that is abandoned never sends its last usage chunk, so its cost is read from the running count
RUNNING_USAGE: Final = {"include_usage": True, "continuous_usage_stats": True}


def student_body(call: Call, student: Upstream) -> dict[str, Any]:
    """With the log-probabilities that its confidence is read from."""
    return _asking(call, student, RUNNING_USAGE) | _logprobs(call, SIGNAL_TOP)


def teacher_body(call: Call, teacher: Upstream, harvest: int) -> dict[str, Any]:
    """With ``harvest`` log-probabilities per token where the answer may be learned from."""
    body = _asking(call, teacher, {"include_usage": True})
    if harvest and call.keep_content and call.view.n == 1 and not call.view.has_tools:
        body |= _logprobs(call, harvest)
    return body


def explore_body(call: Call, teacher: Upstream, harvest: int) -> dict[str, Any]:
    """The teacher's body as a whole answer, which no client waits for."""
    body = call.body | {"model": teacher.model, "stream": False}
    body.pop("stream_options", None)
    return body | _logprobs(call, harvest) if harvest else body


def _asking(call: Call, upstream: Upstream, usage: dict[str, Any]) -> dict[str, Any]:
    body = call.body | {"model": upstream.model}
    if call.stream:
        options = body.get("stream_options")
        body["stream_options"] = (options if isinstance(options, dict) else {}) | usage
    return body


def _logprobs(call: Call, wanted: int) -> dict[str, Any]:
    return {"logprobs": True, "top_logprobs": max(wanted, call.asked.top_logprobs)}
