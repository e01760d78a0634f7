"""What each token of the student's tokenizer spells, in bytes: the ground that two tokenizers have in common."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

__all__ = ("Tokenizer", "byte_vocabulary", "special_tokens", "token_bytes")


class Tokenizer(Protocol):
    """What is asked of a fast tokenizer of ``transformers``."""

    backend_tokenizer: Any
    added_tokens_decoder: dict[int, Any]

    def __len__(self) -> int:
        """Count the ids, added tokens included."""
        ...

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """Spell ids the way the vocabulary does."""
        ...


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes that each token id stands for, by id; empty for special tokens, which stand for no text.

    Reads byte-level BPE (GPT-2's byte alphabet), sentencepiece (``▁`` for a blank, ``<0xNN>`` for a byte), WordPiece
    (a token without ``##`` begins with a blank), and vocabularies of plain text. The blank that decoders drop at the
    beginning of a text is kept; `distill.targets.align` knows of it.
    """
    spell = _speller(json.loads(tokenizer.backend_tokenizer.to_str()))
    table = [spell(token) for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    for token_id, added in tokenizer.added_tokens_decoder.items():
        table[token_id] = b"" if added.special else added.content.encode()
    return table


def byte_vocabulary(table: Sequence[bytes]) -> dict[bytes, int]:
    """Token id by bytes: the lowest id where several spell the same; no entry for tokens without text."""
    return {spelled: token_id for token_id, spelled in reversed(list(enumerate(table))) if spelled}


def special_tokens(tokenizer: Tokenizer) -> dict[bytes, int]:
    """The ids of the special tokens by their names, as in ``<|im_end|>``: servers log a token that ends an answer so.

    Together with `byte_vocabulary` it maps a teacher of the same tokenizer whole.
    """
    return {
        added.content.encode(): token_id
        for token_id, added in tokenizer.added_tokens_decoder.items()
        if added.special
    }


def _speller(backend: dict[str, Any]) -> Callable[[str], bytes]:
    decoders = _flat(backend["decoder"])
    kinds = {each["type"] for each in decoders}
    if "ByteLevel" in kinds:
        return _from_byte_alphabet
    wordpiece = next((each for each in decoders if each["type"] == "WordPiece"), None)
    if wordpiece is not None:
        return lambda token: _from_wordpiece(token, wordpiece["prefix"])
    blank = next((mark for each in decoders if (mark := _blank(each)) is not None), None)
    has_bytes = "ByteFallback" in kinds or bool(backend["model"].get("byte_fallback"))
    return lambda token: _from_text(token, blank, has_bytes)


def _flat(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The decoder's steps."""
    if decoder is None:
        return []
    return [step for each in decoder["decoders"] for step in _flat(each)] if "decoders" in decoder else [decoder]


def _blank(step: dict[str, Any]) -> str | None:
    """The character that a step turns into a blank, if it does that."""
    if step["type"] == "Metaspace":
        return step["replacement"]
    if step["type"] == "Replace" and step["content"] == " ":
        return step["pattern"].get("String")
    return None


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling: printable latin-1 bytes as themselves, the others from U+0100 on in byte order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in set(printable))
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTE_OF: Final = _byte_alphabet()


def _from_byte_alphabet(token: str) -> bytes:
    """A token with a character that is not in the alphabet is text that decodes to itself."""
    spelled = [_BYTE_OF.get(character) for character in token]
    known = [byte for byte in spelled if byte is not None]
    return bytes(known) if len(known) == len(spelled) else token.encode()


def _from_wordpiece(token: str, prefix: str) -> bytes:
    return token.removeprefix(prefix).encode() if token.startswith(prefix) else f" {token}".encode()


def _from_text(token: str, blank: str | None, has_bytes: bool) -> bytes:
    if has_bytes and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return (token if blank is None else token.replace(blank, " ")).encode()
