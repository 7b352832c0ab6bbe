"""A payment service provider that speaks Stripe's API, keeps its books in one SQLite file and fails on demand.

It is a program of its own (`python -m pasys.simulator`): it imports nothing else of pasys, and nothing imports it.

    __main__.py      the command line
    app.py           one call from the socket to the answer: API key, route, faults before and after
    execution.py     the call itself: checked, run once, written, journalled; idempotency.py replays it
    operations.py    which function answers which method and path
    payment_intents, charges, refunds, customers, payment_methods, cards, balance, payouts, disputes,
    events, webhook_endpoints       what Stripe calls by these names, one file each
    unit.py          what one call has read and written, kept apart until it has succeeded
    store.py         the SQLite file and its group commit; schema.py says which tables
    listing.py       pages, cursors, filters and search; expansion.py follows ids into objects
    form.py, fields.py, currency.py, refusal.py     what a caller may send, and how it is refused
    delivery.py      signed webhooks, retried until taken; deferred.py settles refunds that are pending
    faults.py        faults on demand; journal.py counts the calls; control.py is the door to both
"""
