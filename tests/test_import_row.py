"""A row, a header and a file that are not valid are named by line, column and reason; none is guessed at."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pasys.cli import import_source
from pasys.cli.import_file import prepare
from pasys.cli.import_source import Source
from pasys.domain.import_row import accounts_of, read_header, reader
from pasys.errors import InvalidInput, InvalidRows, Rejected
from pasys.money import Money
from tests.import_files import FUNDED, HEADER, checked, chosen_of, silent, write

RAILS = ("book", "instant", "stripe")


def read(text: str, header: str = HEADER) -> Any:
    """One row, as the reader reads it."""
    return reader(read_header(header.split(",")), RAILS)([2], [text.split(",")])[0]


def test_a_row_is_read_exactly() -> None:
    """Text becomes whole minor units, names, a time in UTC, and metadata under the columns' own names."""
    row = read(" k1 ,payment,ada,shop,12.50,USD,stripe,pm_card_visa,2026-01-31T13:00:00+01:00,A-7", f"{HEADER},Order")
    assert (row.line, row.key, row.kind, row.debit, row.credit) == (2, "k1", "payment", "ada", "shop")
    assert (row.amount, row.rail, row.payment_method) == (Money(1250, "USD"), "stripe", "pm_card_visa")
    assert row.effective_at == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert row.metadata == {"Order": "A-7"}


def test_a_time_without_a_zone_is_utc() -> None:
    """A file means the same on every machine."""
    assert read("k,,a,b,1,USD,,,2026-01-31").effective_at == datetime(2026, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("amount", "asset", "minor"),
    [("500", "JPY", 500), ("1.230", "KWD", 1230), ("1.2", "KWD", 1200), ("0.01", "USD", 1), ("7", "EUR", 700)],
)
def test_each_currency_has_its_own_decimals(amount: str, asset: str, minor: int) -> None:
    """JPY has none, KWD three."""
    assert read(f"k,,a,b,{amount},{asset},,,").amount == Money(minor, asset)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        *((f"k,,a,b,{amount},USD,,,", "amount") for amount in ("1e3", "NaN", "-5", "1.005", "0", "", "abc", "+1")),
        *(
            (f"k,,a,b,{amount},USD,,,", "amount")
            for amount in ("1 000", "١٢", "0.00", "Infinity", ".5", "99999999999999999999")
        ),
        ("k,,a,b,1.5,JPY,,,", "amount"),
        ("k,,a,b,1.2345,KWD,,,", "amount"),
        ("k,,a,b,1,usd,,,", "asset"),
        ("k,,a,b,1,,,,", "asset"),
        ("k,,a,b,1,XXQ,,,", "asset"),
        ("k,refund,a,b,1,USD,,,", "kind"),
        ("k,deposit,a,b,1,USD,,,", "from"),
        ("k,withdrawal,a,b,1,USD,,,", "to"),
        ("k,payment,,b,1,USD,,,", "from"),
        ("k,transfer,a,b,1,USD,stripe,,", "rail"),
        ("k,,,,1,USD,,,", "from"),
        ("k,,a,a,1,USD,,,", "to"),
        ("k,,a,b,1,USD,paypal,,", "rail"),
        ("k,,a,b,1,USD,,,yesterday", "effective_at"),
        ("k,,a,b,1,USD,,,2026-02-30", "effective_at"),
        (f"{'k' * 256},,a,b,1,USD,,,", "key"),
        ("k,,a,b,1,USD,,", "row"),
        ("k,,a,b,1,USD,,,,", "row"),
    ],
)
def test_every_bad_row_is_named(text: str, field: str, tmp_path: Path) -> None:
    """Line and field of a bad row are named, and the command ends as invalid input."""
    with pytest.raises(InvalidRows) as refused:
        checked(write(tmp_path / "bad.csv", *FUNDED, "", text))
    (bad,) = refused.value.facts["invalid_rows"]
    assert (bad.line, bad.field) == (5, field)
    assert refused.value.exit_code == 2 and "line 5" in str(refused.value)


