"""`expand[]` replaces an id by the object it names, along a dotted path and at most four steps deep."""

from __future__ import annotations

from pasys.simulator.refusal import invalid
from pasys.simulator.store import Object
from pasys.simulator.unit import Unit

STEPS_MAX = 4


def expand(unit: Unit, answer: Object, paths: list[str]) -> Object:
    """The answer with every path followed; raises Refusal for a path that leads nowhere."""
    # What is kept in the unit must not change with what is shown.
    shown = {**answer, "data": [dict(item) for item in answer["data"]]} if "data" in answer else dict(answer)
    for path in paths:
        steps = path.split(".")
        if len(steps) > STEPS_MAX:
            raise invalid(f"You cannot expand more than {STEPS_MAX} levels of a property: {path}", param="expand")
        if answer.get("object") in ("list", "search_result"):
            if steps[0] != "data":
                raise invalid(f"This property cannot be expanded ({path}); lists expand data.*.", param="expand")
            for item in shown["data"]:
                _follow(unit, item, steps[1:], path)
        else:
            _follow(unit, shown, steps, path)
    return shown


def _follow(unit: Unit, place: Object, steps: list[str], path: str) -> None:
    for step in steps:
        if step not in place:
            raise invalid(f"This property cannot be expanded ({path}).", param="expand")
        value = place[step]
        if value is None:
            return
        if isinstance(value, str):
            found = unit.find_any(value)
            if found is None:
                raise invalid(f"This property cannot be expanded ({path}).", param="expand")
            value = dict(found)
        elif isinstance(value, dict):
            value = dict(value)
        else:
            raise invalid(f"This property cannot be expanded ({path}).", param="expand")
        place[step] = value
        place = value
