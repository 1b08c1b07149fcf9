"""Signatures of the gateway, checked by what other languages bring along."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from component_http.signing import new_secret, public_key, signatures, signer
from tests.integration.counterparts import need

BODY = b'{"body":"h\xc3\xa9llo"}'

NODE = """
const crypto = require("node:crypto");
const { content, signature, key } = JSON.parse(require("node:fs").readFileSync(0));
// What is in front of the 32 bytes of a public key for ed25519 in its DER (RFC 8410).
const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), Buffer.from(key, "base64")]);
const publicKey = crypto.createPublicKey({ key: der, format: "der", type: "spki" });
console.log(crypto.verify(null, Buffer.from(content), publicKey, Buffer.from(signature, "base64")));
"""

PHP = """
$in = json_decode(file_get_contents('php://stdin'));
$fits = sodium_crypto_sign_verify_detached(base64_decode($in->signature), $in->content, base64_decode($in->key));
echo $fits ? 'true' : 'false';
"""


@pytest.mark.parametrize("language", ["node", "php"])
def test_public_key(language: str) -> None:
    """
    With the public key alone Node and PHP accept a signature of v1a, and refuse it for anything else.
    """
    command = [need("node", "nodejs"), "-e", NODE] if language == "node" else [need("php", "php-cli"), "-r", PHP]
    secret, timestamp = new_secret(asymmetric=True), str(int(time.time()))
    version, _, signature = signatures([signer(secret)], "d1", timestamp, BODY).decode().partition(",")
    assert version == "v1a"
    for body, expected in ((BODY, "true"), (BODY + b" ", "false")):
        given = {
            "content": f"d1.{timestamp}.{body.decode()}",
            "signature": signature,
            "key": public_key(secret).removeprefix("whpk_"),
        }
        ended = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=60)
        assert ended.stdout.strip() == expected, ended.stderr
