"""The families of errors, and what an error can say of itself: its code, its sentence, its advice."""

from __future__ import annotations

from typing import Any, ClassVar


class PasysError(Exception):
    says: ClassVar[str] = "{reason}"
    fix: ClassVar[str] = ""
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, **facts: Any) -> None:
        self.facts = facts
        super().__init__(self.says.format(**facts))

    @property
    def code(self) -> str:
        """The name other systems see: InsufficientFunds -> insufficient_funds."""
        return error_code(type(self))

    @property
    def advice(self) -> str:
        """What to do, with the facts filled in."""
        return self.fix.format(**self.facts)


def error_code(kind: type[PasysError]) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).lstrip("_")


class Rejected(PasysError):
    exit_code = 6
    http_status = 422


class Invalid(Rejected):
    exit_code = 2


class NotFound(Rejected):
    exit_code = 3
    http_status = 404


class Conflict(Rejected):
    exit_code = 4
    http_status = 409


class NotAllowed(Rejected):
    exit_code = 5
    http_status = 403


class Refused(Rejected):
    exit_code = 6


class Unavailable(PasysError):
    exit_code = 7
    http_status = 503


class TimedOut(Unavailable):
    exit_code = 8
    http_status = 504


class Broken(PasysError):
    exit_code = 1


class Integrity(Broken):
    exit_code = 9
