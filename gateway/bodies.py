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
    if harvest and _is_learned_from(call):
        body |= _logprobs(call, harvest)
    return body


def explore_body(call: Call, teacher: Upstream, harvest: int) -> dict[str, Any]:
    """The teacher's body as a whole answer, which no client waits for."""
    body = _client_body(call) | {"model": teacher.model, "stream": False}
    body.pop("stream_options", None)
    return body | _logprobs(call, harvest) if harvest else body


def _client_body(call: Call) -> dict[str, Any]:
    """Its values as the client wrote them, where they are those that it sent."""
    return call.body if call.written is None else call.written


def _is_learned_from(call: Call) -> bool:
    return call.keep_content and call.trainable and call.view.n == 1 and not call.view.has_tools


def _asking(call: Call, upstream: Upstream, usage: dict[str, Any]) -> dict[str, Any]:
    body = _client_body(call) | {"model": upstream.model}
    if call.stream:
        options = call.body.get("stream_options")
        body["stream_options"] = (options if isinstance(options, dict) else {}) | usage
    return body


def _logprobs(call: Call, wanted: int) -> dict[str, Any]:
    top = max(wanted, call.asked.top_logprobs)
    return {"logprobs": True, "top_logprobs": top} if call.endpoint.chat else {"logprobs": top}
