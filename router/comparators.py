"""Whether the student's answer is as good as the teacher's, by the comparator that suits what was asked.

Light, for the gateway loads it. The comparators that have to ask a model are only named here: `DEFERRED`, done later
by the worker.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from router.numbers import Number, final_number
from router.settings import RouterSettings

__all__ = ("AUTO", "COMPARATORS", "DEFERRED", "Reply", "agreed", "choose", "compare", "infer", "obvious", "same_text")

AUTO: Final = "auto"
"""In the settings: infer it from the request and the teacher's answer."""
DEFERRED: Final = ("embedding", "judge", "likelihood")
"""Comparators that ask a model: similarity of meaning, the teacher as judge, the student's own likelihood."""
MAX_DEPTH: Final = 100
"""JSON that is nested deeper is compared as text."""
AGREED: Final = 0.5
"""A label of so much or more counts as agreement."""
SHORT_WORDS: Final = 12
SHORT_CHARS: Final = 100
"""The bound of a short answer in scripts without spaces."""
TRAILING: Final = ".,;:!?。、؟ "
"""Only marks that end a sentence or a clause: "5%" and "5" are different answers."""
JSON_FORMATS: Final = ("json_schema", "json_object")
FENCE: Final = re.compile(r"```[\w+-]*[ \t]*\n(.*)```", re.DOTALL)
ASKS_QUANTITY: Final = re.compile(
    r"\bhow (many|much|old|far|long|tall)\b|\b(calculate|compute|evaluate|solve|percentage|sum of|product of)\b"
    r"|\bcombien\b|\bwie ?viele?\b|\bberechne|\bcu[aá]nt[oa]s?\b|\bquant[oaie]s?\b|сколько|多少"
    r"|几个|いくつ|いくら|몇",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its text, and the tools it calls as (name, arguments in JSON)."""

    text: str = ""
    tool_calls: tuple[tuple[str, str], ...] = ()
    finish_reason: str | None = None

    @staticmethod
    def kept(text: str | None, tool_calls: object, finish_reason: str | None = None) -> "Reply":
        """From a text and OpenAI's ``tool_calls``. Odd shapes count as absent; nothing is raised."""
        calls = [_mapping(_mapping(call).get("function")) for call in _sequence(tool_calls)]
        pairs = tuple((str(call.get("name") or ""), str(call.get("arguments") or "")) for call in calls)
        return Reply(text or "", pairs, finish_reason)


def compare(name: str, student: Reply, teacher: Reply) -> float:
    """Agreement from 0 to 1 by a comparator of `COMPARATORS`.

    Where either calls tools, the calls are compared, whatever the name. Raises ``KeyError`` for any other name: a
    deferred one needs a model.
    """
    comparator = COMPARATORS[name]
    if student.tool_calls or teacher.tool_calls:
        return _tools(student, teacher)
    return comparator(student, teacher)


def agreed(agreement: float) -> bool:
    """Whether a label counts as agreement."""
    return agreement >= AGREED


def choose(settings: RouterSettings, tags: Sequence[str], model: str, body: Mapping[str, Any], teacher: Reply) -> str:
    """The comparator's name for a request: as the settings say for one of its tags (the first that is named there),
    then for the model name it was sent to, then for all; inferred where they say ``auto``.
    """
    named = (settings.comparators[key] for key in (*tags, model) if key in settings.comparators)
    name = next(named, settings.comparator)
    return infer(body, teacher) if name == AUTO else name


def infer(body: Mapping[str, Any], teacher: Reply) -> str:
    """The comparator's name from what was asked and what the teacher answered.

    Free text is ``embedding``; where no embeddings are configured, the worker takes another one in its place.
    """
    if teacher.tool_calls:
        return "tools"
    text = teacher.text.strip()
    if _mapping(body.get("response_format")).get("type") in JSON_FORMATS or _is_structure(text):
        return "json"
    if _is_numeric(text, _last_turn(body)):
        return "numeric"
    return "exact" if _is_short(text) else "embedding"


def obvious(student: Reply, teacher: Reply) -> float | None:
    """What is known without a model of two answers whose comparator asks one: 1 for equal ones, 0 where the calls of
    tools differ or only one of the two says anything; None where a model has to say.
    """
    if student.tool_calls or teacher.tool_calls:
        return _tools(student, teacher)
    if _exact(student, teacher):
        return 1.0
    return None if student.text.strip() and teacher.text.strip() else 0.0


def same_text(one: str, other: str) -> bool:
    """Whether the two are equal but for case, white space, Unicode form (NFKC) and trailing punctuation."""
    return _normalised(one) == _normalised(other)


def _exact(student: Reply, teacher: Reply) -> float:
    return float(same_text(student.text, teacher.text))


def _json(student: Reply, teacher: Reply) -> float:
    """Equal as JSON: numbers by value, keys in any order, code fences stripped. As text where neither is JSON."""
    one, other = _parsed(student.text), _parsed(teacher.text)
    if one is None and other is None:
        return _exact(student, teacher)
    return float(one == other)


def _numeric(student: Reply, teacher: Reply) -> float:
    """The same final number. As text where neither has one."""
    one, other = final_number(student.text), final_number(teacher.text)
    if one is None and other is None:
        return _exact(student, teacher)
    return float(one is not None and other is not None and _same_number(one, other))


def _tools(student: Reply, teacher: Reply) -> float:
    """The same calls in any order, with arguments that are equal as JSON. As text where neither calls any."""
    if not student.tool_calls and not teacher.tool_calls:
        return _exact(student, teacher)
    return float(Counter(_calls(student)) == Counter(_calls(teacher)))


COMPARATORS: Final[dict[str, Callable[[Reply, Reply], float]]] = {
    "exact": _exact,
    "json": _json,
    "numeric": _numeric,
    "tools": _tools,
}
"""The comparators that need no model, each symmetric, from 0 to 1, and 1 for an answer with itself."""


def _normalised(text: str) -> str:
    # Case folding can undo the normal form (Unicode 3.13, D146), hence twice.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = " ".join(folded.split())
    return words.rstrip(TRAILING) or words


def _same_number(one: Number, other: Number) -> bool:
    # a unit that only one of them says is not held against it, but 5% is not 5
    percent = one.percent == other.percent
    return one.value == other.value and percent and len({one.currency, other.currency} - {""}) < 2


def _calls(reply: Reply) -> Iterable[tuple[str, object]]:
    for name, arguments in reply.tool_calls:
        parsed = _parsed(arguments or "{}")
        yield name, arguments if parsed is None else parsed


def _parsed(text: str) -> object:
    """JSON in a form that is equal and hashed alike for equal values; None for what is not JSON."""
    fenced = FENCE.fullmatch(text.strip())
    try:
        return _canonical(msgspec.json.decode(fenced[1] if fenced else text), 0)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def _canonical(value: Any, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return "object", frozenset((key, _canonical(each, depth + 1)) for key, each in items)
    if isinstance(value, list):
        return "array", tuple(_canonical(each, depth + 1) for each in cast("list[Any]", value))
    # true and 1 are equal to Python
    return type(value) in (int, float), type(value) is bool, value


def _is_structure(text: str) -> bool:
    parsed = _parsed(text)
    return isinstance(parsed, tuple) and parsed[0] in ("object", "array")


def _is_numeric(text: str, asked: str) -> bool:
    number = final_number(text)
    if number is None:
        return False
    if number.boxed or number.whole:
        return True
    # a number is in the question, or it asks for one: then the words around the answer's number are its dress
    asks = ASKS_QUANTITY.search(asked) is not None
    return asks or (number.last and _is_short(text) and any(map(str.isdigit, asked)))


def _is_short(text: str) -> bool:
    return len(text.splitlines()) <= 1 and len(text.split()) <= SHORT_WORDS and len(text) <= SHORT_CHARS


def _last_turn(body: Mapping[str, Any]) -> str:
    """The text of the last user message."""
    turns = [_mapping(message) for message in _sequence(body.get("messages"))]
    content = next((turn.get("content") for turn in reversed(turns) if turn.get("role") == "user"), "")
    if isinstance(content, str):
        return content
    return "\n".join(str(_mapping(part).get("text") or "") for part in _sequence(content))


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _sequence(value: object) -> Sequence[object]:
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()
