"""TLS between a real gateway and its webhook that goes wrong in each way, and is mended while a stanza waits."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.certificates import Authority, by_itself
from tests.integration.exchange import says
from tests.integration.probe import ScriptedServer
from tests.integration.processes import GatewayProcess, ScriptedWebhook, reply

DOMAIN = "bot.localhost"

ATTEMPTS = 3
"""The attempts that count, of which none may be used up here."""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
def test_each_fault_is_told_and_passes(version: ssl.TLSVersion, tmp_path: Path) -> None:
    """
    While certificates are wrong nothing is sent and nothing is lost, and the log says why; once they are right the
    stanza arrives, once, without a restart.
    """
    ours, other = Authority(), Authority()
    shown = tmp_path / "shown.pem"
    clients = tmp_path / "clients.pem"
    clients.write_bytes(ours.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(clients)

    def show(certificate: bytes) -> None:
        shown.write_bytes(certificate)
        context.load_cert_chain(shown)

    show(ours.certified("localhost"))
    with (
        ScriptedServer() as server,
        ScriptedWebhook(lambda request: reply(body="arrived"), tls=context) as webhook,
        GatewayProcess(
            domain=DOMAIN,
            server=server.endpoint,
            secret=server.secret,
            post_url=webhook.url,
            sections={
                "webhook": {"ca_file": "ca.pem", "client_certificate": "own.pem"},
                "delivery": {"max_attempts": ATTEMPTS, "retry_cap": 0.3},
            },
            secrets={
                "ca.pem": ours.pem.decode(),
                "own.pem": ours.certified("gateway.example", expired=True).decode(),
            },
        ) as gateway,
    ):
        stream = server.connected()
        gateway.wait_until_authenticated()
        stream.send(f"<message from='a@localhost/x' to='b@{DOMAIN}' type='chat'><body>hello</body></message>")
        gateway.wait_for_log("refuses the gateway's certificate", times=ATTEMPTS + 2)
        own = gateway.folder / "own.pem"
        own.write_bytes(other.certified("gateway.example"))
        gateway.wait_for_log("unknown ca")
        own.write_text("half")
        gateway.wait_for_log("do not fit each other, or one of them is not in PEM; the content from before is used")
        for certificate, words in (
            (ours.certified("localhost", expired=True), "the certificate of localhost has expired"),
            (ours.certified("localhost", early=True), "the certificate of localhost is not valid yet"),
            (ours.certified("bot.example"), "the certificate of localhost is for another name"),
            (other.certified("localhost"), "is signed by an authority that is not trusted here"),
            (by_itself("localhost"), "is signed by nobody but itself"),
        ):
            show(certificate)
            gateway.wait_for_log(words)
        assert webhook.requests == []
        own.write_bytes(ours.certified("gateway.example"))
        show(ours.certified("localhost"))
        stream.wait_for(lambda element: says(element, "arrived"), "the reply")
        assert len(webhook.requests) == 1
        assert "the certificate in webhook.client_certificate ends in 1 days" in gateway.log()
        gateway.stop()
