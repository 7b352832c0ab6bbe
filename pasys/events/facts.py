"""Many facts of one kind are announced as columns: an object for each would cost more than all that it says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any, cast

from pasys.events.base import Event, encode

_ID, _STORY = " id", " story"  # columns of the envelope; no field is called so
_AS_IT_IS = re.compile(r"[ !#-\[\]-~]*")  # what JSON writes as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """So many facts of one `kind`, which is about its story's entity.

    They agree in what `same` says, the asset among it; `columns` are their other fields, whole numbers or texts.
    """

    kind: type[Event]
    same: Mapping[str, Any]
    columns: Mapping[str, Sequence[str | int]]

    def __len__(self) -> int:
        return len(self.entity_ids)

    def __iter__(self) -> Iterator[Event]:
        for values in zip(*self.columns.values(), strict=True):
            yield self.kind(**self.same, **dict(zip(self.columns, values, strict=True)))

    @property
    def asset(self) -> str:
        return self.same["asset"]

    @property
    def entity_ids(self) -> Sequence[Any]:
        """Which are what their stories are about, too."""
        return self.columns[self.kind.about]

    def encode(self, ids: Sequence[str], *, time: datetime, actor: str) -> list[bytes]:
        """The message of each, as `events.encode` has it: one is encoded, and all are written like it."""
        if not ids:
            return []
        columns = {**self.columns, _ID: ids, _STORY: self.entity_ids}
        texts = [cast("Sequence[str]", column) for column in columns.values() if isinstance(column[0], str)]
        if not all(_AS_IT_IS.fullmatch("".join(column)) for column in texts):
            said = zip(self, ids, self.entity_ids, strict=True)
            return [encode(event, id=id, time=time, correlation_id=story, actor=actor) for event, id, story in said]
        form, names = self._form(columns, time=time, actor=actor)
        rows = zip(*[columns[name] for name in names], strict=True)
        return "\n".join([form % row for row in rows]).encode().split(b"\n")  # in JSON no line ends

    def _form(self, columns: Mapping[str, Sequence[str | int]], *, time: datetime, actor: str) -> tuple[str, list[str]]:
        """A message with a place for each column, and which column comes where."""
        for attempt in count(10**17, len(columns)):
            marks = {name: attempt + at for at, name in enumerate(columns)}
            put: dict[str, Any] = {
                name: str(mark) if isinstance(columns[name][0], str) else mark for name, mark in marks.items()
            }
            id, story = put.pop(_ID), put.pop(_STORY)
            text = encode(self.kind(**self.same, **put), id=id, time=time, correlation_id=story, actor=actor).decode()
            if all(text.count(str(mark)) == 1 for mark in marks.values()):  # else the actor is called like one of them
                names, form = sorted(marks, key=lambda name: text.index(str(marks[name]))), text.replace("%", "%%")
                for mark in marks.values():
                    form = form.replace(str(mark), "%s")
                return form, names
        raise AssertionError("the attempts have no end")
