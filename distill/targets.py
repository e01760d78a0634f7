"""Soft targets: a teacher's logged top-k log-probabilities, moved to the student's vocabulary by bytes.

Both sides' tokens are laid over the same text. A position has a target where both have a token of exactly these
bytes: then both distributions are of what follows the same text. `Alignment` says why any other position has none.
"""

import bisect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Literal, TypeAlias

import msgspec

__all__ = ("AlignedTarget", "Alignment", "Cause", "TeacherToken", "align", "aligned_share", "explain", "from_openai")

Cause: TypeAlias = Literal[
    "special", "split", "merged", "partial_utf8", "text_differs", "outside_vocabulary", "no_logprobs"
]
"""Why a position has no target.

``special``: it stands for no text, and the teacher logged no such token.
``split``: it is a part of one of the teacher's tokens. ``merged``: it is several of them.
``partial_utf8``: one side's token there is a part of a character.
``text_differs``: the texts differ there, or did before.
``outside_vocabulary``: nothing that the teacher considered is one token of the student's.
``no_logprobs``: the teacher's were not logged.
"""


class TeacherToken(msgspec.Struct, array_like=True):
    """One token of a teacher's answer, as logged.

    ``token`` and the texts of ``top`` are *bytes spelled as latin-1*: one character for each byte
    (``text.encode("latin-1")`` gives the bytes back). A token may be a part of a UTF-8 character, which no
    ordinary string holds, and latin-1 stays readable and encodable as JSON. Log-probabilities are natural.
    """

    token: str
    logprob: float
    top: list[tuple[str, float]]


@dataclass(frozen=True)
class AlignedTarget:
    """The teacher's distribution over student tokens at one position; empty means: the hard label only.

    ``logprobs`` are natural logs whose mass is at most 1; what is missing belongs to the tail.
    """

    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Alignment:
    """The targets of one answer, and where there is none, why. Both have an entry for each of the answer's ids."""

    targets: list[AlignedTarget]
    causes: list[Cause | None]
    given: float = 0.0
    """Probability that the teacher's logged tokens have, summed over the positions with a target."""
    kept: float = 0.0
    """Of that, what is on tokens that the student has."""

    @property
    def aligned_share(self) -> float:
        """Share of the answer's ids with a target."""
        return self.causes.count(None) / max(1, len(self.causes))


NO_TARGET: Final = AlignedTarget()
Span: TypeAlias = tuple[int, int]


def from_openai(content: Iterable[Mapping[str, Any]]) -> list[TeacherToken]:
    """Read the ``logprobs.content`` list of an OpenAI-shaped answer.

    An entry's ``bytes`` win over its text, since the text of a partial character is not what was generated.
    """
    return [
        TeacherToken(
            token=_latin1(entry),
            logprob=entry["logprob"],
            top=[(_latin1(other), other["logprob"]) for other in entry.get("top_logprobs") or ()],
        )
        for entry in content
    ]


def _latin1(entry: Mapping[str, Any]) -> str:
    given = entry.get("bytes")
    raw = bytes(given) if given is not None else entry["token"].encode("utf-8", errors="surrogatepass")
    return raw.decode("latin-1")


def align(
    answer_ids: Sequence[int],
    student_bytes: Sequence[bytes],
    teacher: Sequence[TeacherToken],
    vocabulary: Mapping[bytes, int],
) -> list[AlignedTarget]:
    """Give each answer token the teacher's distribution at the same place, where there is one.

    A target is given where a teacher token covers exactly the bytes of the student token *and* both texts
    agree up to its end: behind the first difference, the teacher's numbers are about another context. The end of the
    answer has one where the teacher's own end token is logged and ``vocabulary`` has it.

    Args:
        answer_ids: The student's ids of the answer, with its end token.
        student_bytes: Bytes by token id, as `token_bytes` gives them (special tokens: empty).
        teacher: The teacher's tokens of the same answer.
        vocabulary: Token id by bytes, as `byte_vocabulary` gives it, and special tokens by name, as `special_tokens`
            does; other texts stay in the tail.
    """
    return explain(answer_ids, student_bytes, teacher, vocabulary).targets


def explain(
    answer_ids: Sequence[int],
    student_bytes: Sequence[bytes],
    teacher: Sequence[TeacherToken],
    vocabulary: Mapping[bytes, int],
) -> Alignment:
    """`align`, with the reason of each position that has no target, and how much of the teacher's mass is kept."""
    if not teacher:
        return Alignment([NO_TARGET] * len(answer_ids), ["no_logprobs"] * len(answer_ids))
    student = _Student(student_bytes, vocabulary)
    log = _Log.read(teacher, student)
    placed = _placed([student_bytes[token] for token in answer_ids], log)
    found = [
        _cell(log, place, token, student) if place.cause is None else _Cell(place.cause)
        for place, token in zip(placed, answer_ids, strict=True)
    ]
    return Alignment(
        [cell.target for cell in found],
        [cell.cause for cell in found],
        math.fsum(cell.given for cell in found),
        math.fsum(cell.kept for cell in found),
    )


def aligned_share(targets: Sequence[AlignedTarget]) -> float:
    """The share of positions with a soft target; 0 for no positions. End tokens count as positions."""
    return sum(bool(target.ids) for target in targets) / len(targets) if targets else 0.0


