"""Money: a whole number of an asset's minor units. Never a float, never rounded.

Assets are ISO 4217 currencies (iso4217.tsv, a versioned table) and tokens. A token's ledger keeps at most nine
decimals, whatever its contract has on the chain: an amount finer than that is refused as dust.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from pasys.errors import Dust, InvalidAmount, UnknownAsset

MINOR_MAX = 2**62  # a balance is a sum of amounts and must stay inside a signed 64-bit integer
LEDGER_DECIMALS_MAX = 9
_DECIMAL = re.compile(r"(\d{1,19})(?:\.(\d{1,19}))?")


@dataclass(frozen=True, slots=True)
class Asset:
    code: str
    decimals: int
    name: str = ""
    kind: str = "fiat"
    chain: str | None = None
    contract: str | None = None
    chain_decimals: int | None = None


_TOKENS = (
    Asset("USDC", 6, "USD Coin", "token", chain_decimals=6),
    Asset("USDT", 6, "Tether", "token", chain_decimals=6),
    Asset("DAI", 9, "Dai", "token", chain_decimals=18),
    Asset("ETH", 9, "Ether", "token", chain_decimals=18),
)
_declared: dict[str, Asset] = {token.code: token for token in _TOKENS}


@cache
def _iso4217() -> dict[str, Asset]:
    lines = (resources.files("pasys") / "iso4217.tsv").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return {code: Asset(code, int(decimals), name) for code, decimals, name in rows}


def declare(asset: Asset) -> None:
    """Make a token known, beside the built-in ones. Tokens come from pasys.toml and the asset table."""
    assert 0 <= asset.decimals <= LEDGER_DECIMALS_MAX, asset
    _declared[asset.code] = asset


def asset_of(code: str) -> Asset:
    """The asset behind a code. Raises UnknownAsset; codes are upper case, exactly."""
    found = _declared.get(code) or _iso4217().get(code)
    if found is None:
        raise UnknownAsset(asset=code)
    return found


def is_currency(code: str) -> bool:
    """True for a code of ISO 4217."""
    return code in _iso4217()


@dataclass(frozen=True, slots=True)
class Money:
    minor: int
    asset: str

    def __post_init__(self) -> None:
        assert type(self.minor) is int, "minor units are whole"

    def __str__(self) -> str:
        return f"{format_minor(self.minor, self.asset, grouping=True)} {self.asset}"

    def __add__(self, other: Money) -> Money:
        assert self.asset == other.asset, f"{self.asset} + {other.asset}"
        return Money(self.minor + other.minor, self.asset)

    def __neg__(self) -> Money:
        return Money(-self.minor, self.asset)

    def __sub__(self, other: Money) -> Money:
        return self + -other

    def __lt__(self, other: Money) -> bool:
        assert self.asset == other.asset, f"{self.asset} < {other.asset}"
        return self.minor < other.minor

    def __le__(self, other: Money) -> bool:
        return not other < self

    @property
    def decimal(self) -> str:
        """Decimal text in major units: 12.50."""
        return format_minor(self.minor, self.asset)


def format_minor(minor: int, code: str, *, grouping: bool = False) -> str:
    """Decimal text in major units, with all of the asset's decimals: 1250 USD -> 12.50."""
    places = asset_of(code).decimals
    whole, part = divmod(abs(minor), 10**places)
    digits = f"{whole:,}" if grouping else str(whole)
    return f"{'-' if minor < 0 else ''}{digits}{f'.{part:0{places}}' if places else ''}"


def parse(text: str, code: str) -> Money:
    """A positive amount from decimal text in major units.

    Refuses (InvalidAmount) signs, zero, exponents, NaN, separators, and more decimals than the asset has: an amount is
    never rounded.
    """
    asset = asset_of(code)
    example = format_minor(1250 * 10 ** max(asset.decimals - 2, 0), code)

    def refused(reason: str) -> InvalidAmount:
        return InvalidAmount(text=text, reason=reason, decimals=asset.decimals, example=example)

    match = _DECIMAL.fullmatch(text) if text.isascii() else None
    if match is None:
        negative = _DECIMAL.fullmatch(text[1:]) if text.startswith("-") else None
        raise refused("it is negative" if negative else "it is not a plain decimal number")
    whole, fraction = match[1], match[2] or ""
    if len(fraction) > asset.decimals:
        raise refused(f"{code} has {asset.decimals} decimals")
    minor = int(whole) * 10**asset.decimals + int(fraction.ljust(asset.decimals, "0") or "0")
    if minor == 0:
        raise refused("it is zero")
    if minor > MINOR_MAX:
        raise refused("it is too large")
    return Money(minor, code)


def allocate(minor: int, weights: list[int]) -> list[int]:
    """Split a whole amount by weights without losing a unit (largest remainder; ties go to the earlier share)."""
    total = sum(weights)
    assert minor >= 0 and total > 0 and all(weight >= 0 for weight in weights)
    shares = [minor * weight // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(minor * weights[i] % total), i))
    for i in by_remainder[: minor - sum(shares)]:
        shares[i] += 1
    return shares


def from_chain(raw: int, code: str) -> Money:
    """Ledger money from a token's on-chain integer. Raises Dust when it is finer than the ledger keeps."""
    asset = asset_of(code)
    assert asset.chain_decimals is not None, f"{code} is not a token"
    scale = 10 ** (asset.chain_decimals - asset.decimals)
    minor, dust = divmod(raw, scale)
    if dust:
        raise Dust(amount=raw, asset=code, decimals=asset.decimals)
    return Money(minor, code)


def to_chain(money: Money) -> int:
    """The on-chain integer of a token amount."""
    asset = asset_of(money.asset)
    assert asset.chain_decimals is not None, f"{money.asset} is not a token"
    return money.minor * 10 ** (asset.chain_decimals - asset.decimals)
