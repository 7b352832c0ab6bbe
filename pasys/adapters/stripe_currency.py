"""What Stripe takes and how it counts: a list of currencies with decimals of its own, against the ledger's ISO 4217.

Source: https://docs.stripe.com/currencies ("Presentment currencies", "Zero-decimal currencies", "Three-decimal
currencies", "Special cases", "Minimum and maximum charge amounts").

    MGA        no decimals at Stripe, two in ISO 4217: whole ariary only
    ISK, UGX   no decimals in ISO 4217; Stripe still writes two, which are always 00
    HUF, TWD   two decimals in charges; only their payouts are whole, which is no business of ours
    BHD …      three decimals, of which the last is always 0, in charges and in refunds
"""

from __future__ import annotations

from pasys.errors import AmountNotKept, AmountNotSendable
from pasys.money import Money, asset_of

UNITS_MAX = 99_999_999  # eight digits

_ZERO_DECIMALS = "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF"
ZERO_DECIMALS = frozenset(_ZERO_DECIMALS.split())
THREE_DECIMALS = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
# Written with two decimals that are always 00.
WHOLE_WITH_TWO_DECIMALS = frozenset({"ISK", "UGX"})
_TWO_DECIMALS = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BWP BYN BZD CAD CDF CHF CNY COP CRC CVE
    CZK DKK DOP DZD EGP ETB EUR FJD FKP GBP GEL GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR JMD KES KGS KHR KYD KZT LAK
    LBP LKR LRD LSL MAD MDL MKD MMK MNT MOP MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR
    RON RSD RUB SAR SBD SCR SEK SGD SHP SLE SOS SRD SZL THB TJS TOP TRY TTD TWD TZS UAH USD UYU UZS WST XCD XCG YER ZAR
    ZMW
"""
CURRENCIES = ZERO_DECIMALS | THREE_DECIMALS | WHOLE_WITH_TWO_DECIMALS | frozenset(_TWO_DECIMALS.split())


def decimals_of(code: str) -> int:
    """How many decimals Stripe writes."""
    return 0 if code in ZERO_DECIMALS else 3 if code in THREE_DECIMALS else 2


def to_stripe(amount: Money) -> int:
    """The integer that Stripe is sent, exactly. Raises AmountNotSendable."""
    code = amount.asset
    if code not in CURRENCIES:
        raise _refused(amount, f"it takes no {code}")
    if amount.minor < 1:
        raise _refused(amount, "it is not positive")
    shift = decimals_of(code) - asset_of(code).decimals
    units, rest = (amount.minor * 10**shift, 0) if shift >= 0 else divmod(amount.minor, 10**-shift)
    if rest:
        raise _refused(amount, f"it takes whole {code} only")
    if code in THREE_DECIMALS and units % 10:
        raise _refused(amount, f"the last of the three decimals of {code} has to be 0")
    if units > UNITS_MAX:
        raise _refused(amount, f"it takes at most {len(str(UNITS_MAX))} digits")
    return units


def from_stripe(units: int, currency: str) -> Money:
    """Ledger money of what Stripe says, exactly, with its sign. Raises AmountNotKept."""
    code = currency.upper()
    if code not in CURRENCIES:
        raise AmountNotKept(psp="stripe", units=units, currency=currency)
    shift = asset_of(code).decimals - decimals_of(code)
    minor, rest = (units * 10**shift, 0) if shift >= 0 else divmod(units, 10**-shift)
    if rest:
        raise AmountNotKept(psp="stripe", units=units, currency=currency)
    return Money(minor, code)


def _refused(amount: Money, reason: str) -> AmountNotSendable:
    return AmountNotSendable(psp="stripe", amount=amount, reason=reason)
