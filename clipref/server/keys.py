"""API keys: read from a file, compared in constant time, never shown.

A request's key is in its query (`api_key`), in its body, or in `Authorization: Bearer`; the first of these that is one
counts. Clients that have none send null or "None".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..files import read_bytes
from .refusals import Refusal

MAX_FILE = 2**20


class Keys:
    """The keys that are accepted; without any, every request is."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    @classmethod
    def from_file(cls, path: Path) -> Keys:
        """One key a line; empty lines and those that begin with # are none. Raises InputError."""
        try:
            lines = read_bytes(path, MAX_FILE).decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--api-key-file {path} can't be read: {error}.") from error
        keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not keys:
            raise InputError(f"--api-key-file {path} has no key; expected one a line.")
        return cls(keys)

    def check(self, *given: object) -> None:
        """Raise Refusal unless the first of these that is a key is right."""
        if not self._digests:
            return
        key = next((key for key in given if is_key(key)), None)
        if key is None:
            raise Refusal(401, "No API key: give it as api_key in the query or the body, or as Authorization: Bearer.")
        found = _digest(str(key))
        # All are compared, so that the time doesn't tell which one was near.
        if sum([hmac.compare_digest(found, digest) for digest in self._digests]) == 0:
            raise Refusal(401, "The API key is not one of this server's.")


def is_key(value: object) -> bool:
    """Whether a client meant this as a key."""
    return isinstance(value, str) and value not in ("", "None", "null")


def bearer(header: str | None) -> str | None:
    """The key of an Authorization header."""
    scheme, _, key = (header or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
