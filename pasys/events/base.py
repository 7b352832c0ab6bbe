"""What a fact is, how it is declared, and how it goes on the wire and comes back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar, TypeVar

import msgspec

from pasys.errors import InvalidInput, UnreadableEvent

CATALOG: dict[str, type[Event]] = {}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    subject: ClassVar[str]
    version: ClassVar[int]
    final: ClassVar[bool]
    about: ClassVar[str]

    asset: str

    @property
    def entity_id(self) -> str:
        """The id of what the event is about; events of one entity share a lane."""
        return getattr(self, self.about)

    @property
    def correlation_id(self) -> str:
        """The id of what the event's story is about: its transaction or run, else what the event itself is about."""
        return getattr(self, "transaction_id", None) or getattr(self, "run_id", None) or self.entity_id


E = TypeVar("E", bound=Event)


def fact(subject: str, *, about: str, version: int = 1, final: bool = False) -> Callable[[type[E]], type[E]]:
    """Declare a fact, the subject it is announced on, and the field that says whom it is about."""

    def declare(cls: type[E]) -> type[E]:
        assert subject not in CATALOG, f"{subject} is already declared"
        assert about in cls.__struct_fields__, f"{subject} is about {about}, which it does not carry"
        cls.subject, cls.version, cls.final, cls.about = subject, version, final, about
        CATALOG[subject] = cls
        return cls

    return declare


def pattern(subject: str) -> str:
    """A noun, a subject or a pattern as the bus has it, where an asset stands at the end. Raises InvalidInput."""
    tokens = subject.split(".")
    if not all(tokens) or set(subject) & set(" \t\r\n") or ">" in "".join(tokens[:-1]):
        raise InvalidInput(field="subject", reason=f"{subject!r} is not a subject: transaction, refund.*.USD, >")
    if subject in CATALOG:
        return f"{subject}.*"
    return f"{subject}.>" if subject in {known.split(".")[0] for known in CATALOG} else subject


class _Cover(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    subject: str
    version: int
    time: datetime
    correlation_id: str
    causation_id: str | None = None
    trace_id: str | None = None
    actor: str | None = None


class Envelope(_Cover, frozen=True, kw_only=True):
    """What every message carries around its fact.

    `causation_id` is the event that was being handled when this one was announced; `correlation_id` is the entity that
    the whole story is about (a transaction, a run); `trace_id` joins logs and spans of one request.
    """

    data: msgspec.Raw


class _Sent(_Cover, frozen=True, kw_only=True):
    data: Event


class Announcement(msgspec.Struct, frozen=True):
    """An event as it stands in the outbox and goes on the wire: its subject has the asset at the end."""

    event_id: str
    subject: str
    body: bytes


_encode = msgspec.json.Encoder().encode
_envelopes = msgspec.json.Decoder(Envelope)
_decoders: dict[str, msgspec.json.Decoder[Any]] = {}


def encode(
    event: Event,
    *,
    id: str,
    time: datetime,
    correlation_id: str,
    causation_id: str | None = None,
    trace_id: str | None = None,
    actor: str | None = None,
) -> bytes:
    """The message of an event: JSON of its envelope."""
    return _encode(
        _Sent(
            id=id,
            subject=event.subject,
            version=event.version,
            time=time,
            correlation_id=correlation_id,
            causation_id=causation_id,
            trace_id=trace_id,
            actor=actor,
            data=event,
        )
    )


def decode(body: bytes, *, subject: str = "?") -> tuple[Envelope, Event]:
    """Envelope and event of a message. Raises UnreadableEvent for what no version of pasys has written."""
    try:
        envelope = _envelopes.decode(body)
        kind = CATALOG.get(envelope.subject)
        if kind is None:
            raise UnreadableEvent(subject=subject, reason=f"there is no event {envelope.subject}")
        if envelope.version > kind.version:
            raise UnreadableEvent(subject=subject, reason=f"version {envelope.version} is newer than {kind.version}")
        decoder = _decoders.get(envelope.subject)
        if decoder is None:
            decoder = _decoders[envelope.subject] = msgspec.json.Decoder(kind)
        return envelope, decoder.decode(envelope.data)
    except msgspec.MsgspecError as error:
        raise UnreadableEvent(subject=subject, reason=str(error)) from None
