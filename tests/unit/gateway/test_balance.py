"""Where conversations go: back to where they were, whoever else comes or goes, and to nobody more than its share."""

import subprocess
import sys
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.balance import (
    AT_ONCE,
    FACTOR,
    LEADING,
    LEAST,
    SLOW_START_S,
    Load,
    choose,
    conversation_key,
    is_outlier,
    may_eject,
    salt_of,
)

KEYS = st.integers(0, 2**32 - 1)
NOW = 1000.0
CONVERSATIONS = [conversation_key([("user", f"hello {n}")]) for n in range(4000)]


@st.composite
def pools(draw: st.DrawFn) -> list[Load]:
    salts = draw(st.lists(KEYS, min_size=1, max_size=12, unique=True))
    return [Load(salt_of(str(salt)), NOW - draw(st.floats(0, 60)), draw(st.integers(0, 40))) for salt in salts]


def idle(*salts: int) -> list[Load]:
    return [Load(salt_of(str(salt))) for salt in salts]


@given(pools(), KEYS)
def test_a_conversation_is_moved_only_from_who_has_more_than_its_share(loads: list[Load], key: int):
    place, is_own = choose(loads, key, NOW)
    chosen = loads[place]
    own = choose([Load(load.salt) for load in loads], key, NOW)[0]
    assert is_own == (place == own)
    if is_own:
        return
    weights = [load.weight(NOW) for load in loads]
    share = FACTOR * (1 + sum(load.in_flight for load in loads)) / sum(weights)
    full = loads[own].weight(NOW)
    assert loads[own].in_flight >= max(1.0, share * full, AT_ONCE * full), "it could have had it"
    assert chosen.in_flight / chosen.weight(NOW) == min(load.in_flight / load.weight(NOW) for load in loads)


@given(st.lists(KEYS, min_size=1, max_size=8, unique=True), st.lists(st.tuples(KEYS, st.booleans()), max_size=200))
def test_nobody_ever_has_more_than_its_share_of_what_is_under_way(salts: list[int], asked: list[tuple[int, bool]]):
    """Requests begin and end in any order; a share is as of the last one that it took."""
    loads = idle(*salts)
    under_way: list[Load] = []
    for key, ends in asked:
        if ends and under_way:
            under_way.pop(key % len(under_way)).in_flight -= 1
            continue
        chosen = loads[choose(loads, key, NOW)[0]]
        chosen.in_flight += 1
        under_way.append(chosen)
        assert chosen.in_flight <= max(AT_ONCE, FACTOR * len(under_way) / len(loads)) + 1


@given(st.lists(KEYS, min_size=2, max_size=12, unique=True), KEYS)
def test_who_leaves_moves_its_own_conversations_only(salts: list[int], key: int):
    before = salts[choose(idle(*salts), key, NOW)[0]]
    for gone in salts:
        left = [salt for salt in salts if salt != gone]
        after = left[choose(idle(*left), key, NOW)[0]]
        assert after == before or before == gone


@given(st.permutations([11, 22, 33, 44]), KEYS)
def test_the_order_in_which_they_are_known_does_not_matter(salts: list[int], key: int):
    one, other = [11, 22, 33, 44], list(salts)
    assert one[choose(idle(*one), key, NOW)[0]] == other[choose(idle(*other), key, NOW)[0]]


def test_conversations_are_spread_evenly():
    loads = [Load(salt_of(f"http://10.0.0.{n}:8000/v1")) for n in range(5)]
    found = Counter(choose(loads, key, NOW)[0] for key in CONVERSATIONS)
    mean = len(CONVERSATIONS) / 5
    assert all(0.85 * mean < count < 1.15 * mean for count in found.values())
    assert len(found) == 5


def test_one_hot_beginning_is_everybodys():
    loads = idle(*range(4))
    for _ in range(100):
        loads[choose(loads, 7, NOW)[0]].in_flight += 1
    assert max(load.in_flight for load in loads) <= FACTOR * 100 / 4 + 1
    assert min(load.in_flight for load in loads) > 0


def test_who_has_just_joined_is_given_little_and_then_all():
    took: list[int] = []
    for age in (0.0, SLOW_START_S / 2, SLOW_START_S):
        loads = [*idle(1, 2, 3), Load(salt_of("4"), NOW - age)]
        for key in CONVERSATIONS[:400]:
            loads[choose(loads, key, NOW)[0]].in_flight += 1
        took.append(loads[3].in_flight)
    assert took[0] < FACTOR * LEAST * 400 / 3
    assert took[0] < took[1] < took[2]
    assert took[2] > 80


def test_who_is_slow_is_asked_less():
    """It ends one request where the other two end eight each."""
    slow, *quick = loads = idle(1, 2, 3)
    asked = Counter[int]()
    for number, key in enumerate(CONVERSATIONS):
        place = choose(loads, key, NOW)[0]
        loads[place].in_flight += 1
        asked[place] += 1
        if number % 12 == 0:
            for load, ends in ((slow, 1), *((each, 8) for each in quick)):
                load.in_flight -= min(ends, load.in_flight)
    assert asked[0] < 0.6 * min(asked[1], asked[2])


def test_all_turns_of_a_conversation_have_one_key():
    begun = [("system", "Be brief."), ("user", "Where is my parcel?")]
    grown = [*begun, ("assistant", "On its way."), ("user", "And when?")]
    assert conversation_key(begun) == conversation_key(grown)
    assert conversation_key(begun) != conversation_key([("system", "Be brief."), ("user", "hello")])
    assert conversation_key(begun) != conversation_key(begun[1:])
    long = "x" * LEADING
    assert conversation_key([("user", long)]) == conversation_key([("user", long + " and more")])


@given(st.lists(st.tuples(st.text(max_size=9), st.text()), max_size=5))
def test_every_text_has_a_key(messages: list[tuple[str, str]]):
    assert 0 <= conversation_key(messages) < 2**32
    assert conversation_key([("user", "\ud800")]) >= 0


def test_another_process_finds_the_same_server():
    program = (
        "from gateway.balance import *; "
        "loads = [Load(salt_of(each)) for each in 'abc']; "
        "print(*(choose(loads, conversation_key([('user', str(n))]), 0.0)[0] for n in range(50)))"
    )
    command = [sys.executable, "-c", program]
    found = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(found) == 1
    assert len(set(found.pop().split())) == 3


def test_an_outlier_fails_more_often_than_its_equals():
    well = [(100, 0), (100, 1)]
    assert is_outlier((20, 4), well)
    assert not is_outlier((20, 2), well), "a few failures say nothing"
    assert not is_outlier((9, 4), well), "nor do a few requests"
    assert not is_outlier((100, 5), well), "a twentieth is no reason to do without it"
    assert not is_outlier((20, 4), [(20, 4), (20, 3)]), "what all have is no fault of one"
    assert not is_outlier((20, 4), [(3, 0)]), "there is nobody to compare it with"


def test_at_most_half_are_ejected():
    most = {servers: next(n for n in range(9) if not may_eject(servers, n)) for servers in range(1, 7)}
    assert most == {1: 0, 2: 1, 3: 1, 4: 2, 5: 2, 6: 3}
