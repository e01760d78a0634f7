"""Soft targets: a teacher's logged top-k log-probabilities, moved to the student's vocabulary by bytes."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol

import msgspec

__all__ = (
    "AlignedTarget",
    "TeacherToken",
    "align",
    "aligned_share",
    "byte_vocabulary",
    "from_openai",
    "token_bytes",
)


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


class Tokenizer(Protocol):
    """What `token_bytes` asks of a fast tokenizer of ``transformers``."""

    backend_tokenizer: Any
    added_tokens_decoder: dict[int, Any]

    def __len__(self) -> int:
        """Count the ids, added tokens included."""
        ...

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """Spell ids the way the vocabulary does."""
        ...


NO_TARGET = AlignedTarget()


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
    """Give each answer token of the student the teacher's distribution at the same place, where there is one.

    A target is given where a teacher token covers exactly the bytes of the student token *and* both texts
    agree up to its end: behind the first difference, the teacher's numbers are about another context.

    Args:
        answer_ids: The student's ids of the answer, with its end token.
        student_bytes: Bytes by token id, as `token_bytes` gives them (special tokens: empty).
        teacher: The teacher's tokens of the same answer.
        vocabulary: Token id by bytes, as `byte_vocabulary` gives it; other texts stay in the tail.

    Returns:
        As many targets as ``answer_ids``.
    """
    pieces = [student_bytes[token] for token in answer_ids]
    raw = [token.token.encode("latin-1") for token in teacher]
    shared = _common_prefix(b"".join(pieces), b"".join(raw))
    spans = {span: token for span, token in zip(_spans(raw), teacher, strict=True) if span[0] < span[1]}
    return [
        _target(spans[span], vocabulary) if span in spans and span[1] <= shared else NO_TARGET
        for span in _spans(pieces)
    ]


def aligned_share(targets: Sequence[AlignedTarget]) -> float:
    """The share of positions with a soft target; 0 for no positions. End tokens count as positions."""
    return sum(bool(target.ids) for target in targets) / len(targets) if targets else 0.0


def _spans(pieces: Iterable[bytes]) -> list[tuple[int, int]]:
    ends = list(accumulate((len(piece) for piece in pieces), initial=0))
    return list(pairwise(ends))


def _common_prefix(one: bytes, other: bytes) -> int:
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next(at for at in range(shorter) if one[at] != other[at])


def _target(token: TeacherToken, vocabulary: Mapping[bytes, int]) -> AlignedTarget:
    """Map texts to ids. The sampled token is a known cell too, whether or not it is among the top."""
    by_text = {token.token: token.logprob} | dict(token.top)
    mass: dict[int, float] = {}
    for text, logprob in by_text.items():
        student = vocabulary.get(text.encode("latin-1"))
        if student is not None and math.isfinite(logprob):
            mass[student] = min(logprob, 0.0)
    # Rounded logs can sum to a little over 1, which a tail bucket cannot take.
    excess = math.log(max(math.fsum(map(math.exp, mass.values())), 1.0))
    ranked = sorted(mass.items(), key=lambda cell: (-cell[1], cell[0]))
    return AlignedTarget(
        ids=tuple(student for student, _ in ranked),
        logprobs=tuple(logprob - excess for _, logprob in ranked),
    )


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes that each token id stands for, by id; empty for special tokens, which stand for no text.

    Reads byte-level BPE (GPT-2's byte alphabet) and sentencepiece spelling (``▁`` and ``<0xNN>``). The space
    that some sentencepiece decoders drop at the start of a text is kept: such an answer aligns nowhere.
    """
    decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]
    spell = _from_byte_alphabet if "ByteLevel" in json.dumps(decoder) else _from_sentencepiece
    table = [spell(token) for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    for token_id, added in tokenizer.added_tokens_decoder.items():
        table[token_id] = b"" if added.special else added.content.encode()
    return table


def byte_vocabulary(table: Sequence[bytes]) -> dict[bytes, int]:
    """Token id by bytes: the lowest id where several spell the same; no entry for tokens without text."""
    return {spelled: token_id for token_id, spelled in reversed(list(enumerate(table))) if spelled}


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling: printable latin-1 bytes as themselves, the others from U+0100 on in byte order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in set(printable))
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _from_byte_alphabet(token: str) -> bytes:
    return bytes(_BYTE_OF[character] for character in token)


def _from_sentencepiece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()
