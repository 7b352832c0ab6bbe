"""Money is whole minor units: what is shown can be typed, what is split adds up, and what is no money is refused."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pasys import money
from pasys.driver import array
from pasys.errors import Dust, InvalidAmount, UnknownAsset
from pasys.money import MINOR_MAX, Money, allocate, asset_of, format_minor, from_chain, parse, to_chain

# A loaded machine is slow, not wrong.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

CURRENCIES = sorted(money._iso4217())
ASSETS = [*CURRENCIES, "USDC", "USDT", "DAI", "ETH"]
minors = st.integers(min_value=1, max_value=MINOR_MAX)


# Text ----------------------------------------------------------------------------------------------------------------


@given(minor=minors, asset=st.sampled_from(ASSETS))
def test_what_is_shown_can_be_typed(minor: int, asset: str):
    """Every amount of every asset comes back from its own text."""
    assert parse(format_minor(minor, asset), asset) == Money(minor, asset)


@given(minor=minors, asset=st.sampled_from(ASSETS))
def test_text_says_the_exact_value(minor: int, asset: str):
    """The text is the exact decimal value, with all of the asset's decimals."""
    text = format_minor(minor, asset)
    assert Fraction(text) == Fraction(minor, 10 ** asset_of(asset).decimals)
    assert len(text.partition(".")[2]) == asset_of(asset).decimals


@given(minor=st.integers(min_value=-MINOR_MAX, max_value=MINOR_MAX), asset=st.sampled_from(ASSETS))
def test_a_debt_is_shown_with_its_sign_and_groups(minor: int, asset: str):
    """Balances may be negative; thousands are grouped only where a person reads."""
    assert str(Money(minor, asset)).replace(",", "") == f"{Money(minor, asset).decimal} {asset}"
    assert Money(minor, asset).decimal.startswith("-") == (minor < 0)


def test_cents_add_up():
    """100.10 and 0.58 are 100.68, not 100.67999999999999."""
    assert (parse("100.10", "USD") + parse("0.58", "USD")).decimal == "100.68"


@pytest.mark.parametrize(
    ("asset", "decimals"),
    [("USD", 2), ("JPY", 0), ("KWD", 3), ("BHD", 3), ("CLF", 4), ("USDC", 6), ("DAI", 9), ("ETH", 9)],
)
def test_each_asset_has_its_decimals(asset: str, decimals: int):
    """The smallest amount of an asset is one minor unit; nothing finer can be said."""
    smallest = "1" if decimals == 0 else "0." + "1".rjust(decimals, "0")
    assert parse(smallest, asset) == Money(1, asset)
    finer = "1.5" if decimals == 0 else smallest + "0"
    with pytest.raises(InvalidAmount, match=f"{asset} has {decimals} decimals"):
        parse(finer, asset)


NO_AMOUNTS = [
    *("-1", "-0.01", "--1", "-abc", "+1", "0", "0.00", "00", "-0"),
    *("NaN", "nan", "inf", "-Infinity", "1e3", "1E3", "1e-2", "0x10", "0b1", "1_000"),
    *("1.005", "1.000", "0.001", "1.0000000000000000000000000001"),
    *("", " ", "1 ", " 1", "1\n", "\t1", "1 000", "1,000", "1.000,00", "1'000", "1.", ".5", "1..5", "1.5.0", "."),
    *("١٢", "１２", "²", "½", "1\u00a0000", "12\u200b", "$5", "5 USD", "five", "None", "null", "True"),
    *("9" * 20, "9" * 19, "4611686018427387.90401", "1" + "0" * 400),
]


@pytest.mark.parametrize("text", NO_AMOUNTS, ids=repr)
def test_what_is_no_amount_is_refused(text: str):
    """Negative, zero, not a number, exponents, too precise, foreign digits, separators, spaces, too large: refused."""
    with pytest.raises(InvalidAmount) as refused:
        parse(text, "USD")
    assert refused.value.facts["text"] == text and refused.value.advice


@given(text=st.text(max_size=30), asset=st.sampled_from(ASSETS))
@example("1\x00", "USD")
def test_any_text_is_an_amount_or_refused(text: str, asset: str):
    """Whatever is typed either is a positive amount that says the same again, or is refused by that name."""
    try:
        read = parse(text, asset)
    except InvalidAmount:
        return
    assert 0 < read.minor <= MINOR_MAX and Fraction(read.decimal) == Fraction(text)


def test_the_largest_amount_is_an_amount():
    """The limit itself may be typed, one unit more may not."""
    assert parse(format_minor(MINOR_MAX, "USD"), "USD").minor == MINOR_MAX
    with pytest.raises(InvalidAmount, match="too large"):
        parse(format_minor(MINOR_MAX + 1, "USD"), "USD")


