"""Who published an artifact: an HMAC-SHA256 of its manifest, in a file beside it.

The manifest names every file with its digest, so its signature covers them all. Whoever can write to
the store but has not the key cannot bring a model of his own to be served. Weights that are built on
the machine are bound to the manifest by their recipe, and otherwise trusted like the machine itself.
"""

from __future__ import annotations

import hmac
from pathlib import Path

from app.artifacts.manifest import MANIFEST, write_atomically
from app.errors import ManifestInvalid

SIGNATURE = "manifest.hmac"
_LEAST = 16
"""Bytes of a key."""


def read_signing_key(path: Path) -> bytes:
    """The key in a file, without white space around it. Raises :class:`ManifestInvalid`."""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ManifestInvalid(f"the signing key cannot be read: {error.strerror}") from error
    if len(key) < _LEAST:
        raise ManifestInvalid(f"the signing key must have at least {_LEAST} bytes")
    return key


def sign(directory: Path, key: bytes) -> None:
    """Sign the manifest of an artifact directory."""
    write_atomically(directory / SIGNATURE, _signature(directory, key) + b"\n")


def verify_signature(directory: Path, key: bytes) -> None:
    """Raises :class:`ManifestInvalid` unless the manifest was signed with ``key``."""
    label = f"{directory.parent.name}/{directory.name}"
    try:
        given = (directory / SIGNATURE).read_bytes().strip()
        right = _signature(directory, key)
    except OSError as error:
        raise ManifestInvalid(f"{label} is not signed, and this service asks for it") from error
    if not hmac.compare_digest(given, right):
        raise ManifestInvalid(f"{label} was not signed with this service's key")


def _signature(directory: Path, key: bytes) -> bytes:
    return hmac.digest(key, (directory / MANIFEST).read_bytes(), "sha256").hex().encode()