@pytest.mark.parametrize(
    ("header", "field"),
    [
        ("key,from,to,asset", "amount"),
        ("key,from,to,amount", "asset"),
        ("key,amount,asset", "from"),
        ("from,to,ammount,asset", "ammount"),
        ("from,to,amount,asset,payment-method", "payment-method"),
        ("from,to,amount,asset,amount", "amount"),
        ("from,to,amount,asset,", "header"),
        ("from;to;amount;asset", "delimiter"),
    ],
)
def test_a_wrong_header_is_named(header: str, field: str, tmp_path: Path) -> None:
    """A column that is missing, misspelled or there twice is named; none is ignored."""
    with pytest.raises(InvalidInput) as refused:
        Source(write(tmp_path / "h.csv", "x", header=header), delimiter=",").layout()
    assert refused.value.facts["field"] == field


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"from,to,amount,asset\n", "no rows"),
        (b"from,to,amount,asset\na,b,1,\xff\n", "utf-8"),
        ("from,to,amount,asset\na,b,1,USD\n".encode("utf-16"), "UTF-8"),
        (b'from,to,amount,asset\na,b,1,"USD\n', "no CSV"),
    ],
)
def test_a_broken_file_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    """Whatever is no CSV is said to be none; nothing is guessed."""
    (tmp_path / "f.csv").write_bytes(content)
    with pytest.raises(InvalidInput, match=says):
        checked(tmp_path / "f.csv")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The path is in the sentence."""
    with pytest.raises(InvalidInput, match=r"nowhere\.csv"):
        Source(tmp_path / "nowhere.csv", delimiter=",")


def test_a_key_stands_once_in_a_file(tmp_path: Path) -> None:
    """The second row with a key is refused by its line, however far apart the two stand."""
    path = write(tmp_path / "k.csv", *FUNDED, "f1,deposit,,ada,100.00,USD,,,")
    with pytest.raises(InvalidRows, match="line 4: key: 'f1' stands on line 2"):
        checked(path)


def test_a_name_that_cannot_be_opened_is_a_bad_row(tmp_path: Path) -> None:
    """Named by line and field before anything is written."""
    with pytest.raises(InvalidRows, match="line 2: to:"):
        checked(write(tmp_path / "n.csv", "1,deposit,,a b,9,USD,,,"))


def test_each_bad_row_of_many_is_found(tmp_path: Path) -> None:
    """Wherever it stands among good ones, and whatever is wrong with it; of two equal keys the later one."""
    rows = [f"k{n},deposit,,c{n % 7},1,USD,,," for n in range(9_000)]
    bad = {0: "amount", 17: "asset", 3_999: "key", 4_000: "to", 8_998: "key", 8_999: "row"}
    rows[0], rows[17] = "k0,deposit,,ada,x,USD,,,", "k17,deposit,,ada,1,XXQ,,,"
    rows[3_999], rows[4_000] = rows[3_998], "k,deposit,,a b,1,USD,,,"
    rows[8_998], rows[8_999] = rows[5], "k8999,deposit"
    with pytest.raises(InvalidRows) as refused:
        checked(write(tmp_path / "m.csv", *rows))
    found = refused.value.facts["invalid_rows"]
    assert {one.line - 2: one.field for one in found} == bad
    assert [one.message for one in found if one.field == "key"] == [
        "key: 'k3998' stands on line 4000 already",
        "key: 'k5' stands on line 7 already",
    ]


def test_who_sells_also_buys(tmp_path: Path) -> None:
    """Whoever receives a payment anywhere is a merchant, all others customers; public ids open nothing."""
    rows = ["1,,shop,ben,1,USD,,,", "2,payment,ada,shop,1,USD,,,", "3,,shop,acc_0000000000001,1,USD,,,"]
    more = ["4,,eve,mall,1,USD,stripe,,", "5,,mall,eve,1,USD,,,", "6,,ada,ben,1,EUR,,,"]
    found = checked(write(tmp_path / "s.csv", *rows, *more))
    dollars = {"shop": "merchant", "ben": "customer", "ada": "customer", "eve": "customer", "mall": "merchant"}
    assert found.accounts == {(name, "USD"): kind for name, kind in dollars.items()} | {
        ("ada", "EUR"): "customer",
        ("ben", "EUR"): "customer",
    }
    assert (found.rails_used, found.assets_outside) == ({"book", "stripe"}, {"USD"})


def test_a_bad_row_takes_no_key(tmp_path: Path) -> None:
    """Whatever is wrong with it: a good row behind it may have the same."""
    rows = ["k,deposit,,a b,1,USD,,,", "k,deposit,,ada,x,USD,,,", "k,deposit,,ada,1,USD,,,", "k,deposit,,ada,1,USD,,,"]
    source = Source(write(tmp_path / "k.csv", *rows), delimiter=",")
    found = prepare(source, chosen_of({"skip_invalid": True}), silent)
    assert found.bad_lines == {2, 3, 5}


@pytest.mark.parametrize(("bad", "times"), [({1_234}, 3), (set(range(0, 4_000, 100)), 10), (set(range(4_000)), 4)])
def test_bad_rows_are_looked_for_in_few_steps(
    bad: set[int], times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One among thousands, or all of them: a row is read a few times at most, and few are read alone."""
    read: list[int] = []
    take = import_source._Surveyor._take
    monkeypatch.setattr(import_source._Surveyor, "_take", lambda self, rows: read.append(len(rows)) or take(self, rows))
    rows = [f"k{n},deposit,,{'a b' if n in bad else 'ada'},1,USD,,," for n in range(4_000)]
    source = Source(write(tmp_path / "m.csv", *rows), delimiter=",")
    found = prepare(source, chosen_of({"skip_invalid": True}), silent)
    assert {line - 2 for line in found.bad_lines} == bad
    assert sum(read) <= times * 4_000 and read.count(1) <= 20 * len(bad)


def test_many_rows_say_what_each_says(tmp_path: Path) -> None:
    """A chunk is read as its rows are, one by one, and needs the accounts that they need."""
    random_ = random.Random(7)
    kinds = ["", "", "deposit", "payment", "transfer", "withdrawal"]
    names = ["", "ada", " ben ", "shop", "external:deposits", "acc_0000000000001"]
    good: list[list[str]] = []
    layout = read_header([*HEADER.split(","), "note"])
    one = reader(layout, RAILS)
    while len(good) < 300:
        of = [["", f"k{len(good)}"], kinds, [*names, "cid"], names, ["1", "2.50"], ["USD", "EUR"]]
        more = [["", "book", "stripe"], ["", "pm"], ["", "2026-01-31"], ["", "x"]]
        cells = [random_.choice(some) for some in [*of, *more]]
        with suppress(Rejected):
            one([1], [cells])
            good.append(cells)
    lines = range(2, 302)
    rows = reader(layout, RAILS)(lines, good)
    assert [rows[at] for at in range(300)] == [one([line], [cells])[0] for line, cells in zip(lines, good, strict=True)]
    found: dict[tuple[str, str], str] = {}
    for line, cells in zip(lines, good, strict=True):
        found |= accounts_of(one([line], [cells]), found)
    assert accounts_of(rows, {}) == found and {"merchant", "customer"} == set(found.values())
    assert accounts_of(rows, found) == {}
