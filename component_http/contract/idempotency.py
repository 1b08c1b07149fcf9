"""The answers to requests with an idempotency key, so that the same request again gets the same answer."""

from __future__ import annotations

from attrs import frozen

LIFETIME = 86_400.0
"""Seconds for which it is remembered; who tries again does so within a day."""


@frozen
class IdempotencyRecord:
    """
    One answer that is remembered.

    Attributes:
        owner: The owner of the key; the same key of another owner is another one.
        key: The key that the client chose.
        fingerprint: Tells the request from another one with the same key.
        body: The answer's body, UTF-8.
        numbers: The numbers of the stanzas that were pushed for it.

    Source: draft-ietf-httpapi-idempotency-key-header-07, section 2.
    """

    owner: str
    key: str
    fingerprint: str
    body: bytes
    numbers: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that it takes, roughly."""
        return len(self.owner) + len(self.key) + len(self.fingerprint) + len(self.body) + 8 * len(self.numbers)
