"""The rows of a dataset: what is known of one answer, whose conversation it is, and how it is rendered."""

import hashlib
from typing import Any, Final, TypeAlias

import msgspec

from distill.capabilities import TeacherCapabilities
from distill.target_report import TargetReport
from router.features import RequestView

__all__ = (
    "DatasetError",
    "HeldOut",
    "Manifest",
    "Messages",
    "Row",
    "conversation_text",
    "hash64",
    "identity",
    "is_held_out",
    "render",
    "unit",
)

Messages: TypeAlias = list[dict[str, Any]]
INSTRUCTIONS: Final = ("system", "developer")


class DatasetError(Exception):
    """There is too little to train on, or it changed meanwhile."""


class Row(msgspec.Struct):
    """One answer that may be trained on: the teacher's, or a caller's correction."""

    id: str
    key_id: str
    reason: str
    propensity: float
    messages: Messages
    parameters: dict[str, Any]
    answer: str
    logprobs: list[Any] | None = None
    score: float | None = None
    """Of the newest feedback."""
    corrected: bool = False
    answered: bool = True
    """False where only its correction brings it here: the student answered, or the teacher did not in full."""
    tags: list[str] = []
    model: str = ""
    created_at: int = 0
    confidence: float | None = None
    """The student's own where it was read, else the router's score."""
    agreement: float | None = None
    """How far the student's answer to the same request was as good, 0 to 1, where a label says it."""


class HeldOut(msgspec.Struct):
    """A request that is never trained on: the candidate and the champion are asked it, the router learns from it."""

    id: str
    messages: Messages
    parameters: dict[str, Any]
    answer: str
    tags: list[str] = []
    model: str = ""
    """The name that it was sent to."""
    teacher_right: bool = True
    """False where a caller corrected the teacher's answer; ``answer`` is the correction then."""


class Manifest(msgspec.Struct):
    """What a dataset is: counts, why rows were dropped, and the hash of its files."""

    created_at: int
    train: int
    held_out: int
    dropped: dict[str, int]
    aligned_share: float
    """Share of the training answers' tokens with a soft target."""
    keys: dict[str, int]
    content_hash: str
    corrected: int = 0
    """Rows, in both files, whose answer is a correction by feedback."""
    id: str = ""
    """Of the row in the ledger's table of datasets."""
    query: dict[str, Any] = {}
    """The settings that chose the rows, ``distill.data`` and its neighbours."""
    effective_size: float = 0.0
    """How many equally weighted rows would vary as little (Kish): (sum of weights)² / (sum of their squares)."""
    replayed: int = 0
    """Training rows that are older than the last dataset."""
    redacted: dict[str, int] = {}
    """Placeholders put in, by kind, in both files."""
    targets: TargetReport = msgspec.field(default_factory=TargetReport)
    """What became of the teacher's log-probabilities in the training rows."""
    teacher: TeacherCapabilities = TeacherCapabilities()
    """What the teacher was seen to give."""


def conversation_text(messages: Messages) -> str:
    """What is said in a conversation, a line a message, without the instructions that an application puts first."""
    view = RequestView.from_body({"messages": messages})
    return "\n".join(text for role, text in view.messages if role not in INSTRUCTIONS)


def is_held_out(messages: Messages, share: float) -> bool:
    """Whether a conversation belongs to the held-out share: the same for the same first user message, always."""
    first = next((m.get("content") for m in messages if m.get("role") == "user"), "")
    return unit(f"split:{_normalised(first)}") < share


def render(messages: Messages, tokenizer: Any) -> str:
    """The prompt of a text conversation by the tokenizer's chat template; content parts are joined as vLLM does it.

    Raises ``jinja2.TemplateError`` or ``TypeError`` for messages that the template does not take.
    """
    view = RequestView.from_body({"messages": messages})
    plain = [{"role": role, "content": text} for role, text in view.messages]
    return tokenizer.apply_chat_template(plain, add_generation_prompt=True, tokenize=False)


def identity(messages: Messages) -> int:
    """The same 64 bits for the same conversation, but for case and blanks."""
    return hash64("\1".join(f"{message.get('role')}\0{_normalised(message.get('content'))}" for message in messages))


def unit(text: str) -> float:
    """A number in [0, 1) from a text, the same everywhere and always."""
    return hash64(text) / 2**64


def hash64(text: str) -> int:
    """The first 64 bits of a text's SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])


def _normalised(content: Any) -> str:
    text = content if isinstance(content, str) else msgspec.json.encode(content).decode()
    return " ".join(text.casefold().split())
