"""What in a text names or authorises a person: addresses, numbers with a check digit, credentials.

Names of people and postal addresses are not looked for: the models that find them are on no package index that this
project installs from (Presidio takes spaCy's), and a list of names would take ordinary words with them.
"""

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

__all__ = ("KINDS", "personal")

Found: TypeAlias = Iterator[str]

PREFIXED: Final = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[\s\S]{1,8000}?-----END [A-Z ]{0,20}PRIVATE KEY-----"
    r"|(?<![\w-])(?:"
    r"sk-[\w-]{16,200}|[sr]k_(?:live|test)_\w{10,200}|whsec_\w{16,100}"
    r"|gh[opusr]_\w{20,255}|github_pat_\w{20,255}|glpat-[\w-]{16,100}"
    r"|xox[abeprs]-[\w-]{10,250}|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{35}|hf_[A-Za-z0-9]{20,100}|npm_\w{30,100}"
    r"|pypi-[\w-]{16,250}|SG\.[\w-]{16,64}\.[\w-]{16,64}"
    r"|eyJ[\w-]{8,2000}\.eyJ[\w-]{8,4000}\.[\w-]{8,2000}"
    r")(?![\w-])"
)
"""What issuers of keys begin them with, JSON web tokens (RFC 7519) and PEM blocks (RFC 7468)."""
NAMED: Final = re.compile(
    r"(?i)(?<![a-z])(?:password|passwd|pwd|passphrase|secret|api[_ -]?key|access[_ -]?token|auth[_ -]?token|bearer)"
    r"(?:\s{0,2}(?:[:=]|is\b)\s{0,2}|\s)[\"'`]?([^\s\"'`,;]{8,200})"
)
"""What stands behind a word that announces a secret."""
TOKEN: Final = re.compile(r"(?<![\w+=-])[\w+=-]{24,512}(?![\w+=-])")
EMAIL: Final = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?!\w)")
IBAN: Final = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?!\w)")
CARD: Final = re.compile(r"(?<![\w.-])[2-6]\d(?:[ -]?\d){11,17}(?![\w-]|\.\d)")
IPV4: Final = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
IPV6: Final = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{6,39}(?![\w:])")
MIN_ENTROPY: Final = 3.8
"""Bits a character: random letters and digits of 24 have some 4.3, words and identifiers mostly less."""
MIN_OF_EACH: Final = 3
"""Small letters, capitals and digits in a token that is nothing but random."""
LONG: Final = 32
MIN_ENTROPY_OF_LETTERS: Final = 4.3
"""Of a long token with hardly a digit: random ones have some 4.6, identifiers in camel case about 4."""
FEWEST_DIGITS: Final = 7
IBAN_CHARS: Final = (15, 34)


def personal(text: str, region: str | None) -> Iterator[tuple[str, str]]:
    """What is to be hidden, as (kind, value), the kinds that may hold others first.

    ``region`` is where phone numbers without a country code belong (``DE``), or None.
    """
    for kind, recognise in KINDS.items():
        yield from ((kind, value) for value in recognise(text))
    if sum(map(str.isdigit, text)) >= FEWEST_DIGITS:
        yield from (("PHONE", value) for value in _phones(text, region))


def _secrets(text: str) -> Found:
    yield from (match[0] for match in PREFIXED.finditer(text))
    yield from (match[1] for match in NAMED.finditer(text) if _may_be_password(match[1]))
    yield from (match[0] for match in TOKEN.finditer(text) if _is_random(match[0]))


def _may_be_password(value: str) -> bool:
    """Not a word: "the password is incorrect" says none."""
    return any(map(str.isdigit, value)) or (not value.isalpha() and not value.rstrip(".!?:)").isalpha())


def _is_random(token: str) -> bool:
    if min(sum(map(of, token)) for of in (str.islower, str.isupper)) < MIN_OF_EACH:
        return False
    shares = [n / len(token) for n in Counter(token).values()]
    entropy = -sum(share * math.log2(share) for share in shares)
    has_digits = sum(map(str.isdigit, token)) >= MIN_OF_EACH
    return entropy >= MIN_ENTROPY if has_digits else len(token) >= LONG and entropy >= MIN_ENTROPY_OF_LETTERS


def _emails(text: str) -> Found:
    return (match[0] for match in EMAIL.finditer(text))


def _ibans(text: str) -> Found:
    for match in IBAN.finditer(text):
        value = match[0]
        # words in capitals may follow
        while value and not _is_iban(value.replace(" ", "")):
            value = value.rpartition(" ")[0]
        if value:
            yield value


def _is_iban(compact: str) -> bool:
    """ISO 13616: the remainder of 97 is 1 with the first four characters last and letters as 10 to 35."""
    if not IBAN_CHARS[0] <= len(compact) <= IBAN_CHARS[1]:
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _cards(text: str) -> Found:
    return (match[0] for match in CARD.finditer(text) if _passes_luhn([int(c) for c in match[0] if c.isdigit()]))


def _passes_luhn(digits: list[int]) -> bool:
    """ISO/IEC 7812: the sum with every second digit from the right doubled, digits summed, divides by 10."""
    doubled = (sum(divmod(2 * d, 10)) for d in digits[-2::-2])
    return (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def _addresses(text: str) -> Found:
    yield from (match[0] for match in IPV4.finditer(text) if _is_someones(match[0]))
    for match in IPV6.finditer(text):
        value = match[0].rstrip(":") if not match[0].endswith("::") else match[0]
        if value.count(":") >= 3 and _is_someones(value):
            yield value


def _is_someones(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


def _phones(text: str, region: str | None) -> Found:
    # an installation that only serves has no phonenumbers
    from phonenumbers import PhoneNumberMatcher

    return (match.raw_string for match in PhoneNumberMatcher(text, region))


KINDS: Final[dict[str, Callable[[str], Found]]] = {
    "SECRET": _secrets,
    "EMAIL": _emails,
    "IBAN": _ibans,
    "CARD": _cards,
    "IP": _addresses,
}
