"""A made corpus: texts that hold personal data, and texts that look as if they did."""

import base64
import random
import string
from dataclasses import dataclass

FRAMES = (
    "Please reach me at {} tomorrow.",
    "{}",
    "my details: {}, thanks",
    "Dear team,\n\nI changed it to {}\n\nBest",
    '{{"value": "{}"}}',
    "It was ({}) last time, is that still right?",
)
INNOCENT = (
    "Order 4000123412341234 has not arrived, version 1.2.3 was fine.",
    "On 2026-11-24 at 10:22:33 we met 1,234,567 people in 12 cities.",
    "The commit 9f2b6c1d4e5f60718293a4b5c6d7e8f901234567 broke std::vector<int>.",
    "Invoice 2026-000123-44 over 1.299,00 EUR is due on 24.11.2026.",
    "getUserAccountBalanceForCurrentMonth returns HTTP 404 on /api/v2/users/42.",
    "The password is incorrect, and the secret is safe with me.",
    "Ask at the @reception desk or see https://example.org/help?id=12345678.",
    "id 550e8400-e29b-41d4-a716-446655440000 in table users",
    "127.0.0.1:8080 and 0.0.0.0 are local, 3.11.7 is Python's version, chapter 4.2.1.9.",
    "ISBN 978-3-16-148410-0 costs 12.99; the score was 21-19, 18-21, 21-15.",
    "Mein Paket ist seit dem 3. November unterwegs, Sendung 00340434161094042557.",
    "He scored 100000 points in 48 hours; room 1204, floor 12, building 3.",
    "SELECT count(*) FROM requests WHERE created_at > 1732406400000",
    "DE PARIS A MADRID EN TREN 12 HORAS",
    "sk-learn and hf_hub are libraries; AKIA is a prefix.",
)


@dataclass(frozen=True)
class Case:
    text: str
    value: str
    kind: str


def luhn(stem: str) -> str:
    """The number with its check digit."""
    total = sum(sum(divmod(2 * int(d), 10)) if i % 2 == 0 else int(d) for i, d in enumerate(reversed(stem)))
    return f"{stem}{-total % 10}"


def iban(country: str, account: str) -> str:
    number = "".join(str(int(c, 36)) for c in f"{account}{country}00")
    return f"{country}{98 - int(number) % 97:02}{account}"


def _token(chance: random.Random, size: int) -> str:
    return "".join(chance.choices(string.ascii_letters + string.digits, k=size))


def _jwt(chance: random.Random) -> str:
    parts = [
        base64.urlsafe_b64encode(text).decode().rstrip("=")
        for text in (b'{"alg":"HS256"}', b'{"sub":"%d"}' % chance.randrange(10**9), chance.randbytes(32))
    ]
    return ".".join(parts)


def _digits(chance: random.Random, size: int) -> str:
    return "".join(chance.choices(string.digits, k=size))


def _grouped(text: str) -> str:
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4))


def values(chance: random.Random) -> list[tuple[str, str]]:
    """One of each sort, as (kind, value)."""
    name = f"{chance.choice(['anna', 'bob', 'j.smith', 'maría', 'o_neil'])}{chance.randrange(999)}"
    card = luhn(chance.choice(["4", "51", "37"]) + _digits(chance, 13))
    account = iban("DE", _digits(chance, 18))
    british = iban("GB", f"NWBK{_digits(chance, 14)}")
    return [
        ("EMAIL", f"{name}@example.com"),
        ("EMAIL", f"{name}+news@mail.example.co.uk"),
        ("PHONE", f"+49 30 {chance.randrange(200_000, 999_999)}"),
        ("PHONE", f"+1 415-555-{chance.randrange(2_000, 9_999)}"),
        ("PHONE", f"+44 20 7946 {chance.randrange(1_000, 9_999)}"),
        ("CARD", card),
        ("CARD", _grouped(card)),
        ("IBAN", account),
        ("IBAN", _grouped(british)),
        (
            "IP",
            f"{chance.randrange(1, 223)}.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(1, 255)}",
        ),
        ("IP", f"2001:db8:{chance.randrange(0x10000):x}::{chance.randrange(1, 0x10000):x}"),
        ("SECRET", f"sk-{_token(chance, 40)}"),
        ("SECRET", f"ghp_{_token(chance, 36)}"),
        ("SECRET", f"AKIA{''.join(chance.choices(string.ascii_uppercase + string.digits, k=16))}"),
        ("SECRET", _jwt(chance)),
        ("SECRET", _token(chance, 40)),
    ]


def cases(rounds: int, seed: int = 1) -> list[Case]:
    chance = random.Random(seed)
    return [
        Case(chance.choice(FRAMES).format(value), value, kind)
        for _ in range(rounds)
        for kind, value in values(chance)
    ]


def innocent(seed: int = 2) -> list[str]:
    chance = random.Random(seed)
    numbered = [
        f"Ticket {_digits(chance, chance.randrange(3, 9))} is open since {chance.randrange(1, 29)} May."
        for _ in range(60)
    ]
    hashes = [f"digest {chance.randbytes(20).hex()} of file {n}" for n in range(60)]
    orders = [
        f"order no. {_digits(chance, 10)}, part {_token(chance, 6).upper()}-{_digits(chance, 4)}" for _ in range(60)
    ]
    return [*INNOCENT, *numbered, *hashes, *orders]
