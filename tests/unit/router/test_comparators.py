"""Comparators: which is chosen, and what each takes for agreement."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.comparators import COMPARATORS, DEFERRED, Reply, agreed, choose, compare, infer, obvious
from router.settings import RouterSettings

NUMBERISH = st.text(st.sampled_from("0123456789.,/-%$€ e½\n\\{}boxedfrac"), max_size=40)
TEXTS = st.text() | NUMBERISH | st.text(st.characters(categories=("Nd", "No", "Sc", "P", "Cs")), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
CALLS = st.lists(st.tuples(st.text(max_size=5), st.text(max_size=9) | JSON.map(json.dumps)), max_size=3).map(tuple)
REPLIES = st.builds(Reply, TEXTS | JSON.map(json.dumps), CALLS)
NAMES = st.sampled_from(list(COMPARATORS))


def ask(text: str, **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}]} | fields


def same(name: str, student: str, teacher: str) -> bool:
    return agreed(compare(name, Reply(student), Reply(teacher)))


@given(NAMES, REPLIES)
def test_an_answer_agrees_with_itself_by_every_comparator(name: str, reply: Reply):
    assert compare(name, reply, reply) == 1


@given(NAMES, REPLIES, REPLIES)
def test_agreement_is_symmetric_bounded_and_never_an_error(name: str, one: Reply, other: Reply):
    assert 0 <= compare(name, one, other) <= 1
    assert compare(name, one, other) == compare(name, other, one)


@given(st.dictionaries(st.text(max_size=9), JSON), REPLIES)
def test_every_request_has_a_comparator_whatever_its_shape(body: dict[str, object], teacher: Reply):
    assert infer(body, teacher) in (*COMPARATORS, *DEFERRED)
    assert infer(body | {"messages": [body, 7, {"role": "user", "content": [body, "x"]}]}, teacher)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("Yes", " yes.\n"),
        ("card  arrival", "card\narrival"),
        ("ﬁne", "FINE!"),
        ("STRASSE", "straße"),
        ("はい。", "はい"),
        ("\uff46\uff4f\uff4f", "foo"),
        ("no . . .", "no"),
    ],
)
def test_texts_that_are_equal_but_for_form_agree_exactly(student: str, teacher: str):
    assert same("exact", student, teacher)


@pytest.mark.parametrize(("student", "teacher"), [("5%", "5"), ("-5", "5"), ("?", "!"), ("", "."), ("a b", "ab")])
def test_texts_of_another_meaning_do_not_agree_exactly(student: str, teacher: str):
    assert not same("exact", student, teacher)


@given(st.text())
def test_exact_agreement_is_blind_to_case(text: str):
    assert same("exact", text, text.casefold())


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        pytest.param('{"a": 1, "b": [2.0]}', '{"b":[2],"a":1.0}', id="order-and-number-form"),
        pytest.param('```json\n{"a": 1}\n```', '{"a": 1}', id="fenced"),
        pytest.param("not json at all", "Not JSON at all.", id="neither-is-json"),
    ],
)
def test_json_agrees_by_value(student: str, teacher: str):
    assert same("json", student, teacher)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        pytest.param('{"a": true}', '{"a": 1}', id="true-is-not-one"),
        pytest.param("[1, 2]", "[2, 1]", id="lists-have-an-order"),
        pytest.param('{"a": "1"}', '{"a": 1}', id="text-is-not-a-number"),
        pytest.param('{"a": 1}', '{"a": 1', id="cut-off"),
        pytest.param('Here it is: {"a": 1}', '{"a": 1}', id="talk-around-it"),
        pytest.param("[]", "{}", id="list-is-not-an-object"),
        pytest.param("null", "", id="null-is-not-nothing"),
    ],
)
def test_json_of_another_value_does_not_agree(student: str, teacher: str):
    assert not same("json", student, teacher)


@given(JSON)
def test_json_agrees_with_itself_written_in_another_way(value: object):
    assert same(
        "json", json.dumps(value), f"```\n{json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)}```"
    )


def test_json_too_deep_to_compare_is_compared_as_text():
    deep = "[" * 20_000 + "]" * 20_000
    assert same("json", deep, deep)
    assert not same("json", deep, "[]")


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        pytest.param("1,234.50", "The total is $1234.5.", id="thousands-and-currency"),
        pytest.param("1 234 567", "1,234,567", id="spaces"),
        pytest.param("1.234,56 €", "1234.56", id="decimal-comma"),
        pytest.param(r"So \boxed{\frac{3}{4}}", "0.75", id="latex-fraction"),
        pytest.param(r"First 9, then \boxed{12}. Done in 2 steps", "12", id="the-box-goes-first"),
        pytest.param("1 1/2", "1½", id="mixed-fractions"),
        pytest.param("5 percent", r"5\%", id="percent"),
        pytest.param("It was 7, now it is 8", "8", id="the-final-one"),
        pytest.param("1e3", "1,000", id="power"),
        pytest.param("٤٢", "42", id="arabic-digits"),
        pytest.param("\u22125", "-5.0", id="minus-sign"),
        pytest.param("none", "None.", id="neither-has-one"),
        pytest.param("step 1 of it, " * 500 + "so 42", "42", id="at-the-end-of-much"),
    ],
)
def test_numbers_agree_by_value(student: str, teacher: str):
    assert same("numeric", student, teacher)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        pytest.param("5%", "5", id="percent"),
        pytest.param("5%", "0.05", id="percent-by-value"),
        pytest.param("-5", "5", id="sign"),
        pytest.param("$5", "€5", id="currency"),
        pytest.param("3 000", "5 000", id="grouped-by-spaces"),
        pytest.param("2023-01-05", "2024-01-05", id="dates"),
        pytest.param("10:30", "11:30", id="times"),
        pytest.param("1.2.3", "2.2.3", id="versions"),
        pytest.param("3-5", "4-5", id="ranges"),
        pytest.param("twelve", "12", id="only-one-has-one"),
        pytest.param("12 of .5", "12", id="leading-point"),
    ],
)
def test_numbers_of_another_value_do_not_agree(student: str, teacher: str):
    assert not same("numeric", student, teacher)


@given(st.integers(-(10**12), 10**12))
def test_a_number_agrees_with_itself_grouped_and_with_no_other(number: int):
    assert same("numeric", f"{number:,}", f"It comes to {number}.00.")
    assert not same("numeric", str(number), str(number + 1))


@given(st.integers(0, 999), st.integers(1, 999), st.integers(1, 50))
def test_a_fraction_agrees_with_the_same_one_extended(top: int, under: int, by: int):
    assert same("numeric", f"{top}/{under}", rf"\boxed{{\frac{{{top * by}}}{{{under * by}}}}}")


def test_numbers_that_no_machine_should_compute_are_passed_over():
    for text in ("9" * 100_000, "1e999999999", "1/" * 50_000, "\\boxed{" * 20_000, "{" * 50_000):
        assert same("numeric", text, text)
        assert not same("numeric", text, "1")


def call(name: str = "lookup", arguments: str = '{"id": 7, "deep": true}') -> tuple[str, str]:
    return name, arguments


def test_tool_calls_agree_in_any_order_by_the_value_of_their_arguments():
    student = Reply("Let me see.", (call(), call("send", "{}")))
    teacher = Reply("", (call("send", ""), call(arguments='{"deep":true,"id":7.0}')))
    assert compare("tools", student, teacher) == 1


@pytest.mark.parametrize(
    "student",
    [
        pytest.param(Reply("7"), id="no-call"),
        pytest.param(Reply("", (call("look_up"),)), id="another-name"),
        pytest.param(Reply("", (call(arguments='{"id": 8, "deep": true}'),)), id="another-argument"),
        pytest.param(Reply("", (call(), call())), id="twice"),
        pytest.param(Reply("", (call(arguments='{"id": 7,'),)), id="broken-arguments"),
    ],
)
@pytest.mark.parametrize("name", COMPARATORS)
def test_other_calls_do_not_agree_by_any_comparator(name: str, student: Reply):
    assert compare(name, student, Reply("7", (call(),))) == 0


def test_calls_are_read_from_openais_shape_and_odd_ones_passed_over():
    sent = [{"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": '{"id": 7}'}}, None, 5]
    assert Reply.kept("x", sent).tool_calls[0] == ("lookup", '{"id": 7}')
    assert Reply.kept(None, "nonsense") == Reply()


@pytest.mark.parametrize(
    ("body", "teacher", "name"),
    [
        pytest.param(ask("Where is it?"), Reply("", (call(),)), "tools", id="calls"),
        pytest.param(ask("x", tools=[{"type": "function"}]), Reply("lost"), "exact", id="offered-but-not-called"),
        pytest.param(ask("x", response_format={"type": "json_object"}), Reply("hm"), "json", id="asked-for-json"),
        pytest.param(ask("x"), Reply('```json\n{"a": 1}\n```'), "json", id="answered-in-json"),
        pytest.param(ask("x"), Reply("An example:\n```json\n{}\n```\nThat is it."), "embedding", id="json-quoted"),
        pytest.param(ask("How many are left?"), Reply("There are 7 apples left."), "numeric", id="how-many"),
        pytest.param(ask("What is 6 * 7?"), Reply("The answer is 42"), "numeric", id="arithmetic"),
        pytest.param(ask("Combien de pommes ?"), Reply("Il y a 7 pommes."), "numeric", id="french"),
        pytest.param(ask("Solve it"), Reply("Long work.\n" * 9 + r"\boxed{7}"), "numeric", id="boxed"),
        pytest.param(ask("Score?"), Reply("$1,000"), "numeric", id="nothing-but-a-number"),
        pytest.param(ask("Which room?"), Reply("Room 5"), "exact", id="a-name-with-a-number"),
        pytest.param(ask("Born in 1999?"), Reply("1999-05-01"), "exact", id="a-date"),
        pytest.param(ask("Sort it."), Reply("card arrival"), "exact", id="a-label"),
        pytest.param(ask("Sort it."), Reply(" ".join(["word"] * 13)), "embedding", id="prose"),
        pytest.param(ask("二つの文"), Reply("長い文" * 50), "embedding", id="prose-without-spaces"),
        pytest.param(ask("Sort it."), Reply("one\ntwo"), "embedding", id="lines"),
        pytest.param({"messages": "odd"}, Reply("yes"), "exact", id="odd-body"),
    ],
)
def test_the_comparator_is_inferred_from_request_and_answer(body: dict[str, object], teacher: Reply, name: str):
    assert infer(body, teacher) == name


def test_settings_choose_by_tag_before_model_before_all():
    settings = RouterSettings(comparator="exact", comparators={"sums": "numeric", "gpt-4o": "json", "any": "auto"})

    def chosen(*tags: str, model: str = "auto") -> str:
        return choose(settings, tags, model, ask("Write a poem"), Reply("a\nb"))

    assert chosen() == "exact"
    assert chosen(model="gpt-4o") == "json"
    assert chosen("other", "sums", model="gpt-4o") == "numeric"
    assert chosen("any") == "embedding"


@pytest.mark.parametrize("name", DEFERRED)
def test_a_comparator_that_needs_a_model_is_refused_and_not_guessed(name: str):
    with pytest.raises(KeyError, match=name):
        compare(name, Reply("a"), Reply("a"))


@pytest.mark.parametrize(
    ("student", "teacher", "known"),
    [
        pytest.param(Reply("So it is."), Reply("so it is"), 1.0, id="equal"),
        pytest.param(Reply(), Reply("It is so."), 0.0, id="says-nothing"),
        pytest.param(Reply("I will", (call(),)), Reply("It is so."), 0.0, id="calls-a-tool"),
        pytest.param(Reply("Thus it is."), Reply("It is so."), None, id="a-model-has-to-say"),
    ],
)
def test_what_is_obvious_needs_no_model(student: Reply, teacher: Reply, known: float | None):
    assert obvious(student, teacher) == known


def test_the_gateways_comparators_load_no_numeric_package():
    code = "import sys, router.comparators; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "msgspec" in loaded
    assert {"numpy", "torch", "sklearn", "scipy"}.isdisjoint(loaded)
