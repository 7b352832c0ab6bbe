"""Proofs and checkpoints as files: written whole or not at all, and read with a clear word about what is wrong."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pasys.cli.console import ask
from pasys.errors import InvalidInput

if TYPE_CHECKING:
    from pasys.db import Unit
    from pasys.domain.ledger_proof import Checked, Header
    from pasys.service.ledger_verify import Progress

GZIP = b"\x1f\x8b"


def export(path: Path, *, asset: str, first: int, last: int | None, progress: Progress | None) -> Header:
    """Write a proof beside its final place, and move it there when it is whole."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with scratch.open("xb") as file:

            async def question(unit: Unit) -> Any:
                from pasys.adapters.signer import open_signer
                from pasys.service import ledger_proof

                return await ledger_proof.export(
                    unit,
                    open_signer(unit.settings),
                    file.write,
                    asset=asset,
                    first_seq=first,
                    last_seq=last,
                    progress=progress,
                )

            header = ask(question)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        raise InvalidInput(field="proof", reason=f"{path}: {error.strerror}") from None
    finally:
        scratch.unlink(missing_ok=True)
    return header


def check(path: Path, key: str | None) -> Checked:
    """Check a proof, or an archive, with the key that its reader trusts, or else with the file's own."""
    from pasys.adapters.signer import signed
    from pasys.domain import ledger_archive, ledger_proof

    try:
        trusted = bytes.fromhex(key) if key is not None else None
    except ValueError:
        raise InvalidInput(field="key", reason=f"{key!r} is not a public key in hexadecimal") from None
    try:
        with path.open("rb") as file:
            if file.peek(2)[:2] != GZIP:
                return ledger_proof.check(file.read, signed, public_key=trusted)
            with gzip.GzipFile(fileobj=file) as packed:
                return ledger_archive.check(_whole(packed), signed, public_key=trusted)
    except OSError as error:
        raise InvalidInput(field="proof", reason=f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InvalidInput(field="proof", reason=f"{path} is no proof: {error}") from None


def _whole(packed: gzip.GzipFile) -> Callable[[int], bytes]:
    """What reads a compressed file; damage to the compression is damage to what is in it."""

    def read(size: int) -> bytes:
        try:
            return packed.read(size)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(str(error)) from None

    return read


def read_checkpoints(path: Path) -> dict[str, dict[int, bytes]]:
    """The hashes that a file of checkpoints knows, by asset and seq: whoever kept it vouches for it."""
    from pasys.domain.ledger_checkpoint import Checkpoint

    try:
        said = msgspec.json.decode(path.read_bytes())
        rows = said["checkpoints"] if isinstance(said, dict) else said
        found = msgspec.convert(rows, list[Checkpoint])
        known: dict[str, dict[int, bytes]] = {}
        for one in found:
            known.setdefault(one.asset, {})[one.seq] = bytes.fromhex(one.hash)
    except OSError as error:
        raise InvalidInput(field="checkpoint", reason=f"{path}: {error.strerror}") from None
    except (msgspec.MsgspecError, KeyError, ValueError) as error:
        raise InvalidInput(field="checkpoint", reason=f"{path} has no checkpoints: {error}") from None
    return known
