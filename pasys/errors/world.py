"""What the PSPs and the velocity counters answer, or do not."""

from __future__ import annotations

from pasys.errors.base import Broken, Invalid, NotAllowed, Unavailable


class PspUnavailable(Unavailable):
    says = "{psp} did not answer: {reason}"
    fix = "Its outcome is unknown and is being resolved; `pasys doctor` names what is down."


class PspMisconfigured(Invalid):
    says = "{psp}: {reason}"
    fix = "Set STRIPE_API_KEY (and STRIPE_API_BASE for another base address), or start the embedded stack."


class BadSignature(NotAllowed):
    says = "the webhook's signature does not verify: {reason}"
    fix = "Check STRIPE_WEBHOOK_SECRET."


class PspKeyReused(Broken):
    says = "{psp} was asked under {key} before, with other parameters"
    fix = "Compare the attempt (`pasys trace`) with what {psp} has on record, then replay the message."


class AmountNotKept(Broken):
    says = "{psp} says {units} {currency}, which is no whole number of ledger units"
    fix = "Compare with what {psp} has on record; the currency's decimals may differ there."


class VelocityUnavailable(Unavailable):
    says = "the velocity counters did not answer: {reason}"
    fix = "`pasys doctor` names what is down."