@dataclass(frozen=True, slots=True)
class _Student:
    """The student's tokens."""

    spelled: Sequence[bytes]
    vocabulary: Mapping[bytes, int]

    def is_special(self, raw: bytes) -> bool:
        """Whether it is the name of a special token."""
        token = self.vocabulary.get(raw)
        return token is not None and not self.spelled[token]

    def token_of(self, raw: bytes, blank: bool) -> int | None:
        """The token that says this; at the beginning of a text, with ``blank``, one that has a blank in front."""
        return self.vocabulary.get(b" " + raw if blank and not self.is_special(raw) else raw)


@dataclass(frozen=True)
class _Log:
    """The teacher's tokens over their text."""

    text: bytes
    starts: list[int]
    """Where the tokens with text begin, rising."""
    tokens: list[TeacherToken]
    completes: list[bool]
    """Which of them ended a character whose beginning was logged as nothing."""
    end: TeacherToken | None
    """The token that ended the answer, if it was logged."""

    @staticmethod
    def read(teacher: Sequence[TeacherToken], student: "_Student") -> "_Log":
        """Servers spell an unfinished character as nothing, and all of it with the token that completes it."""
        raw = [token.token.encode("latin-1") for token in teacher]
        ends = student.is_special(raw[-1])
        spoken = raw[:-1] if ends else raw
        kept = [i for i, piece in enumerate(spoken) if piece]
        pieces = [spoken[i] for i in kept]
        return _Log(
            text=b"".join(pieces),
            starts=list(accumulate((len(piece) for piece in pieces), initial=0))[:-1],
            tokens=[teacher[i] for i in kept],
            completes=[i > 0 and not spoken[i - 1] for i in kept],
            end=teacher[-1] if ends else None,
        )

    def covering(self, span: Span) -> range:
        """Which tokens have bytes of the span, which is not empty."""
        first = bisect.bisect_right(self.starts, span[0]) - 1
        return range(max(first, 0), bisect.bisect_left(self.starts, span[1]))

    def raw(self, token: int) -> bytes:
        """A token's bytes."""
        return self.tokens[token].token.encode("latin-1")

    def stop(self, token: int) -> int:
        """The byte at which a token ends."""
        return self.starts[token + 1] if token + 1 < len(self.starts) else len(self.text)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a token of the student's is: ``at`` is the teacher's token of the same bytes, -1 its end."""

    cause: Cause | None
    at: int = -1
    blank: bool = False
    """The student's token has a blank in front, which its decoder drops at the beginning of a text."""


def _placed(pieces: Sequence[bytes], log: _Log) -> Iterator[_Place]:
    at, differs, lone_blank = 0, False, False
    blank = _begins_with_blank(b"".join(pieces), log.text)
    for piece in pieces:
        if not piece:
            over = at == len(log.text) and not differs and log.end is not None
            yield _Place(None) if over else _Place("special")
            differs = True  # within an answer it stands for text that is not known, as an unknown word
            continue
        spoken = piece[1:] if blank else piece
        differs = differs or not log.text.startswith(spoken, at)
        if differs:
            yield _Place("text_differs")
        elif not spoken:
            # what follows was decided on with the blank said already, which the teacher had no token for
            lone_blank = True
            yield _Place("special")
        else:
            place = _place(piece, (at, at + len(spoken)), log)
            yield _Place("split") if lone_blank and at == 0 else _Place(place.cause, place.at, blank)
            at += len(spoken)
        blank = False


def _begins_with_blank(spoken: bytes, text: bytes) -> bool:
    """Whether the first blank of what the student's tokens spell is one that its decoder drops."""
    if not spoken.startswith(b" "):
        return False
    return spoken[1:] == text or _shared(spoken[1:], text) > _shared(spoken, text)


def _shared(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _place(piece: bytes, span: Span, log: _Log) -> _Place:
    tokens = log.covering(span)
    alone = len(tokens) == 1
    if alone and log.starts[tokens[0]] == span[0] and log.stop(tokens[0]) == span[1] and not log.completes[tokens[0]]:
        return _Place(None, tokens[0])
    partial = any(log.completes[token] or not _is_whole(log.raw(token)) for token in tokens)
    if partial or not _is_whole(piece):
        return _Place("partial_utf8")
    return _Place("split" if alone else "merged")


def _is_whole(piece: bytes) -> bool:
    """Whether the bytes are whole characters."""
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Cell:
    """The target at a place, or why there is none, with the mass that was given and what is kept of it."""

    cause: Cause | None
    target: AlignedTarget = NO_TARGET
    given: float = 0.0
    kept: float = 0.0


def _cell(log: _Log, place: _Place, own: int, student: _Student) -> _Cell:
    """Map texts to ids. The sampled token is a known cell too, among the top or not."""
    token = log.tokens[place.at] if place.at >= 0 else log.end
    if token is None or (place.at < 0 and student.vocabulary.get(token.token.encode("latin-1")) != own):
        return _Cell("special")
    by_text = {text: min(logprob, 0.0) for text, logprob in [(token.token, token.logprob), *token.top]}
    mass: dict[int, float] = {}
    for text, logprob in by_text.items():
        known = student.token_of(text.encode("latin-1"), place.blank)
        if known is not None and math.isfinite(logprob):
            mass[known] = logprob
    if not mass:
        return _Cell("outside_vocabulary")
    given = math.fsum(map(math.exp, by_text.values()))
    kept = math.fsum(map(math.exp, mass.values()))
    # rounded logs can sum to a little over 1, which a tail bucket cannot take
    excess = math.log(max(kept, 1.0))
    ranked = sorted(mass.items(), key=lambda cell: (-cell[1], cell[0]))
    target = AlignedTarget(tuple(known for known, _ in ranked), tuple(logprob - excess for _, logprob in ranked))
    return _Cell(None, target, given, kept)
