"""
Signatures by which a webhook knows that a request is ours.

Source: Standard Webhooks 1.0, section "Verifying webhook authenticity".
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from hashlib import sha256
from secrets import token_bytes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SYMMETRIC, PRIVATE, PUBLIC = "whsec_", "whsk_", "whpk_"
"""The prefixes of a secret for HMAC-SHA256, and of the private and the public key of a pair for ed25519."""

SEED_BYTES = 32
"""Bytes of the private key for ed25519 (RFC 8032 section 5.1.5); some programs put the public key behind it."""

_BLOCK_BYTES = 64
"""Bytes of a block of SHA-256; no key is longer."""

Sign = Callable[[bytes, bytes], bytes]
"""Makes the signature of some bytes, which are given in two parts, because to join long ones costs something."""


def signer(secret: str) -> Sign:
    """
    Make the function that signs with a secret, as it is written in its file.

    Raises:
        ValueError: It is no such secret; the sentence, which completes "it is ..., but must ...", shows nothing of it.
    """
    for prefix, make in ((SYMMETRIC, _hmac), (PRIVATE, _ed25519)):
        if secret.startswith(prefix):
            return make(_decoded(secret.removeprefix(prefix)))
    raise ValueError(f"begin with {SYMMETRIC} or {PRIVATE}: component-http secret new makes one")


def signatures(signers: Sequence[Sign], delivery_id: str, timestamp: str, body: bytes) -> bytes:
    """Write the value of the header `webhook-signature`: one signature by each secret."""
    start = f"{delivery_id}.{timestamp}.".encode("ascii")
    return b" ".join([sign(start, body) for sign in signers])


def new_secret(*, asymmetric: bool = False) -> str:
    """Make a secret that nobody else knows."""
    return f"{PRIVATE if asymmetric else SYMMETRIC}{b64encode(token_bytes(SEED_BYTES)).decode('ascii')}"


def public_key(secret: str) -> str:
    """
    Write the public key that belongs to a private one.

    Raises:
        ValueError: The secret is none for ed25519.
    """
    if not secret.startswith(PRIVATE):
        raise ValueError(f"begin with {PRIVATE}, because only such a secret has a public key")
    key = _private_key(_decoded(secret.removeprefix(PRIVATE))).public_key().public_bytes_raw()
    return f"{PUBLIC}{b64encode(key).decode('ascii')}"


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:  # = at the end may be missing because the file is not written yet
        raise ValueError("be whole Base64 behind its prefix") from None


def _hmac(key: bytes) -> Sign:
    if not 24 <= len(key) <= 64:
        raise ValueError(f"hold 24 to 64 bytes behind {SYMMETRIC}")
    # As hmac.digest does it (RFC 2104), but without asking OpenSSL for the hash each time, which costs thrice as much.
    padded = key.ljust(_BLOCK_BYTES, b"\0")
    inner, outer = (sha256(bytes(byte ^ pad for byte in padded)) for pad in (0x36, 0x5C))

    def sign(start: bytes, body: bytes) -> bytes:
        first, second = inner.copy(), outer.copy()
        first.update(start)
        first.update(body)
        second.update(first.digest())
        return b"v1," + b2a_base64(second.digest(), newline=False)

    return sign


def _ed25519(key: bytes) -> Sign:
    private = _private_key(key)
    return lambda start, body: b"v1a," + b64encode(private.sign(start + body))


def _private_key(key: bytes) -> Ed25519PrivateKey:
    # It takes a MiB of memory, which nobody else needs.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if len(key) not in (SEED_BYTES, 2 * SEED_BYTES):
        raise ValueError(f"hold the {SEED_BYTES} bytes of a private key behind {PRIVATE}")
    private = Ed25519PrivateKey.from_private_bytes(key[:SEED_BYTES])
    if key[SEED_BYTES:] not in (b"", private.public_key().public_bytes_raw()):
        raise ValueError("hold a private key, and behind it nothing or the public key that belongs to it")
    return private
