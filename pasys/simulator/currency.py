"""Amounts are whole minor units of a currency that Stripe takes; nothing here is ever a fraction."""

from __future__ import annotations

from typing import Any

from pasys.simulator.fields import integer
from pasys.simulator.refusal import invalid

AMOUNT_MAX = 99_999_999
FEE_PER_MILLE = 29
FEE_FIXED = 30

# Stripe writes these with more decimals than it settles, so an amount, and a fee, is a multiple of so many units:
# three decimals of which the last is 0, or two that are always 00 (https://docs.stripe.com/currencies#special-cases).
WHOLE_UNITS: dict[str, int] = {"bhd": 10, "jod": 10, "kwd": 10, "omr": 10, "tnd": 10, "isk": 100, "ugx": 100}
_NAMES = """
    aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp byn bzd cad cdf chf
    clp cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl htg huf idr
    ils inr isk jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur
    mvr mwk mxn myr mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr
    sek sgd shp sle sos srd std szl thb tjs tnd top try ttd twd tzs uah ugx usd uyu uzs vnd vuv wst xaf xcd xcg
    xof xpf yer zar zmw
"""
CURRENCIES = frozenset(_NAMES.split())


def currency(name: str, raw: Any) -> str:
    if not isinstance(raw, str) or raw.lower() not in CURRENCIES:
        raise invalid(f"Invalid currency: {raw}. Stripe does not support it.", param=name)
    return raw.lower()


def amount(name: str, raw: Any) -> int:
    value = integer(name, raw)
    if value < 1:
        raise invalid("This value must be greater than or equal to 1.", "parameter_invalid_integer", param=name)
    if value > AMOUNT_MAX:
        raise invalid(f"Amount must be no more than {AMOUNT_MAX}.", "amount_too_large", param=name)
    return value


def check_decimals(value: int, code: str, *, param: str) -> None:
    if value % WHOLE_UNITS.get(code, 1):
        message = f"Amounts in {code} must be a multiple of {WHOLE_UNITS[code]}."
        raise invalid(message, "parameter_invalid_integer", param=param)


def fee(value: int, code: str) -> int:
    """2.9 % and 30 minor units, whatever the currency, in units that it settles; half of one rounds up."""
    unit = WHOLE_UNITS.get(code, 1)
    exact = value * FEE_PER_MILLE + FEE_FIXED * 1000
    return (exact + 500 * unit) // (1000 * unit) * unit
