"""Which language a prompt is in, by py3langid (langid.py's naive Bayes over byte n-grams, BSD-3-Clause).

Its model holds some 120 MB once loaded, and is loaded only where languages are asked for.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

from distill.data.rows import DatasetError

__all__ = ("LanguageFilter",)

SURE: Final = 0.8
"""A text that is told apart with less probability (a number, a name, one word) passes."""
READ: Final = 1_000
"""Characters."""


class LanguageFilter:
    """Takes texts in some languages, or all where none is named. Raises `DatasetError` for one that is not known."""

    def __init__(self, languages: Sequence[str]) -> None:
        self._wanted = frozenset(languages)
        unknown = self._wanted.difference(self._identifier.labels) if self._wanted else ()
        if unknown:
            raise DatasetError(f"distill.data.languages: {', '.join(sorted(unknown))} not known; ISO 639-1, as in en")

    def takes(self, text: str) -> bool:
        """Whether the text is in a wanted language, or in none that can be told."""
        if not self._wanted or not any(map(str.isalpha, text)):
            return True
        # a lone surrogate is legal in JSON
        language, probability = self._identifier.classify(text[:READ].encode("utf-8", "replace").decode())
        return language in self._wanted or probability < SURE

    @cached_property
    def _identifier(self) -> Any:
        # an installation that only serves has no py3langid
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
