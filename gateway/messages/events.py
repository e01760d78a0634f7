"""A chat's chunks as the events of a message: one block after another begins, grows by deltas, and stops."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.messages.errors import shaped_error
from gateway.messages.reply import Ending, ending, message, thought_of, usage, whole_arguments
from gateway.messages.request import Asking
from gateway.translated import named_event
from gateway.wire import encode, mapping, objects, string

__all__ = ("MessageTranslation", "broken_off")

KEPT_OF_A_CHUNK: Final = ("model", "usage")
GROWS_BY: Final = {"text": "text_delta", "thinking": "thinking_delta"}
"""Kinds of blocks, which are the names of their texts too, with those of their deltas."""


def broken_off(error: dict[str, Any], request_id: str) -> bytes:
    """The event that ends a stream before its time."""
    return b"event: error\ndata: " + encode(shaped_error(error, 500, request_id)) + b"\n\n"


@dataclass(slots=True)
class _Call:
    """A tool that is called."""

    id: str = ""
    name: str = ""
    arguments: str = ""
    is_shown: bool = False
    """Whether its block has begun."""

    def is_whole(self) -> bool:
        """Whether its arguments are an object, to which nothing can be added."""
        return self.arguments.endswith("}") and whole_arguments(self.arguments) is not None


@dataclass(slots=True)
class MessageTranslation:
    """What was said so far. One block grows at a time: a call waits for the end while another's arguments grow."""

    asking: Asking
    _chat: dict[str, Any] = field(default_factory=dict[str, Any])
    _last: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of the choice, what says why it is over."""
    _has_begun: bool = False
    _refused: bool = False
    _blocks: int = 0
    _open: str | None = None
    """The kind of the block that grows now."""
    _growing: _Call | None = None
    """The call whose block grows now."""
    _calls: dict[str, _Call] = field(default_factory=dict[str, _Call])
    """By their index in the chat."""
    _late: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """What was said while a call's arguments grew: kinds and texts."""

    def read(self, chunk: dict[str, Any]) -> bytes:
        """The events that a chunk stands for, or those that end the stream where it reports an error."""
        error = chunk.get("error")
        if isinstance(error, dict):
            return b"".join([*self._begin(), broken_off(mapping(error), self.asking.request_id)])
        self._chat |= {name: chunk[name] for name in KEPT_OF_A_CHUNK if chunk.get(name) is not None}
        return b"".join([*self._begin(), *self._choices(chunk)])

    def finish(self) -> Iterator[bytes]:
        """The events that close what is open, and the last two."""
        events = list(self._begin())
        for call in self._calls.values():
            if not call.is_shown:
                events += self._show(call)
        self._growing = None
        for kind, text in self._late:
            events += self._say(kind, text)
        events += self._close()
        end: Ending = ending(self.asking, self._last, bool(self._calls), self._refused)
        events.append(named_event("message_delta", delta=end, usage=usage(self._chat.get("usage"))))
        yield b"".join(events)
        yield named_event("message_stop")

    def _begin(self) -> Iterator[bytes]:
        if not self._has_begun:
            self._has_begun = True
            yield named_event("message_start", message=message(self.asking, self._chat, (), None))
            yield named_event("ping")

    def _choices(self, chunk: dict[str, Any]) -> Iterator[bytes]:
        for choice in objects(chunk.get("choices")):
            if choice.get("index", 0) != 0:
                continue
            delta = mapping(choice.get("delta"))
            thought, refusal = thought_of(delta), string(delta.get("refusal"))
            self._refused = self._refused or bool(refusal)
            if thought and self.asking.shows_thinking:
                yield from self._say("thinking", thought)
            for text in (string(delta.get("content")), refusal):
                if text:
                    yield from self._say("text", text)
            for piece in objects(delta.get("tool_calls")):
                yield from self._call(piece)
            if choice.get("finish_reason"):
                self._last = choice

    def _say(self, kind: str, text: str) -> Iterator[bytes]:
        if not self._may_turn():
            self._late.append((kind, text))
            return
        if self._open != kind:
            signature = {"signature": ""} if kind == "thinking" else {}
            yield from self._begin_block(kind, {kind: "", **signature})
        yield self._delta({"type": GROWS_BY[kind], kind: text})

    def _call(self, piece: dict[str, Any]) -> Iterator[bytes]:
        function = mapping(piece.get("function"))
        call = self._calls.setdefault(str(piece.get("index", 0)), _Call())
        call.id = call.id or string(piece.get("id"))
        call.name = call.name or string(function.get("name"))
        arguments = string(function.get("arguments"))
        call.arguments += arguments
        if call is self._growing:
            if arguments:
                yield self._delta({"type": "input_json_delta", "partial_json": arguments})
        elif not call.is_shown and call.name and self._may_turn() and self._is_next(call):
            yield from self._show(call)

    def _may_turn(self) -> bool:
        """Whether another block may begin now."""
        return self._growing is None or self._growing.is_whole()

    def _is_next(self, call: _Call) -> bool:
        return call is next(each for each in self._calls.values() if not each.is_shown)

    def _show(self, call: _Call) -> Iterator[bytes]:
        """The block of a call, with what came of its arguments."""
        shown = sum(each.is_shown for each in self._calls.values())
        head = {"id": call.id or self.asking.call_id(shown), "name": call.name, "input": {}}
        yield from self._begin_block("tool_use", head)
        self._growing, call.is_shown = call, True
        if call.arguments:
            yield self._delta({"type": "input_json_delta", "partial_json": call.arguments})

    def _begin_block(self, kind: str, fields: dict[str, Any]) -> Iterator[bytes]:
        yield from self._close()
        self._open = kind
        yield named_event("content_block_start", index=self._blocks, content_block={"type": kind, **fields})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return named_event("content_block_delta", index=self._blocks, delta=delta)

    def _close(self) -> Iterator[bytes]:
        if self._open is not None:
            yield named_event("content_block_stop", index=self._blocks)
            self._blocks += 1
            self._open = self._growing = None
