"""API keys: how one is made, kept and recognised. A key is seen once, when it is made; kept is its hash.

A key is 256 random bits, so nobody can guess it from its hash, and one round of SHA-256 is right: the
slow hashes made for passwords (bcrypt, argon2) protect secrets that people choose, and would cost every
request the time of a classification.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

PREFIX = "shop_"
"""Lets secret scanners and people tell what a leaked string is."""

_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
_LINE = re.compile(rf"(?P<name>{_NAME})\s+(?P<scopes>[a-z,]+)\s+sha256:(?P<digest>[0-9a-f]{{64}})")


class Scope(Enum):
    """What a key opens."""

    CLASSIFY = "classify"
    FEEDBACK = "feedback"
    METRICS = "metrics"
    ADMIN = "admin"


class BadKeyList(ValueError):
    """A line that is no key. The message names the line's number, never what stands in it."""


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a key list. ``name`` is what logs and metrics show; ``digest`` is SHA-256."""

    name: str
    scopes: frozenset[Scope]
    digest: bytes

    @property
    def line(self) -> str:
        """As :func:`read_keys` reads it."""
        scopes = ",".join(scope.value for scope in Scope if scope in self.scopes)
        return f"{self.name} {scopes} sha256:{self.digest.hex()}"


def new_key(name: str, scopes: Iterable[Scope]) -> tuple[str, Key]:
    """A fresh secret, to be shown once, and its entry. Raises :class:`BadKeyList` for a bad name."""
    secret = PREFIX + secrets.token_urlsafe(32)
    if not re.fullmatch(_NAME, name):
        raise BadKeyList("a name is small letters, digits, '.', '_' and '-', at most 64")
    return secret, Key(name, frozenset(scopes), _digest(secret.encode()))


def read_keys(text: str) -> tuple[Key, ...]:
    """Keys from lines of ``name scope[,scope] sha256:hex``; ``;`` ends a line too, ``#`` is a remark.

    Several keys may share a name: that is how a key is replaced without a gap. Raises
    :class:`BadKeyList`.
    """
    keys: list[Key] = []
    for number, line in enumerate(re.split(r"[\n;]", text), 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        found = _LINE.fullmatch(entry)
        if found is None:
            raise BadKeyList(f"line {number} is not: name scope[,scope] sha256:<64 hex digits>")
        try:
            scopes = scopes_of(found["scopes"])
        except BadKeyList as error:
            raise BadKeyList(f"line {number}: {error}") from None
        keys.append(Key(found["name"], scopes, bytes.fromhex(found["digest"])))
    if len({key.digest for key in keys}) < len(keys):
        raise BadKeyList("one key stands on two lines")
    return tuple(keys)


def find_key(keys: Iterable[Key], secret: bytes) -> Key | None:
    """The entry of a presented secret. Takes the same time whichever matches, or none."""
    digest = _digest(secret)
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def scopes_of(names: str) -> frozenset[Scope]:
    """From names with commas between. Raises :class:`BadKeyList`."""
    known = {scope.value: scope for scope in Scope}
    try:
        return frozenset(known[name.strip()] for name in names.split(","))
    except KeyError:
        raise BadKeyList(f"scopes are {', '.join(known)}") from None


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
