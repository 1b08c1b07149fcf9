"""Requests that are signed, so that a webhook knows whose they are."""

from __future__ import annotations

import base64
import json
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from twisted.trial.unittest import SynchronousTestCase

from component_http.signing import new_secret, public_key, signatures, signer

BODY = b'{"body":"h\xc3\xa9llo"}'


class SigningTests(SynchronousTestCase):
    """Signatures, checked by programs that are not ours."""

    def signed(self, *secrets: str, body: bytes = BODY) -> dict[str, str]:
        """The headers of a request."""
        timestamp = str(int(time.time()))
        return {
            "webhook-id": "d1",
            "webhook-timestamp": timestamp,
            "webhook-signature": signatures(list(map(signer, secrets)), "d1", timestamp, body).decode(),
        }

    def test_the_official_library(self) -> None:
        """
        The library of Standard Webhooks accepts what one of several secrets has signed, and nothing else.
        """
        secret, other = new_secret(), new_secret()
        headers = self.signed(new_secret(asymmetric=True), other, secret)
        self.assertEqual(json.loads(BODY), Webhook(secret).verify(BODY, headers))
        self.assertEqual(json.loads(BODY), Webhook(other).verify(BODY, headers))
        for wrong, body in ((new_secret(), BODY), (secret, BODY + b" ")):
            with self.assertRaises(WebhookVerificationError):
                Webhook(wrong).verify(body, headers)

    def test_ed25519(self) -> None:
        """
        The public key is all that is needed to check a signature of v1a.
        """
        secret = new_secret(asymmetric=True)
        headers = self.signed(secret)
        version, _, signature = headers["webhook-signature"].partition(",")
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key(secret).removeprefix("whpk_")))
        content = f"d1.{headers['webhook-timestamp']}.".encode() + BODY
        key.verify(base64.b64decode(signature), content)
        self.assertEqual("v1a", version)
        with self.assertRaises(InvalidSignature):
            key.verify(base64.b64decode(signature), content + b" ")

    def test_a_pair_of_keys(self) -> None:
        """
        A private key may have its public key behind it, as libsodium writes it, but no other one.
        """
        secret = new_secret(asymmetric=True)
        seed = base64.b64decode(secret.removeprefix("whsk_"))
        public = base64.b64decode(public_key(secret).removeprefix("whpk_"))
        pair = f"whsk_{base64.b64encode(seed + public).decode()}"
        self.assertEqual(public_key(secret), public_key(pair))
        self.assertEqual(signer(secret)(b"1.", BODY), signer(pair)(b"1.", BODY))
        with self.assertRaisesRegex(ValueError, "belongs to it"):
            signer(f"whsk_{base64.b64encode(seed + bytes(32)).decode()}")

    def test_no_secrets(self) -> None:
        """
        Something else is refused with a sentence that shows nothing of it.
        """
        for text, problem in (
            ("hunter2", "begin with whsec_ or whsk_"),
            ("whpk_aHVudGVyMg==", "begin with whsec_ or whsk_"),
            ("whsec_hunter2!", "be whole Base64"),
            ("whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg", "be whole Base64"),
            ("whsec_aHVudGVyMg==", "hold 24 to 64 bytes"),
            ("whsk_aHVudGVyMg==", "hold the 32 bytes"),
        ):
            error = self.assertRaises(ValueError, signer, text)
            self.assertIn(problem, str(error))
            self.assertNotIn("unter2", str(error))
        self.assertIn("has a public key", str(self.assertRaises(ValueError, public_key, new_secret())))
