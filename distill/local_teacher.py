"""A teacher whose weights are here, as a dataset sees it: whether its tokens are the student's, and if not, which."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from distill.data.rows import DatasetError, Messages, render
from distill.vocabulary import token_bytes

__all__ = ("Apart", "LocalTokens", "ends_of", "local_tokens")


@dataclass(frozen=True)
class Apart:
    """A prompt and an answer in the teacher's ids, and at which byte of the answer each token ends, on both sides.

    The end token counts as a byte of its own, so that it is aligned with the other side's.
    """

    prompt_ids: list[int]
    answer_ids: list[int]
    own_ends: list[int]
    ends: list[int]


@dataclass(frozen=True)
class LocalTokens:
    """The local teacher's tokenizer; ``is_foreign`` where it is not the student's."""

    tokenizer: Any
    is_foreign: bool

    def apart(self, messages: Messages, answer: str, own: Sequence[bytes]) -> Apart | None:
        """A row in the teacher's tokens, beside the student's, of whose answer ``own`` has the bytes without the end.

        None where the teacher's template does not take the conversation, or one side does not spell the answer.
        """
        from jinja2 import TemplateError

        try:
            prompt = render(messages, self.tokenizer)
        except (TemplateError, TypeError, ValueError):
            return None
        ids = self.tokenizer(answer, add_special_tokens=False).input_ids
        own_ends, ends = ends_of(own, answer), ends_of([self._bytes[token] for token in ids], answer)
        if not prompt or own_ends is None or ends is None:
            return None
        prompt_ids = self.tokenizer(prompt, add_special_tokens=False).input_ids
        return Apart(prompt_ids, [*ids, self.tokenizer.eos_token_id], own_ends, ends)

    @cached_property
    def _bytes(self) -> list[bytes]:
        return token_bytes(self.tokenizer)


def ends_of(pieces: Sequence[bytes], answer: str) -> list[int] | None:
    """The byte at which each token of an answer ends, and its end token's; None where they do not spell the answer.

    A blank before the answer, as sentencepiece has it, is none of its bytes.
    """
    text, spelled = answer.encode(), b"".join(pieces)
    before = len(spelled) - len(text)
    if before not in (0, 1) or spelled[before:] != text or spelled[:before].strip():
        return None
    return [*(end - before for end in accumulate(map(len, pieces))), len(text) + 1]


def local_tokens(folder: str | None, student: Any) -> LocalTokens | None:
    """The tokens of the teacher in ``distill.training.teacher_weights``, if there is one. Raises `DatasetError`."""
    if folder is None:
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DatasetError(f"distill.training.teacher_weights = {folder!r} has no tokenizer: {error}") from error
    return LocalTokens(tokenizer, tokenizer.get_vocab() != student.get_vocab())
