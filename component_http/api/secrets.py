"""Looks things up by their secrets."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar


class _HasSecret(Protocol):
    @property
    def secret(self) -> str: ...  # pragma: no cover


T = TypeVar("T", bound=_HasSecret)


class BySecret(Generic[T]):
    """
    Finds one of some things by its secret, in a time that tells nothing about the secrets.

    Args:
        things: The things, each with a `secret` of its own.
    """

    def __init__(self, things: Iterable[T]) -> None:
        self._things = [(_digest(thing.secret), thing) for thing in things]

    def find(self, secret: str) -> T | None:
        """Return the thing with this secret; None if there is none."""
        digest = _digest(secret)
        # Compare with all of them, as digests of one length.
        found = [thing for known, thing in self._things if hmac.compare_digest(known, digest)]
        return found[-1] if found else None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
