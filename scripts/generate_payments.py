"""Writes a CSV of realistic payments for `pasys tx import`: the same seed writes the same file, byte for byte.

    python scripts/generate_payments.py --rows 10000 --seed 1 --out payments.csv --refunds-out refunds.csv

Customers fund their accounts, pay merchants by card and by book, send each other money and withdraw. About one card in
twenty is declined. Among them stand the patterns that a fraud check is for (a burst of one customer's payments, very
large amounts, somebody who tries stolen cards), transfers that nobody can cover, and KWD amounts that no card can
express. Needs nothing but the checkout.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pasys.money import format_minor, parse

COLUMNS = ("key", "kind", "from", "to", "amount", "asset", "rail", "payment_method", "effective_at", "order", "channel")


@dataclass(frozen=True)
class Market:
    """A currency: how often it occurs, its usual and largest amounts in major units, its step in minor units."""

    weight: int
    usual: float
    large: int
    step_minor: int
    minor_per_major: int
    cards: tuple[str, ...]


MARKETS = {
    "USD": Market(40, 42.0, 60_000, 1, 100, ("pm_card_visa", "pm_card_mastercard", "pm_card_amex", "pm_card_discover")),
    "EUR": Market(22, 38.0, 55_000, 1, 100, ("pm_card_visa", "pm_card_de", "pm_card_fr", "pm_card_mastercard")),
    "GBP": Market(13, 33.0, 52_000, 1, 100, ("pm_card_gb", "pm_card_visa_debit")),
    "JPY": Market(14, 5_200.0, 9_000_000, 1, 1, ("pm_card_jp", "pm_card_jcb")),
    "KWD": Market(11, 12.0, 18_000, 10, 1_000, ("pm_card_visa", "pm_card_mastercard_debit")),
}
DECLINES = {
    "pm_card_visa_chargeDeclined": 8,
    "pm_card_visa_chargeDeclinedInsufficientFunds": 10,
    "pm_card_visa_chargeDeclinedExpiredCard": 4,
    "pm_card_visa_chargeDeclinedIncorrectCvc": 3,
    "pm_card_visa_chargeDeclinedLostCard": 1,
    "pm_card_visa_chargeDeclinedStolenCard": 1,
    "pm_card_visa_chargeDeclinedProcessingError": 1,
}
STOLEN = "pm_card_visa_chargeDeclinedStolenCard"
DECLINED_SHARE = 0.05
CARD_PAYMENTS_A_CUSTOMER = 6  # fewer than the fraud check's usual limits, so that only patterns stand out
MERCHANTS_A_CURRENCY = 8
MIX = {"payment": 62, "book payment": 8, "transfer": 14, "deposit": 6, "card deposit": 5, "withdrawal": 5}
CHANNELS = ("web", "app", "till", "phone")


@dataclass
class Town:
    """Who is there, and what they have by book."""

    dice: random.Random
    customers: dict[str, list[str]] = field(default_factory=dict)
    merchants: dict[str, list[str]] = field(default_factory=dict)
    has_minor: Counter[tuple[str, str]] = field(default_factory=Counter)
    funded: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: int, dice: random.Random) -> Town:
        town = cls(dice)
        for asset, market in MARKETS.items():
            count = max(6, rows * market.weight // 100 // CARD_PAYMENTS_A_CUSTOMER)
            town.customers[asset] = [f"customer-{asset.lower()}-{i:05}" for i in range(1, count + 1)]
            town.merchants[asset] = [f"merchant-{asset.lower()}-{i:02}" for i in range(1, MERCHANTS_A_CURRENCY + 1)]
        return town

    def market(self) -> str:
        return self.dice.choices(list(MARKETS), [market.weight for market in MARKETS.values()])[0]

    def amount_minor(self, asset: str, *, usual: float = 1.0) -> int:
        """A price: most are small, few are not, and all can be charged to a card."""
        market = MARKETS[asset]
        major = market.usual * usual * min(self.dice.lognormvariate(0, 0.8), 20)
        steps = round(major * market.minor_per_major / market.step_minor)
        least = round(market.usual / 40 * market.minor_per_major / market.step_minor)
        return max(steps, least, 1) * market.step_minor


Row = dict[str, str]


def row(kind: str, asset: str, minor: int, **more: str) -> Row:
    return {"kind": kind, "asset": asset, "amount": format_minor(minor, asset), **more}


def usual(town: Town) -> Row:
    """One row of everyday business."""
    dice, asset = town.dice, town.market()
    what = dice.choices(list(MIX), list(MIX.values()))[0]
    customer, merchant = dice.choice(town.customers[asset]), dice.choice(town.merchants[asset])
    if what in ("payment", "card deposit"):
        declined = dice.random() < DECLINED_SHARE
        card = dice.choices(list(DECLINES), list(DECLINES.values()))[0] if declined else dice.choice(
            MARKETS[asset].cards
        )  # fmt: skip
        more = {"rail": "stripe", "payment_method": card, "channel": dice.choice(CHANNELS)}
        minor = town.amount_minor(asset)
        if what == "payment":
            return row("payment", asset, minor, **{"from": customer}, to=merchant, **more)
        return row("deposit", asset, minor, to=customer, **more)
    funded = town.funded.setdefault(asset, [])
    if what != "deposit" and funded:
        customer = dice.choice(funded)
    if what == "deposit" or town.has_minor[customer, asset] < 2:
        minor = town.amount_minor(asset, usual=5)
        funded.append(customer)
        town.has_minor[customer, asset] += minor
        return row("deposit", asset, minor, to=customer, rail="book")
    minor = max(min(town.amount_minor(asset), town.has_minor[customer, asset] // 2), 1)
    town.has_minor[customer, asset] -= minor
    if what == "withdrawal":
        return row("withdrawal", asset, minor, **{"from": customer}, rail="book")
    if what == "book payment":
        return row("payment", asset, minor, **{"from": customer}, to=merchant, rail="book")
    friend = dice.choice([other for other in town.customers[asset] if other != customer])
    town.has_minor[friend, asset] += minor
    return row("transfer", asset, minor, **{"from": customer}, to=friend, rail="book")


def card_payment(town: Town, asset: str, minor: int, *, customer: str, card: str) -> Row:
    merchant = town.dice.choice(town.merchants[asset])
    return row("payment", asset, minor, **{"from": customer}, to=merchant, rail="stripe", payment_method=card)


def patterns(town: Town, rows: int) -> Iterator[list[Row]]:
    """What a fraud check and a PSP's rules are for; each list stays together in the file."""
    dice, scale = town.dice, max(1, rows // 10_000)
    for number in range(scale):
        asset = ("USD", "EUR", "GBP")[number % 3]
        yield [  # velocity: one customer, far more payments than anybody makes in a minute
            card_payment(town, asset, town.amount_minor(asset), customer=f"burst-{number + 1}", card="pm_card_visa")
            for _ in range(45)
        ]
        yield [  # card testing: small amounts, one stolen card after the other
            card_payment(town, asset, dice.randint(100, 300), customer=f"tester-{number + 1}", card=STOLEN)
            for _ in range(15)
        ]
    for asset, market in MARKETS.items():
        for share in (0.15, 1.0):  # for a person to look at, and beyond all doubt
            minor = round(market.large * share * market.minor_per_major)
            customer = dice.choice(town.customers[asset])
            yield [card_payment(town, asset, minor, customer=customer, card=market.cards[0])]
    for _ in range(max(2, rows // 2_500)):  # no card can take five fils
        minor = town.amount_minor("KWD") + 5
        customer = dice.choice(town.customers["KWD"])
        yield [card_payment(town, "KWD", minor, customer=customer, card="pm_card_visa")]
    for _ in range(max(2, rows // 1_000)):  # nobody has that much
        asset = town.market()
        payer, payee = dice.sample(town.customers[asset], 2)
        minor = MARKETS[asset].large * MARKETS[asset].minor_per_major
        yield [row("transfer", asset, minor, **{"from": payer}, to=payee, rail="book")]


def generate(rows: int, seed: int) -> list[Row]:
    """All rows of a file, in order, with their keys."""
    town = Town.of(rows, random.Random(seed))
    special = list(patterns(town, rows))
    while sum(map(len, special)) > rows // 2:  # a small file has room for a few patterns only
        special.pop(town.dice.randrange(len(special)))
    town.dice.shuffle(special)
    left = rows - sum(map(len, special))
    everyday = [usual(town) for _ in range(left)]
    places = sorted((town.dice.randrange(left + 1) for _ in special), reverse=True)
    for place, together in zip(places, special, strict=True):
        everyday[place:place] = together
    for number, one in enumerate(everyday, 1):
        one["key"] = f"s{seed}-{number:07}"
        one["order"] = f"A-{number:07}"
    return everyday


def refunds(rows: list[Row], seed: int, share: float) -> Iterator[Row]:
    """Some card payments that should succeed, each with what goes back: all of it, or a part that a card can take."""
    dice = random.Random(seed + 1)
    for one in rows:
        plain = one["kind"] == "payment" and one["rail"] == "stripe" and "Declined" not in one["payment_method"]
        if not plain or dice.random() >= share:
            continue
        market = MARKETS[one["asset"]]
        minor = parse(one["amount"], one["asset"]).minor
        if minor % market.step_minor or minor > market.usual * market.minor_per_major * 20:
            continue
        steps = minor // market.step_minor
        part = steps if dice.random() < 0.3 else max(1, round(steps * dice.uniform(0.1, 0.9)))
        yield {"key": one["key"], "amount": format_minor(part * market.step_minor, one["asset"]), "asset": one["asset"]}


def write(path: Path, columns: tuple[str, ...], rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def accounts(rows: list[Row]) -> list[Row]:
    """Every account that the rows name."""
    found: dict[tuple[str, str], str] = {}
    for one in rows:
        for name in filter(None, (one.get("from"), one.get("to"))):
            found[name, one["asset"]] = "merchant" if name.startswith("merchant-") else "customer"
    return [{"name": name, "type": kind, "asset": asset} for (name, asset), kind in sorted(found.items())]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000, help="how many (default 10,000)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed writes the same file")
    parser.add_argument("--out", type=Path, required=True, help="the CSV for `pasys tx import`")
    parser.add_argument("--accounts-out", type=Path, help="the accounts that it names: name, type, asset")
    parser.add_argument("--refunds-out", type=Path, help="what to refund: the row's key, an amount")
    parser.add_argument("--refund-share", type=float, default=0.1, help="of the card payments (default 0.1)")
    chosen = parser.parse_args()
    if chosen.rows < 10 or not 0 <= chosen.refund_share <= 1:
        parser.error("--rows is at least 10, --refund-share between 0 and 1")
    rows = generate(chosen.rows, chosen.seed)
    write(chosen.out, COLUMNS, rows)
    if chosen.accounts_out:
        write(chosen.accounts_out, ("name", "type", "asset"), accounts(rows))
    if chosen.refunds_out:
        wanted = list(refunds(rows, chosen.seed, chosen.refund_share))
        write(chosen.refunds_out, ("key", "amount", "asset"), wanted)
    kinds = Counter(f"{one['rail']} {one['kind']}" for one in rows)
    print(f"{len(rows)} rows: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}", file=sys.stderr)


if __name__ == "__main__":
    main()
