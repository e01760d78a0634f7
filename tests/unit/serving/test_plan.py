"""What the fleet does next, whatever it finds: nothing wanted is left out, nothing that answers ends too early."""

from hypothesis import given
from hypothesis import strategies as st

from serving.plan import Plan, Seen, plan

RELEASES = st.sampled_from(["a", "b", "c"])


@st.composite
def situations(draw):
    wanted = draw(st.lists(RELEASES, unique=True))
    live = draw(st.sampled_from(wanted)) if wanted and draw(st.booleans()) else None
    served = draw(st.lists(st.tuples(RELEASES, st.booleans()), max_size=3))
    main = draw(st.integers(0, 3))
    seen = [Seen(f"p{i}", release, ready, main == i) for i, (release, ready) in enumerate(served)]
    return wanted, live, seen


@given(situations())
def test_blue_green_has_a_process_for_each_wanted_release_and_for_no_other(situation):
    wanted, live, seen = situation
    ahead = plan("blue_green", wanted, live, seen)
    kept = {each.release for each in seen if each.key in ahead.keep}
    assert kept | set(ahead.start) == set(wanted)
    assert not kept & set(ahead.start)
    assert (ahead.main, ahead.swap) == (None, None)


@given(situations(), st.integers(1, 4))
def test_the_live_release_has_so_many_processes_and_none_that_is_wanted_ends(situation, replicas):
    wanted, live, seen = situation
    ahead = plan("blue_green", wanted, live, seen, replicas)
    assert ahead.keep == {each.key for each in seen if each.release in wanted}
    for release in wanted:
        running = sum(each.release == release for each in seen)
        assert ahead.start.count(release) == max(0, (replicas if release == live else 1) - running)


@given(situations())
def test_in_place_every_wanted_release_is_served_started_or_swapped_in(situation):
    wanted, live, seen = situation
    ahead = plan("in_place", wanted, live, seen)
    kept = {each.release for each in seen if each.key in ahead.keep}
    assert set(wanted) <= kept | set(ahead.start) | {ahead.swap}
    assert ahead.main is None or ahead.main in ahead.keep


@given(situations())
def test_in_place_ends_a_second_process_of_a_release_only_when_the_main_one_answers_for_it(situation):
    wanted, live, seen = situation
    ahead = plan("in_place", wanted, live, seen)
    main = next((each for each in seen if each.key == ahead.main), None)
    for each in seen:
        if each.release in wanted and each.key not in ahead.keep:
            assert main is not None
            assert main.ready
            assert main.release == each.release


def test_the_first_live_release_keeps_the_process_it_was_evaluated_in():
    assert plan("in_place", ["a"], "a", [Seen("a", "a", True)]) == Plan(frozenset({"a"}), (), "a", None)


def test_a_candidate_that_is_promoted_goes_into_the_main_process_and_its_own_stays_until_then():
    main, own = Seen("a", "a", True, True), Seen("b", "b", True)
    assert plan("in_place", ["a", "b"], "a", [main]) == Plan(frozenset({"a"}), ("b",), "a", None)
    assert plan("in_place", ["b"], "b", [main, own]) == Plan(frozenset({"a", "b"}), (), "a", "b")
    swapped = Seen("a", "b", True, True)
    assert plan("in_place", ["b"], "b", [swapped, own]) == Plan(frozenset({"a"}), (), "a", None)


def test_a_rollback_swaps_without_a_second_process():
    assert plan("in_place", ["a"], "a", [Seen("a", "b", True, True)]) == Plan(frozenset({"a"}), (), "a", "a")
