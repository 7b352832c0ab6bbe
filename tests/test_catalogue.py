"""What the code says of itself: the page of events, and the key that older systems derive."""

from __future__ import annotations

import hashlib

from pasys.cli import topology
from pasys.domain.transaction import request_key
from pasys.events import CATALOG
from pasys.money import parse
from pasys.service import transaction
from tests.support import open_accounts


def test_the_page_has_every_event_with_its_fields():
    """A subject that the catalogue has, and a field that it carries, stand on the page."""
    page = topology.page()
    for subject, kind in CATALOG.items():
        section = page.partition(f"## {subject} ")[2].partition("\n## ")[0]
        assert section, subject
        for field in kind.__struct_fields__:
            assert f"| `{field}` |" in section, (subject, field)


async def test_a_request_with_a_derived_key_is_replayed(db):
    """The key of a request is the SHA-256 of its parts; sent again, the request gets the first answer."""
    key = request_key(id="order-17", request_timestamp="1763700000", debit="alice", credit="shop", amount="1.00")
    assert key == hashlib.sha256(b"order-171763700000aliceshop1.00").hexdigest()
    async with db.unit() as unit:
        await open_accounts(unit)
    answers = []
    for _ in range(2):
        async with db.unit() as unit:
            draft = transaction.Draft(
                amount=parse("1.00", "USD"), rail="instant", debit="alice", credit="shop", key=key
            )
            answers.append(await transaction.create(unit, draft))
    assert answers[0].transaction_id == answers[1].transaction_id
    assert [answer.replayed for answer in answers] == [False, True]
