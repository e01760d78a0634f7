"""Costs are exact: what a person computes with decimals on paper is what the ledger holds."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.prices import Price, Tokens, cost_nano

AMOUNT = st.decimals(0, 10_000, places=6) | st.sampled_from(["0.0005", "0.15", "1.25", "2.50", "0.1"]).map(Decimal)
COUNT = st.integers(0, 10**9)


def on_paper(price: dict[str, Decimal | None], tokens: Tokens) -> int:
    with localcontext(prec=80):
        cached_price = price["cached_input"] if price["cached_input"] is not None else price["input"]
        total = (
            (tokens.prompt - tokens.cached) * price["input"]
            + tokens.cached * cached_price
            + tokens.completion * price["output"]
        ) / 10**6 + price["request"]
        return int((total * 10**9).to_integral_value(ROUND_HALF_EVEN))


@given(
    st.fixed_dictionaries({"input": AMOUNT, "output": AMOUNT, "cached_input": st.none() | AMOUNT, "request": AMOUNT}),
    COUNT,
    COUNT,
    st.data(),
)
def test_a_cost_is_what_decimal_arithmetic_gives(amounts, prompt, completion, data):
    tokens = Tokens(prompt, completion, data.draw(st.integers(0, prompt)))
    price = Price(**{name: float(value) if value is not None else None for name, value in amounts.items()})
    assert cost_nano(price, tokens) == on_paper(amounts, tokens)


@pytest.mark.parametrize(
    ("price", "tokens", "cost"),
    [
        pytest.param(Price(), Tokens(10, 10), 0, id="no price"),
        pytest.param(Price(input=2.5, output=10.0), Tokens(1_000, 200), 4_500_000, id="input and output"),
        pytest.param(Price(input=2.5, cached_input=1.25), Tokens(1_000, 0, 600), 1_750_000, id="cached input"),
        pytest.param(Price(input=2.5), Tokens(1_000, 0, 600), 2_500_000, id="cached at the price of input"),
        pytest.param(Price(input=2.5, cached_input=0.0), Tokens(100, 0, 100), 0, id="cached for nothing"),
        pytest.param(Price(request=0.01), Tokens(), 10_000_000, id="per request"),
        pytest.param(Price(input=0.0005), Tokens(1), 0, id="half a nano goes to the even one"),
        pytest.param(Price(input=0.0005), Tokens(3), 2, id="one and a half too"),
        pytest.param(Price(input=0.0003, request=3e-10), Tokens(1), 1, id="rounded once, not by part"),
    ],
)
def test_a_cost_by_hand(price, tokens, cost):
    assert cost_nano(price, tokens) == cost


@given(COUNT, COUNT, COUNT)
def test_more_cached_tokens_than_prompt_tokens_never_make_a_cost_negative(prompt, cached, completion):
    price = Price(input=2.5, output=1.0, cached_input=0.1)
    assert cost_nano(price, Tokens(prompt, completion, cached)) >= 0


def test_an_unknown_kind_of_price_is_refused():
    with pytest.raises(msgspec.ValidationError, match="per_token"):
        msgspec.convert({"per_token": 1.0}, Price)