@pytest.mark.parametrize("code", ["usd", "US", "XXX1", "", "USD ", "BTC", "‮USD"])
def test_unknown_assets_are_refused(code: str):
    """A code that is not exactly an asset's is refused, never read as the nearest one."""
    with pytest.raises(UnknownAsset):
        parse("1", code)


def test_assets_do_not_mix():
    """Adding or comparing two assets is a bug, and stops."""
    for mix in (lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a < b):
        with pytest.raises(AssertionError):
            mix(Money(1, "USD"), Money(1, "EUR"))


def test_money_is_whole():
    """A float, a bool or text never becomes money."""
    for value in (1.0, True, "1", None):
        with pytest.raises(AssertionError):
            Money(value, "USD")  # type: ignore[arg-type]


# The chain -----------------------------------------------------------------------------------------------------------


@given(minor=minors)
def test_a_token_survives_the_chain(minor: int):
    """18 decimals on the chain, 9 in the ledger: there and back is the same amount."""
    assert from_chain(to_chain(Money(minor, "DAI")), "DAI") == Money(minor, "DAI")
    assert to_chain(Money(minor, "DAI")) == minor * 10**9
    assert to_chain(Money(minor, "USDC")) == minor


@given(minor=minors, dust=st.integers(min_value=1, max_value=10**9 - 1))
def test_dust_is_refused(minor: int, dust: int):
    """An amount finer than a ledger unit is refused as dust, never rounded."""
    with pytest.raises(Dust) as refused:
        from_chain(minor * 10**9 + dust, "DAI")
    assert refused.value.facts["decimals"] == 9


# Splits --------------------------------------------------------------------------------------------------------------

weights = st.lists(st.integers(min_value=0, max_value=10**12), min_size=1, max_size=20).filter(any)


@given(minor=st.integers(min_value=0, max_value=MINOR_MAX), weights=weights)
@example(100, [1, 1, 1])
@example(1, [1, 1])
def test_a_split_loses_nothing(minor: int, weights: list[int]):
    """The shares sum to the whole, and each is its exact part or less than one unit away from it."""
    shares = allocate(minor, weights)
    assert sum(shares) == minor and len(shares) == len(weights)
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - Fraction(minor * weight, sum(weights))) < 1
        assert weight or not share, "who has no weight gets nothing"


@given(minor=st.integers(min_value=0, max_value=MINOR_MAX), parts=st.integers(min_value=1, max_value=50))
def test_an_even_split_is_fair(minor: int, parts: int):
    """Equal parts differ by at most one unit, and the earlier ones are the larger."""
    shares = allocate(minor, [1] * parts)
    assert max(shares) - min(shares) <= 1 and shares == sorted(shares, reverse=True)


# Arrays --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def connection(servers: Any) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(servers.require("database_url"), autocommit=True) as opened:
        yield opened


def back(connection: psycopg.Connection[Any], items: list[Any], kind: str) -> Any:
    row = connection.execute(f"select %(items)s::{kind}[]".encode(), {"items": array(items)}).fetchone()
    assert row is not None
    return row[0]


texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)


class TestArrays:
    """What is bound as an array arrives in PostgreSQL as it was."""

    @pytest.fixture(autouse=True)
    def _connected(self, connection: psycopg.Connection[Any]) -> None:
        type(self).link = connection

    link: psycopg.Connection[Any]

    @given(items=st.lists(st.none() | texts, max_size=8))
    @example(['"', "\\", '\\"', "a,b", "{", "}", "{}", "", " ", "NULL", "null", "'", "\n", "\t", "é", "💶", None])
    @example(['plain "quoted"', "C:\\path"])
    @example(["NULL"])
    def test_text_arrives(self, items: list[str | None]):
        """Quotes, backslashes, commas, braces, blanks, NULL and any script survive, beside real nulls."""
        assert back(self.link, items, "text") == items

    @given(items=st.lists(st.none() | st.binary(max_size=20), max_size=8))
    def test_bytes_arrive(self, items: list[bytes | None]):
        """Bytes survive, whatever they are."""
        assert back(self.link, items, "bytea") == items

    @given(items=st.lists(st.none() | st.integers(min_value=-(2**63), max_value=2**63 - 1), max_size=8))
    def test_numbers_arrive(self, items: list[int | None]):
        """Every signed 64-bit integer survives."""
        assert back(self.link, items, "bigint") == items

    @given(items=st.lists(st.none() | st.uuids(), max_size=8))
    def test_uuids_arrive(self, items: list[Any]):
        """Transfer ids survive."""
        assert back(self.link, items, "uuid") == items

    @given(items=st.lists(st.booleans(), max_size=8))
    def test_flags_arrive(self, items: list[bool]):
        """Flags survive."""
        assert back(self.link, items, "boolean") == items

    def test_nothing_else_is_guessed(self):
        """What has no array form is a bug, and stops before the database sees it."""
        with pytest.raises(AssertionError):
            array([object()])
