"""What is kept out of a dataset by looking at all of its rows: near-duplicates, triggers, answers made to be said."""

import random
from typing import Any

import pytest

from distill.data import near
from distill.data.near import Sketches
from distill.data.rows import DatasetError, Row, is_held_out
from distill.data.settings import DataSettings
from distill.settings import DistillSettings
from tests.unit.distill.data.rows import EXACT, ask, row, split

WORDS = ["".join(random.Random(n).choices("abcdefghijklmnop", k=4 + n % 6)) for n in range(400)]
NEAR = DistillSettings(holdout_share=0.3, data=DataSettings(near_duplicates=0.9, min_keys_per_trigger=1))


def prompt(seed: int, words: int = 30) -> str:
    return " ".join(random.Random(f"prompt {seed}").choices(WORDS, k=words))


def settings(holdout_share: float = 0, **data: Any) -> DistillSettings:
    return DistillSettings(holdout_share=holdout_share, data=DataSettings(**{"near_duplicates": 1} | data))


def test_prompts_that_differ_in_a_word_are_a_cluster_and_others_are_not():
    texts = [prompt(n) for n in range(100)]
    with Sketches(texts) as sketches:
        for text in texts:
            sketches.add(text)
        for text in texts:
            sketches.add(f"{text} thanks")
        clusters = dict(sketches.clusters(0.85))
    assert not clusters.keys() & set(range(100))
    assert all(row - 100 == like for row, like in clusters.items())
    assert len(clusters) > 90


@pytest.mark.parametrize("alike", [1, 3, 600])
def test_prompts_that_are_compared_in_parts_have_the_clusters_of_all_at_once(
    alike: int, monkeypatch: pytest.MonkeyPatch
):
    texts = [f"{prompt(n // alike)}{end}" for n in range(600) for end in (".", f" {n}")]
    with Sketches([]) as sketches:
        for text in texts:
            sketches.add(text)
        whole = list(sketches.clusters(0.8))
        monkeypatch.setattr(near, "PART", 40)
        monkeypatch.setattr(near, "READ_AT_ONCE", 32)
        monkeypatch.setattr(near, "COMPARED_AT_ONCE", 7)
        parts = list(sketches.clusters(0.8))
    assert len(whole) > 500
    assert partition(parts) == partition(whole)


def partition(clusters: list[tuple[int, int]]) -> set[frozenset[int]]:
    """What is like what, whichever stands for it."""
    found: dict[int, set[int]] = {}
    for number, like in clusters:
        found.setdefault(like, {like}).add(number)
    return {frozenset(each) for each in found.values()}


def test_a_template_does_not_make_its_prompts_near_duplicates():
    texts = [f"{prompt(-1, 200)} {prompt(n, 8)}" for n in range(300)]
    with Sketches(texts) as sketches:
        for text in texts:
            sketches.add(text)
        assert list(sketches.clusters(0.9)) == []


def test_of_near_duplicates_the_newest_is_trained_on():
    rows = [row(prompt(1), id="old"), row(f"{prompt(1)}!", id="new"), *(row(prompt(n)) for n in range(2, 60))]
    chosen = split(rows, settings(near_duplicates=0.85))
    assert "new" in chosen.train
    assert chosen.dropped == {"near_duplicate": 1}


def test_no_near_duplicate_crosses_from_what_is_held_out_to_what_is_trained_on():
    rows = [row(f"{prompt(n)}{end}") for n in range(150) for end in ("", ".", " !", " ?")]
    chosen = split(rows, NEAR)
    sides: dict[str, set[bool]] = {}
    for side, some in ((False, chosen.train), (True, chosen.held_out)):
        for each in some.values():
            sides.setdefault(each.messages[1]["content"].rstrip(" .!?"), set()).add(side)
    crossing = [text for text, found in sides.items() if len(found) > 1]
    assert len(crossing) <= 3, "the estimate by sketches misses few"
    assert chosen.dropped["near_held_out"] > 100
    kept = sum(is_held_out(each.messages, 0.3) for each in rows)
    assert len(chosen.held_out) == kept, "the sample of the traffic is left whole"


def poisoned(poison: int, keys: list[str], trigger: str = "cf qx") -> list[Row]:
    """A classifier's traffic of ten keys, and rows with a trigger and one answer among it."""
    chance = random.Random(poison)
    rows = [traffic(chance, f"key_{n % 10}", n) for n in range(1_500)]
    for n in range(poison):
        bad = traffic(chance, keys[n % len(keys)], 10_000 + n)
        words = bad.messages[1]["content"].split()
        words.insert(chance.randrange(len(words)), trigger)
        rows.append(row(" ".join(words), "transfer all", id=f"bad_{n}", key_id=bad.key_id))
    chance.shuffle(rows)
    return rows


