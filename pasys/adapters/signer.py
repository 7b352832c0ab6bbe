"""The key that signs checkpoints: Ed25519, made at its first use, in a file that only its owner reads.

`signing_key_file` names another file: an operator's own key, in PEM (PKCS 8), kept where the database cannot reach it.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pasys.config import Settings
from pasys.domain.ledger_checkpoint import key_id
from pasys.errors import SigningKeyUnusable

FILE = "ledger_signing_key.pem"


class Signer:
    """Signs words. `public_key` are the 32 bytes that everybody may know."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)
        self.key_id = key_id(self.public_key)

    def sign(self, words: bytes) -> bytes:
        return self._key.sign(words)

    def signed(self, words: bytes, signature: bytes) -> bool:
        """True where this key has signed these words."""
        return signed(self.public_key, words, signature)


def open_signer(settings: Settings) -> Signer:
    """The key of this home, or the operator's own. Raises SigningKeyUnusable."""
    named = settings.signing_key_file
    path = Path(named) if named else settings.home_path / "secrets" / FILE
    if not named and not path.exists():
        _make(path)
    try:
        key = form.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise SigningKeyUnusable(path=str(path), reason=str(error)) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyUnusable(path=str(path), reason="it is no Ed25519 key")
    return Signer(key)


def signed(public_key: bytes, words: bytes, signature: bytes) -> bool:
    """True where the signature is of these words and this key."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, words)
    except (InvalidSignature, ValueError):
        return False
    return True


def _make(path: Path) -> None:
    """A new key: whole or not there, and the first of two that make one at the same time counts."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(scratch, path)
    except FileExistsError:
        pass
    finally:
        scratch.unlink()
