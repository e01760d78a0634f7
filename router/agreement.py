"""Whether the student's answer is as good as the teacher's: the first comparator."""

import unicodedata

__all__ = ("agree",)

# Only marks that end a sentence or a clause: "5%" and "5" are different answers.
TRAILING = ".,;:!?。、؟ "


def agree(student: str, teacher: str) -> bool:
    """Whether the two are equal but for case, white space, Unicode form (NFKC) and trailing punctuation."""
    return _normalised(student) == _normalised(teacher)


def _normalised(text: str) -> str:
    # Case folding can undo the normal form (Unicode 3.13, D146), hence twice.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = " ".join(folded.split())
    return words.rstrip(TRAILING) or words
