"""Amounts are whole minor units of a currency that Stripe takes; nothing here is ever a fraction."""

from __future__ import annotations

from typing import Any

from pasys.simulator.fields import integer
from pasys.simulator.refusal import invalid

AMOUNT_MAX = 99_999_999
FEE_PER_MILLE = 29
FEE_FIXED = 30

# Stripe writes these with three decimals but settles two, so an amount has to be a multiple of ten.
THREE_DECIMALS = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})
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
    if code in THREE_DECIMALS and value % 10:
        message = f"Amounts in {code} have three decimals and must be a multiple of 10."
        raise invalid(message, "parameter_invalid_integer", param=param)


def fee(value: int) -> int:
    """2.9 % and 30 minor units, whatever the currency; half a unit of the percentage rounds up."""
    return (value * FEE_PER_MILLE + 500) // 1000 + FEE_FIXED
