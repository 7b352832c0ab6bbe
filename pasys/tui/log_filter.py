"""A filter of log lines as one types it: `level:warning service:settlement tx_…`. Each word narrows."""

from __future__ import annotations

from dataclasses import dataclass

from pasys.errors import InvalidInput
from pasys.stack.logs import LEVELS


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Lines at least as grave as `level` (None: all), of services whose name begins so, that have all of `words`."""

    level: str | None = None
    service: str = ""
    words: tuple[str, ...] = ()

    def lets(self, service: str, level: str | None, text: str) -> bool:
        grave = self.level is None or (level is not None and LEVELS.index(level) >= LEVELS.index(self.level))
        return grave and service.startswith(self.service) and all(word in text for word in self.words)


def parse(text: str) -> LogFilter:
    """Raises InvalidInput for a level that is none, and for what is said twice or not at all."""
    level, service, words = None, "", []
    for word in text.split():
        name, colon, value = word.partition(":")
        if name not in ("level", "service") or not colon:
            words.append(word)
        elif not value or (level if name == "level" else service):
            raise InvalidInput(field="filter", reason=f"{word!r}: say a {name} once")
        elif name == "service":
            service = value
        elif value not in LEVELS:
            raise InvalidInput(field="filter", reason=f"{value!r} is none of {', '.join(LEVELS)}")
        else:
            level = value
    return LogFilter(level, service, tuple(words))
