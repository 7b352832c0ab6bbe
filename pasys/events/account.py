"""What becomes true of an account."""

from __future__ import annotations

from pasys.events.base import Event, fact


@fact("account.opened", about="account_id", final=True)
class AccountOpened(Event, frozen=True, kw_only=True):
    """The account exists and can be paid into."""

    account_id: str
    name: str
    type: str


@fact("account.changed", about="account_id", final=True)
class AccountChanged(Event, frozen=True, kw_only=True):
    """The account's status is now this one, for every new transfer."""

    account_id: str
    name: str
    status: str
