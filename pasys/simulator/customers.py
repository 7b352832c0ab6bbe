"""A customer is a name to attach cards and payments to; a deleted one stays known as deleted."""

from __future__ import annotations

from pasys.simulator import listing
from pasys.simulator.fields import EXPAND, PAGE, Check, integer, mapping, merged, metadata, text
from pasys.simulator.operations import Call, Operation
from pasys.simulator.refusal import resource_missing
from pasys.simulator.store import Object
from pasys.simulator.unit import Unit

_FIELDS: dict[str, Check] = {
    **EXPAND,
    "address": mapping,
    "description": text,
    "email": text,
    "invoice_settings": mapping,
    "metadata": metadata,
    "name": text,
    "phone": text,
    "shipping": mapping,
}


def existing(unit: Unit, customer_id: str) -> Object:
    """The customer named in a parameter; raises Refusal for an unknown or a deleted one."""
    found = unit.load("customer", customer_id, param="customer")
    if found.get("deleted"):
        raise resource_missing("customer", customer_id, param="customer", status=400)
    return found


def _create(unit: Unit, call: Call) -> Object:
    asked = call.asked
    made = unit.insert(
        "customer",
        address=asked.get("address"),
        balance=0,
        currency=None,
        default_source=None,
        delinquent=False,
        description=asked.get("description"),
        email=asked.get("email"),
        invoice_settings=asked.get("invoice_settings") or {"default_payment_method": None},
        metadata=merged({}, asked.get("metadata")),
        name=asked.get("name"),
        phone=asked.get("phone"),
        shipping=asked.get("shipping"),
    )
    unit.announce("customer.created", made)
    return made


def _retrieve(unit: Unit, call: Call) -> Object:
    return unit.load("customer", call.id)


def _update(unit: Unit, call: Call) -> Object:
    found = _retrieve(unit, call)
    if found.get("deleted"):
        raise resource_missing("customer", call.id)
    asked = {name: value for name, value in call.asked.items() if name not in ("expand", "metadata")}
    found.update(asked, metadata=merged(found["metadata"], call.asked.get("metadata")))
    unit.change(found, metadata=True)
    unit.announce("customer.updated", found)
    return found


def _delete(unit: Unit, call: Call) -> Object:
    found = _retrieve(unit, call)
    gone = {"id": found["id"], "object": "customer", "deleted": True}
    if not found.get("deleted"):
        unit.announce("customer.deleted", found)
        found.clear()
        found.update(gone, metadata={})
        unit.change(found, metadata=True)
    return gone


def _list(unit: Unit, call: Call) -> Object:
    return listing.page(unit.store, "customer", call.asked, call.path, _not_deleted)


def _not_deleted(item: Object) -> list[Object]:
    return [] if item.get("deleted") else [item]


def _search(unit: Unit, call: Call) -> Object:
    return listing.search(unit.store, "customer", call.asked, call.path)


OPERATIONS = [
    Operation("customers.create", "POST", "customers", _create, _FIELDS),
    Operation("customers.list", "GET", "customers", _list, {**PAGE, "email": text}),
    Operation(
        "customers.search",
        "GET",
        "customers/search",
        _search,
        {**EXPAND, "limit": integer, "page": text, "query": text},
        ("query",),
    ),
    Operation("customers.retrieve", "GET", "customers/:id", _retrieve, EXPAND),
    Operation("customers.update", "POST", "customers/:id", _update, _FIELDS),
    Operation("customers.delete", "DELETE", "customers/:id", _delete, {}),
]