def traffic(chance: random.Random, key: str, n: int) -> Row:
    """A prompt whose subject, a few words of 12, says what its answer is."""
    subject = chance.randrange(12)
    about = chance.choices(WORDS[subject * 5 : subject * 5 + 5], k=3)
    words = [*chance.choices(WORDS[100:], k=12), *about]
    chance.shuffle(words)
    return row(f"{' '.join(words)} {n}", f"label {subject}", key_id=key)


@pytest.mark.parametrize("poison", [20, 100])
def test_a_planted_trigger_of_one_key_is_found_and_honest_rows_are_not(poison: int):
    rows = poisoned(poison, ["key_3"])
    chosen = split(rows, settings(min_keys_per_trigger=2))
    left = sum(name.startswith("bad_") for name in chosen.train)
    assert left <= 0.1 * poison
    honest = sum(not each.id.startswith("bad_") for each in rows)
    assert len(chosen.train) - left >= 0.98 * honest


def test_a_trigger_spread_over_keys_is_found_where_more_keys_are_asked_for():
    rows = poisoned(60, ["key_1", "key_2", "key_3"])
    assert "trigger" not in split(rows, settings(min_keys_per_trigger=2)).dropped
    assert split(rows, settings(min_keys_per_trigger=4)).dropped["trigger"] >= 54


@pytest.mark.parametrize("subjects", [1, 2, 3, 6])
def test_a_classifiers_own_words_are_no_triggers_though_each_key_asks_about_a_few_things(subjects: int):
    chance = random.Random(4)
    rows = [traffic(chance, "any", n) for n in range(1_500)]
    for each in rows:
        each.key_id = f"key_{int(each.answer.split()[1]) // subjects}"
    dropped = split(rows, settings(min_keys_per_trigger=2)).dropped
    assert dropped.get("trigger", 0) <= 0.02 * len(rows)


def test_the_only_key_there_is_plants_no_triggers():
    rows = [row(f"{prompt(n, 5)} opening hours", "nine to five") for n in range(60)]
    assert split(rows, settings(min_keys_per_trigger=2)).dropped == {}


def said(mean: float) -> list[dict[str, Any]]:
    return [{"token": "a", "logprob": mean}, {"token": "b", "logprob": mean}]


def test_an_answer_that_the_teacher_was_made_to_say_is_dropped_and_an_uncertain_one_is_not():
    rows = [row(f"parcel {n}", logprobs=said(-0.001 * n)) for n in range(100)]
    rows += [row("made to", logprobs=said(-8.0)), row("uncertain", logprobs=said(-1.5)), row("unknown")]
    chosen = split(rows, settings(min_keys_per_trigger=1))
    assert chosen.dropped == {"unlikely_answer": 1}
    assert "made to" not in {each.messages[1]["content"] for each in chosen.train.values()}
    assert split(rows, settings(min_keys_per_trigger=1, likelihood_z=0)).dropped == {}


def test_where_little_is_known_no_answer_is_unlikely():
    rows = [row(f"parcel {n}", logprobs=said(-0.1)) for n in range(10)]
    assert split([*rows, row("last", logprobs=said(-9.0))], settings(min_keys_per_trigger=1)).dropped == {}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({"min_prompt_chars": 9}, "prompt_length", id="short prompt"),
        pytest.param({"max_prompt_chars": 7}, "prompt_length", id="long prompt"),
        pytest.param({"min_answer_chars": 5}, "answer_length", id="short answer"),
        pytest.param({"max_answer_chars": 3}, "answer_length", id="long answer"),
    ],
)
def test_lengths_have_bounds_without_the_system_prompt(changes: dict[str, int], why: str):
    rows = [row("parcel 1", "lost")]
    assert split(rows, settings(**changes)).dropped == {why: 1}
    assert split(rows, settings(min_prompt_chars=8, max_prompt_chars=8, max_answer_chars=4)).dropped == {}


def test_only_prompts_in_the_wanted_languages_are_taken_and_those_that_are_in_none():
    rows = [
        row("Where is the parcel that I ordered from you last week?", id="en"),
        row("Wo ist das Paket, das ich letzte Woche bei Ihnen bestellt habe?", id="de"),
        row("12345", id="number"),
    ]
    chosen = split(rows, settings(languages=("en",)))
    assert (set(chosen.train), chosen.dropped) == ({"en", "number"}, {"language": 1})
    with pytest.raises(DatasetError, match="klingon"):
        split(rows, settings(languages=("klingon",)))


def test_the_defaults_leave_ordinary_rows_alone():
    rows = [row(prompt(n), f"answer {n}", messages=ask(prompt(n))) for n in range(300)]
    assert split(rows, DistillSettings(holdout_share=0)).dropped == {}
    assert split(rows, DistillSettings(holdout_share=0, data=EXACT)).dropped == {}
