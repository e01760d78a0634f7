"""A chat's chunks as the events of a response: each item is added, grows by deltas, and is done."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.responses.items import Item
from gateway.responses.reply import (
    CUT_SHORT,
    PART_TEXTS,
    call_item,
    failed,
    finished,
    message_item,
    part,
    response,
)
from gateway.responses.request import Asking
from gateway.translated import named_event
from gateway.wire import mapping, objects, string

__all__ = ("ResponseTranslation",)

KEPT_OF_A_CHUNK: Final = ("model", "service_tier", "usage")


@dataclass(slots=True)
class ResponseTranslation:
    """What was said so far. Text after a call is a new message; calls may grow side by side until the end."""

    asking: Asking
    on_end: Callable[[dict[str, Any]], Any]
    """Gets the finished response, before its last event goes out."""
    _events: int = 0
    _chat: dict[str, Any] = field(default_factory=dict[str, Any])
    _output: list[Item] = field(default_factory=list[Item])
    _message: int | None = None
    """Where in the output the open message is."""
    _calls: dict[Any, int] = field(default_factory=dict[Any, int])
    """Where in the output each call is, by its index in the chat."""
    _tokens: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Those of a text that has not begun: a model's first token may be half a character."""
    _finish_reason: str = ""

    def read(self, chunk: dict[str, Any]) -> bytes:
        """The events that a chunk stands for, or those that end the stream where it reports an error."""
        error = chunk.get("error")
        if isinstance(error, dict):
            return b"".join([*self._begin(), self._fail(mapping(error))])
        self._chat |= {name: chunk[name] for name in KEPT_OF_A_CHUNK if chunk.get(name) is not None}
        return b"".join([*self._begin(), *self._choices(chunk)])

    def finish(self) -> Iterator[bytes]:
        """The events that close what is open, and the last one, with the finished response in it."""
        cut = CUT_SHORT.get(self._finish_reason)
        events = list(self._begin())
        if not self._output:
            events += self._open_part("output_text")
        events += self._close_message("incomplete" if cut else "completed")
        for n in self._calls.values():
            events += self._close_call(n, "incomplete" if cut else "completed")
        ended = finished(self.asking, self._chat, self._output, cut)
        yield b"".join(events)
        self.on_end(ended)
        yield self._event(f"response.{ended['status']}", response=ended)

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = named_event(kind, sequence_number=self._events, **fields)
        self._events += 1
        return event

    def _begin(self) -> Iterator[bytes]:
        if self._events == 0:
            begun = response(self.asking, "in_progress", {"model": self._chat.get("model")}, ())
            yield self._event("response.created", response=begun)
            yield self._event("response.in_progress", response=begun)

    def _fail(self, error: dict[str, Any]) -> bytes:
        message = string(error.get("message")) or "The stream broke off."
        return self._event("response.failed", response=failed(self.asking, self._chat, self._output, message))

    def _choices(self, chunk: dict[str, Any]) -> Iterator[bytes]:
        for choice in objects(chunk.get("choices")):
            if choice.get("index", 0) != 0:
                continue
            delta = mapping(choice.get("delta"))
            self._tokens += objects(mapping(choice.get("logprobs")).get("content"))
            content, refusal = string(delta.get("content")), string(delta.get("refusal"))
            if content or (self._tokens and self._message is not None):
                yield from self._say("output_text", content, self._tokens)
                self._tokens = []
            if refusal:
                yield from self._say("refusal", refusal, ())
            for call in objects(delta.get("tool_calls")):
                self._tokens = []
                yield from self._call(call)
            self._finish_reason = string(choice.get("finish_reason")) or self._finish_reason

    def _say(self, kind: str, text: str, tokens: Sequence[dict[str, Any]]) -> Iterator[bytes]:
        yield from self._open_part(kind)
        said, place = self._open()
        said[PART_TEXTS[kind]] += text
        logprobs: dict[str, Any] = {}
        if kind == "output_text":
            said["logprobs"] += tokens
            logprobs = {"logprobs": tokens}
        yield self._event(f"response.{kind}.delta", **place, delta=text, **logprobs)

    def _open(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The part that grows now, and where it is."""
        n = self._message or 0
        item = self._output[n]
        place = {"item_id": item["id"], "output_index": n, "content_index": len(item["content"]) - 1}
        return item["content"][-1], place

    def _open_part(self, kind: str) -> Iterator[bytes]:
        if self._message is None:
            self._message = len(self._output)
            item = message_item(self.asking, self._message, "in_progress", ())
            yield self._event("response.output_item.added", output_index=self._message, item=item)
            self._output.append(item)
        parts = self._output[self._message]["content"]
        if parts and parts[-1]["type"] != kind:
            yield from self._close_part()
        if not parts or parts[-1]["type"] != kind:
            parts.append(part(kind, ""))
            yield self._event("response.content_part.added", **self._open()[1], part=parts[-1])

    def _close_part(self) -> Iterator[bytes]:
        said, place = self._open()
        whole = {name: said[name] for name in (PART_TEXTS[said["type"]], "logprobs") if name in said}
        yield self._event(f"response.{said['type']}.done", **place, **whole)
        yield self._event("response.content_part.done", **place, part=said)

    def _close_message(self, status: str) -> Iterator[bytes]:
        if self._message is None:
            return
        yield from self._close_part()
        item = self._output[self._message]
        item["status"] = status
        yield self._event("response.output_item.done", output_index=self._message, item=item)
        self._message = None

    def _call(self, call: dict[str, Any]) -> Iterator[bytes]:
        index = str(call.get("index", 0))
        if index not in self._calls:
            yield from self._close_message("completed")
            self._calls[index] = len(self._output)
            item = call_item(self.asking, len(self._output), call) | {"arguments": ""}
            self._output.append(item)
            yield self._event("response.output_item.added", output_index=self._calls[index], item=item)
        n = self._calls[index]
        item, function = self._output[n], mapping(call.get("function"))
        item["name"] = item["name"] or string(function.get("name"))
        arguments = string(function.get("arguments"))
        if arguments:
            item["arguments"] += arguments
            place = {"item_id": item["id"], "output_index": n}
            yield self._event("response.function_call_arguments.delta", **place, delta=arguments)

    def _close_call(self, n: int, status: str) -> Iterator[bytes]:
        item = self._output[n]
        item["status"] = status
        yield self._event(
            "response.function_call_arguments.done",
            item_id=item["id"], output_index=n, name=item["name"], arguments=item["arguments"],
        )  # fmt: skip
        yield self._event("response.output_item.done", output_index=n, item=item)
